"""Samplers in (x, sigma), and grids of sigmas.

A sampler takes x of noise level sigmas[0] to the data: `sampler(denoise, x, sigmas, keys, ...) -> x0`. It knows a
denoiser E[x0 | x] and nothing of processes or parameterizations. The loop is one `lax.scan`, or
diffrax's, which is imported when `adaptive_ode` is called. So the time to compile does not depend on the number of
steps, and every number that one might sweep is traced: a new eta, churn, tolerance or grid of the same length runs the
same executable.

Args of every sampler:
    denoise: (x, sigma) -> x0, for x [batch, *data] and a scalar sigma ([batch] in `adaptive_ode`).
    x: [batch, *data], of noise level sigmas[0]: see `init_noise`.
    sigmas: [n + 1], decreasing, n ≥ 1; the last is 0, or a positive level to stop at.
    keys: one PRNG key an example, [batch]. Sample i depends on key i only. Unused where no noise is drawn.
    trajectory: also return the path, (x0, Trajectory); a number is that of the first so many samples.
"""

from diffax.samplers.adaptive import adaptive_ode, adaptive_ode_stats
from diffax.samplers.dpm_sde import dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde
from diffax.samplers.grids import (
    Sigmas,
    at_times,
    ays_sd,
    ays_sdxl,
    ays_svd,
    check_sigmas,
    cosine,
    karras,
    leading,
    linspace,
    polyexponential,
    resolution_shift,
    resolution_time,
    shifted_time,
    trailing,
    uniform_logsnr,
    uniform_time,
)
from diffax.samplers.multistep import deis, dpmpp_2m, dpmpp_3m, lms, unipc
from diffax.samplers.ode import dpm2, dpmpp_2s, euler, heun
from diffax.samplers.path import Samples, Trajectory, init_noise
from diffax.samplers.restarts import restart
from diffax.samplers.sde import ancestral, ddim, euler_ancestral, euler_maruyama, predictor_corrector

__all__ = [
    "Samples",
    "Sigmas",
    "Trajectory",
    "adaptive_ode",
    "adaptive_ode_stats",
    "ancestral",
    "at_times",
    "ays_sd",
    "ays_sdxl",
    "ays_svd",
    "check_sigmas",
    "cosine",
    "ddim",
    "deis",
    "dpm2",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "euler",
    "euler_ancestral",
    "euler_maruyama",
    "heun",
    "init_noise",
    "karras",
    "leading",
    "linspace",
    "lms",
    "polyexponential",
    "predictor_corrector",
    "resolution_shift",
    "resolution_time",
    "restart",
    "shifted_time",
    "trailing",
    "uniform_logsnr",
    "uniform_time",
    "unipc",
]
