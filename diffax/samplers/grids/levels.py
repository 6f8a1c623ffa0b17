"""Grids of noise levels alone: closed forms between two ends, and published tables."""

import jax.numpy as jnp

from diffax.samplers.grids.grid import Sigmas, between, check_options, real, then_zero


def karras(n: int, lo: float = 0.002, hi: float = 80.0, rho: float = 7.0) -> Sigmas:
    """Sigmas [n + 1]: n levels from hi to lo, evenly spaced in sigma^(1/rho), then 0; arXiv:2206.00364, Eq. 5.

    Raises:
        ValueError: n below 1, lo or rho not above 0, hi not above lo.
    """
    check_options(n, lo=lo, hi=hi, rho=rho)
    rho = real(rho)
    return then_zero(between(n, real(hi) ** (1.0 / rho), real(lo) ** (1.0 / rho)) ** rho)


def uniform_logsnr(n: int, lo: float = 0.002, hi: float = 80.0) -> Sigmas:
    """Sigmas [n + 1]: n levels from hi to lo, evenly spaced in log(sigma), then 0.

    Known as the exponential grid too: it is `polyexponential` at rho = 1.

    Raises:
        ValueError: n below 1, lo not above 0, hi not above lo.
    """
    check_options(n, lo=lo, hi=hi)
    return then_zero(jnp.exp(between(n, jnp.log(real(hi)), jnp.log(real(lo)))))


def polyexponential(n: int, lo: float = 0.002, hi: float = 80.0, rho: float = 1.0) -> Sigmas:
    """Sigmas [n + 1]: n levels from hi to lo, then 0; log(sigma) falls along u^rho, u evenly spaced from 1 to 0.

    The polynomial in log(sigma) of k-diffusion (crowsonkb/k-diffusion, `get_sigmas_polyexponential`). rho = 1 is the
    exponential grid, `uniform_logsnr`; a larger one spends more levels near lo.

    Raises:
        ValueError: n below 1, lo or rho not above 0, hi not above lo.
    """
    check_options(n, lo=lo, hi=hi, rho=rho)
    u = between(n, 1.0, 0.0) ** real(rho)
    return then_zero(jnp.exp(u * jnp.log(real(hi)) + (1.0 - u) * jnp.log(real(lo))))


def cosine(n: int, lo: float = 0.002, hi: float = 80.0) -> Sigmas:
    """Sigmas [n + 1]: n levels from hi to lo, then 0; sigma = tan(angle), the angle evenly spaced.

    The angle is that of arXiv:2202.00512, App. D: alpha is its cosine, sigma its sine. In the cosine schedule it is
    ½πt (arXiv:2102.09672, Eq. 17, at s = 0): so this is what evenly spaced times of that schedule give, for any model.

    Raises:
        ValueError: n below 1, lo not above 0, hi not above lo.
    """
    check_options(n, lo=lo, hi=hi)
    angle = between(n, jnp.arctan(real(hi)), jnp.arctan(real(lo)))
    # the cosine as the sine of ½π - angle, which is interpolated on its own: nothing cancels where sigma is large
    rest = between(n, jnp.arctan(1.0 / real(hi)), jnp.arctan(1.0 / real(lo)))
    return then_zero(jnp.sin(angle) / jnp.sin(rest))


def ays_sd(n: int = 10) -> Sigmas:
    """Sigmas [n + 1] that were optimized for Stable Diffusion 1.5, from 14.615; arXiv:2404.14507, "Align Your Steps".

    The 11 levels of the authors' quick start (research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html) are
    interpolated to n + 1, linearly in log(sigma), and the last is then set to 0, as in diffusers' `AysSchedules` and
    in ComfyUI: n = 10 gives the first ten of the table and 0. The quick start itself stops at the table's last level,
    0.029; and where others interpolate to n levels and put a 0 after them, one step is spent on that level.

    Raises:
        ValueError: n below 1.
    """
    return _interpolated(n, (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029))


def ays_sdxl(n: int = 10) -> Sigmas:
    """Sigmas [n + 1] that were optimized for Stable Diffusion XL, from 14.615; otherwise as `ays_sd`.

    Raises:
        ValueError: n below 1.
    """
    return _interpolated(n, (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029))


def ays_svd(n: int = 10) -> Sigmas:
    """Sigmas [n + 1] that were optimized for Stable Video Diffusion, from 700; otherwise as `ays_sd`.

    Raises:
        ValueError: n below 1.
    """
    return _interpolated(n, (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002))


def _interpolated(n, table):
    check_options(n)
    knots = jnp.log(real(table))
    places = between(n + 1, 0.0, len(table) - 1.0)[:-1]
    return then_zero(jnp.exp(jnp.interp(places, jnp.arange(len(table), dtype=knots.dtype), knots)))
