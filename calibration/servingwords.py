"""The texts of docs/serving.md, and the causes of its weakest groups. `serving_page` has the numbers."""

HEAD = """\
# Validation of deployments

*Made by `make serving`; do not edit.*

How far simulated deployments are from measured ones: {rows} servings of one engine instance under load on {gpus}, of
which {predicted} are predicted. Each row is a closed loop of users, replayed request by request through the simulator
([how](serving-tables.md)); `kinesim validate serving TABLE` does it for any table.

An error is |predicted / measured - 1| of the mean TPOT or TTFT, and counts as 100 % at most. The bias is the median of
predicted / measured - 1: above 0 the prediction is too slow. The planning loss is the share of the best attainable
tokens/s/GPU that somebody misses who chooses deployments by the predictions.
"""

SPLITS = """\
## What has not been seen

The columns *left out* say how far predictions carry: the host's constants are fitted again without the deployment
(model, engine, GPU, precision and parallel layout), the model or the GPU of a row, and the row is simulated with them.
A parameter set keeps the kinds of constants that it has, from 0 to 3 times as large as shipped. Where fewer than
{least} of its rows are left (rows *borrowed* below), the rows of its engine's other sets join in, or of all engines:
then the engine's version as such is unseen, besides the model or the GPU. In the last split the kernels' corrections
are those of another GPU too (B200 from H200, H200 and H100 from each other), as for a GPU without measured kernels.
"""

FITTED = """\
## What is fitted, and what is not

Fitted to these measurements are the constants of the host in the engines' parameter sets (`workloads/engines/`). The
table has them as shipped, and as all rows of this table have them, with the simulation taken as linear around the
shipped ones.
"""

KERNELS = """\
How unevenly experts are hit is also a constant taken from deployments, one for routers with a balancing bias and one
for the others (`simulator/routing.py`). Everything else comes from elsewhere: kernels' times from measured kernels
([validation](validation.md)), the schedulers' rules, limits, CUDA graphs and memory rules from the engines' public
sources, the settings of public runs from their recipes (`calibration/servingrecipes.yaml`).
"""

WORST = """\
## The weakest deployments

Of those with at least {least} rows, by the error of TPOT plus a third of that of TTFT.
"""

INTERVALS = """\
## Intervals

The 80 % interval of a mean TPOT follows from the kernels' held-out errors and an assumed factor of 1.5 for the host and
for what no table holds; nothing in it knows these measurements. So it should hold 80 % of them if kernels and host were
all there is:
"""

ODD = """\
## Odd measurements

Rows whose repeats differ, or whose TTFT falls when users are added. They stay in all figures above; TPOT and TTFT are
their own errors.
"""

CAUSES: dict[str, str] = {}
"""How a deployment's name starts -> why it is predicted so badly, as far as that was looked into."""
