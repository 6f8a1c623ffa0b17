"""Guidance: functions of denoisers that return a denoiser."""

import jax.numpy as jnp
from jax import Array

from diffax.prediction import Denoiser


def cfg(
    cond: Denoiser,
    uncond: Denoiser,
    scale: float | Array,
    *,
    sigma_lo: float | Array = 0.0,
    sigma_hi: float | Array = float("inf"),
) -> Denoiser:
    """Classifier-free guidance, arXiv:2207.12598, Eq. 6: uncond + scale·(cond - uncond).

    Scale 1 is the conditional denoiser, 0 the unconditional one. Guidance is applied at noise levels in
    (sigma_lo, sigma_hi], arXiv:2404.07724, Eq. 4; elsewhere the result is `cond`. With a smaller
    or less trained network as `uncond` this is autoguidance, arXiv:2406.02507.

    Args:
        scale: a scalar, or one value an example [batch]. (The paper's w is scale - 1.)
        sigma_lo, sigma_hi: the interval, in the units of the data, whatever the process.
    """

    def denoise(x, sigma):
        sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
        extra = jnp.where((sigma_lo < sigma) & (sigma <= sigma_hi), scale - 1.0, 0.0)
        x0 = cond(x, sigma)
        return x0 + extra.reshape((-1,) + (1,) * (x.ndim - 1)) * (x0 - uncond(x, sigma))

    return denoise
