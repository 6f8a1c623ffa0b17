"""Guidance by several conditions at once, each with a scale of its own."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from diffax.batch import each, expand
from diffax.guidance.traced import always, unless
from diffax.known import check_scale
from diffax.prediction import Denoiser


def composed(base: Denoiser, conds: Sequence[Denoiser], scales: Sequence[float | Array]) -> Denoiser:
    """Composable diffusion, arXiv:2206.01714, Eq. 11: base + Σ scale_i·(cond_i - base).

    For conditions that are independent given x, such as several captions of one picture: with every scale 1 the score
    is then that of all conditions together. A negative scale leads away from its condition. One condition is `cfg`.

    A condition whose scale is 0 for every example of the batch is not run, nor is `base` where the scales sum to 1.

    Args:
        base: the unconditional denoiser.
        conds: one denoiser a condition, each told this one and nothing else.
        scales: one for each, a scalar or [batch].

    Raises:
        ValueError: not one scale for each condition, or one that is not finite.
    """
    _check(conds, scales)

    def denoise(x, sigma):
        sigma = each(sigma, x)
        result = start = unless(always(lambda *w: sum(w) == 1, *scales), base, x, sigma)
        for cond, scale in zip(conds, scales):
            toward = unless(always(lambda w: w == 0, scale), cond, x, sigma)
            result = result + expand(each(scale, x), x) * (toward - start)
        return result

    return denoise


def nested(denoisers: Sequence[Denoiser], scales: Sequence[float | Array]) -> Denoiser:
    """InstructPix2Pix's guidance, arXiv:2211.09800, Eq. 3: d_0 + Σ scale_i·(d_i - d_{i-1}).

    For conditions that build on each other: d_0 is told nothing, d_1 the first condition, d_2 the first and the second,
    and so on. With every scale 1 it is the last denoiser, told all; each scale strengthens what its condition adds to
    those before it. Two denoisers are `cfg`.

    The weight of d_i is scale_i - scale_{i+1}, where scale_0 = 1 and the last is followed by 0: one whose weight is 0
    for every example of the batch is not run.

    Args:
        denoisers: d_0, d_1, ..., d_n.
        scales: one for each but the first, a scalar or [batch].

    Raises:
        ValueError: not one scale for each further denoiser, or one that is not finite.
    """
    _check(denoisers[1:], scales)

    def denoise(x, sigma):
        sigma = each(sigma, x)
        result = jnp.zeros_like(x)
        for told, scale, after in zip(denoisers, (1, *scales), (*scales, 0)):
            estimate = unless(always(lambda a, b: a == b, scale, after), told, x, sigma)
            result = result + expand(each(scale, x) - each(after, x), x) * estimate
        return result

    return denoise


def _check(conds, scales):
    if len(conds) != len(scales) or not len(scales):
        raise ValueError(f"{len(scales)} scales for {len(conds)} conditions: give one for each, and at least one")
    for scale in scales:
        check_scale(scale)
