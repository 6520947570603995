"""Accuracy against cost, and the best strategy for a cost: `kinesim law frontier` and `kinesim law allocate`.

From `question` (what is asked) over `panels` (priced) to `frontier`, `envelopes` and `allocate`; the rest shows them.
"""
