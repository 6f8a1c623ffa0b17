"""Grids: decreasing noise levels that end in 0.

`n` counts the levels above 0, and so the steps of a sampler. Options that no grid can have are refused by name; what
is traced under `jit` passes, and every number but `n` may be traced and differentiated.
"""

from diffax.samplers.grids.grid import Sigmas, check_sigmas
from diffax.samplers.grids.levels import ays_sd, ays_sdxl, ays_svd, cosine, karras, polyexponential, uniform_logsnr
from diffax.samplers.grids.times import (
    at_times,
    leading,
    linspace,
    resolution_shift,
    resolution_time,
    shifted_time,
    trailing,
    uniform_time,
)

__all__ = [
    "Sigmas",
    "at_times",
    "ays_sd",
    "ays_sdxl",
    "ays_svd",
    "check_sigmas",
    "cosine",
    "karras",
    "leading",
    "linspace",
    "polyexponential",
    "resolution_shift",
    "resolution_time",
    "shifted_time",
    "trailing",
    "uniform_logsnr",
    "uniform_time",
]
