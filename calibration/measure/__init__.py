"""Measuring a GPU with the kernels of `calibration.kernels`: a plan of tasks in, tables of CSV out.

`task` is what is measured and the columns of the tables; `session` supervises: it starts one `worker`, which has the
GPU, and a few more that compile ahead of it. Nothing but `worker` and what it calls imports torch.
"""
