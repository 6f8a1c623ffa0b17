"""Guidance: functions of denoisers that return a denoiser."""

from collections.abc import Callable
from typing import Any

import jax
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
        return _guided(cond(x, sigma), uncond(x, sigma), sigma, scale, sigma_lo, sigma_hi)

    return denoise


def batched_cfg(
    denoise: Callable[[Array, Array, Any], Array],
    cond: Any,
    uncond: Any,
    scale: float | Array,
    *,
    sigma_lo: float | Array = 0.0,
    sigma_hi: float | Array = float("inf"),
) -> Denoiser:
    """`cfg` of one denoiser under two conditions, in a single call on a batch of twice the size.

    Args:
        denoise: (x, sigma [batch], condition) -> x0.
        cond, uncond: conditions, trees of arrays [batch, ...] of the same structure.
        scale, sigma_lo, sigma_hi: as of `cfg`.
    """

    def twice(a, b):
        return jnp.concatenate([a, b])

    def denoise_both(x, sigma):
        sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
        both = denoise(twice(x, x), twice(sigma, sigma), jax.tree.map(twice, cond, uncond))
        return _guided(*jnp.split(both, 2), sigma, scale, sigma_lo, sigma_hi)

    return denoise_both


def _guided(cond, uncond, sigma, scale, sigma_lo, sigma_hi):
    extra = jnp.where((sigma_lo < sigma) & (sigma <= sigma_hi), scale - 1.0, 0.0)
    return cond + extra.reshape((-1,) + (1,) * (cond.ndim - 1)) * (cond - uncond)
