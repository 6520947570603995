"""Finds host-side floors: times below which a kernel was never measured, because its launch took the host that long.

Such a floor is a property of how it was measured (an eager launch path, timed with the kernel), not of the GPU. It is
kept apart from the physics: a row at its floor says only that the kernel itself is not slower, and inside a CUDA graph
the floor is gone.
"""

from __future__ import annotations

import numpy as np

from calibration.constants import Rows

LEAST = 8e-6
"""Seconds. Kernels that quantise and multiply need up to so long for nothing; a floor is above."""
SURE = 30e-6
"""Seconds. No launch of a few kernels on a GPU takes so long; where all rows do, the host does."""
BLOCK = 400e-6
"""Seconds. No layer's attention of a few dozen launches takes so long for next to no work."""
FLAT = 1.15
"""By how much times may rise where the ideal time rises from next to nothing to a fifth of them. A latency that is
added to the work lets them rise by 1.3 or more."""
SCATTER = 1.25
"""Rows up to so far above a floor count as lying at it."""
FEWEST = 20


def detect_floor(rows: Rows, modelled: np.ndarray, *, single: bool = True) -> float:
    """The floor in seconds of these rows, 0 if they have none.

    `modelled` are seconds that the kernels need at the least, such as the roof of the model: how it grows is compared
    with how the times grow. `single` : one kernel was timed and not a block of several, which may take long by itself.
    """
    if len(rows) < FEWEST:
        return 0.0
    lowest = float(np.quantile(rows.seconds, 0.02))
    if lowest < LEAST:
        return 0.0
    idle = rows.seconds[modelled < 0.05 * lowest]
    some = rows.seconds[(modelled > 0.1 * lowest) & (modelled < 0.3 * lowest)]
    if len(idle) < FEWEST:
        return 0.0
    level = float(np.median(idle))
    if lowest > (SURE if single else BLOCK):
        return level
    return level if len(some) >= FEWEST and np.median(some) < FLAT * level else 0.0
