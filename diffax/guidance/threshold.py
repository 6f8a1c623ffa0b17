"""Estimates of x0 kept within the range of the data."""

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import each, expand
from diffax.known import check
from diffax.prediction import Denoiser


def static_threshold(denoise: Denoiser, lo: float | Array = -1.0, hi: float | Array = 1.0) -> Denoiser:
    """The estimate of x0, clipped to the data's range [lo, hi]: static thresholding, arXiv:2205.11487, Sec. 2.3."""
    check(lambda lo, hi: lo < hi, "the range is empty; give lo below hi", lo=lo, hi=hi)

    def clipped(x, sigma):
        x0 = denoise(x, sigma)
        return jnp.clip(x0, expand(each(lo, x0), x0), expand(each(hi, x0), x0))

    return clipped


def dynamic_threshold(denoise: Denoiser, percentile: float | Array = 0.995, limit: float | Array = 1.0) -> Denoiser:
    """Dynamic thresholding of the estimate of x0, arXiv:2205.11487, Sec. 2.3, for data in [-limit, limit].

    With s the percentile of an example's |x0|, or `limit` where that is larger, the example is clipped to [-s, s] and
    divided by s/limit: saturated pixels are pulled inwards.

    Args:
        percentile: as a fraction, in (0, 1]; 0.995 is customary, the paper leaves it open. 1 clips nothing and only
            divides.
        limit: the largest magnitude in the data.
    """
    check(lambda p: 0 < p <= 1, "it is a fraction; give one in (0, 1], 0.995 for 99.5 %", percentile=percentile)
    check(lambda limit: limit > 0, "a magnitude is positive; give the data's largest", limit=limit)

    def clipped(x, sigma):
        x0 = denoise(x, sigma)
        largest = each(limit, x0)
        s = jnp.maximum(jax.vmap(jnp.quantile)(jnp.abs(x0).reshape(len(x0), -1), each(percentile, x0)), largest)
        return jnp.clip(x0, -expand(s, x0), expand(s, x0)) * expand(largest / s, x0)

    return clipped
