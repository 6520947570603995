"""Board power, from what a kernel does to the parts of the GPU.

    P = idle + (TDP - idle) x min(1, ACTIVE + COMPUTE u_c + MEMORY u_m + LINK u_l)   while a kernel runs, idle otherwise

u_c, u_m, u_l are the fractions of the dense peak, of the HBM bandwidth and of the link that the operator uses; the
minimum is the board's power limit. The fractions are rounded medians of measured B200 attention kernels longer than
200 us (NVIDIA AIConfigurator 0.12.0, Apache-2.0: about 740 W of 1,000 W for decode at 0.87 of the bandwidth, 850 to
900 W for prefill at half of the peak); that they hold on other GPUs, and the link's share, are assumptions. A limit
does not slow the clock here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwspecs.gpu import Gpu

ACTIVE = 0.3
COMPUTE = 1.2
MEMORY = 0.45
LINK = 0.1


def busy_power(gpu: Gpu, compute: Any, memory: Any, link: Any) -> Any:
    """Watts of one GPU while a kernel runs that uses these fractions of its peaks."""
    activity = ACTIVE + COMPUTE * np.asarray(compute) + MEMORY * np.asarray(memory) + LINK * np.asarray(link)
    return gpu.power.idle + (gpu.power.tdp - gpu.power.idle) * np.minimum(1.0, activity)
