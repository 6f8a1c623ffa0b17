"""Classifier-free guidance and what was made of it: two denoisers, or one under two conditions."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import dot, each, expand
from diffax.guidance.traced import always, either, unless
from diffax.known import check, check_scale, holds, numbers
from diffax.prediction import Denoiser


def cfg(
    cond: Denoiser,
    uncond: Denoiser,
    scale: float | Array,
    *,
    sigma_lo: float | Array = 0.0,
    sigma_hi: float | Array = float("inf"),
    rescale: float | Array = 0.0,
) -> Denoiser:
    """Classifier-free guidance, arXiv:2207.12598, Eq. 6: uncond + scale·(cond - uncond).

    Scale 1 is the conditional denoiser, 0 the unconditional one. Guidance is applied at noise levels in
    (sigma_lo, sigma_hi], arXiv:2404.07724, Eq. 4; elsewhere the result is `cond`. With a smaller
    or less trained network as `uncond` this is autoguidance, arXiv:2406.02507.

    Where every scale of the batch is 1, and outside of the interval, only `cond` is run; where every one is 0, only
    `uncond`. (Both are where the scale is mapped by `vmap` or differentiated.)

    `rescale` brings the guided estimate's standard deviation, over all of an example, back to that of `cond`,
    arXiv:2305.08891, Sec. 3.4, Eq. 15 and 16. It is matched in x0, whatever the network predicts: that is what samplers
    take, and the contrast to be mended is the image's; other predictions mix in x, which guidance leaves as it is.

    Args:
        scale: a scalar, or one value an example [batch]. (The paper's w is scale - 1.)
        sigma_lo, sigma_hi: the interval, in the units of the data, whatever the process.
        rescale: phi of Eq. 16 in [0, 1]: 0 leaves the estimate as it is; the paper recommends 0.7.
    """
    _check_cfg(scale, sigma_lo, sigma_hi, rescale)

    def denoise(x, sigma):
        sigma = each(sigma, x)
        return _combined(cond, uncond, x, sigma, _weight(sigma, scale, sigma_lo, sigma_hi), rescale)

    return denoise


def batched_cfg(
    denoise: Callable[[Array, Array, Any], Array],
    cond: Any,
    uncond: Any,
    scale: float | Array,
    *,
    sigma_lo: float | Array = 0.0,
    sigma_hi: float | Array = float("inf"),
    rescale: float | Array = 0.0,
) -> Denoiser:
    """`cfg` of one denoiser under two conditions, in a single call on a batch of twice the size.

    Where every example needs but one of its conditions, the call is on the batch itself.

    Args:
        denoise: (x, sigma [batch], condition) -> x0.
        cond, uncond: conditions, trees of arrays [batch, ...] of the same structure.
        scale, sigma_lo, sigma_hi, rescale: as of `cfg`.
    """
    _check_cfg(scale, sigma_lo, sigma_hi, rescale)

    def twice(a, b):
        return jnp.concatenate([a, b])

    def guided(x, sigma):
        sigma = each(sigma, x)
        w = _weight(sigma, scale, sigma_lo, sigma_hi)

        def one(x, sigma):
            needed = jax.tree.map(lambda a, b: jnp.where(expand(each(w, x) == 1, a), a, b), cond, uncond)
            return denoise(x, sigma, needed).astype(x.dtype)

        def both(x, sigma):
            estimates = denoise(twice(x, x), twice(sigma, sigma), jax.tree.map(twice, cond, uncond))
            return _guided(*jnp.split(estimates.astype(x.dtype), 2), w, rescale)

        return either(always(lambda w, phi: (w == 1) | (w == 0) & (phi == 0), w, rescale), one, both, x, sigma)

    return guided


def cfg_pp(cond: Denoiser, uncond: Denoiser, scale: float | Array, sigmas: Array) -> Denoiser:
    """CFG++, arXiv:2406.08070, Algorithm 2, for `ddim` without noise on the grid `sigmas`.

    A step from s to r takes the guided estimate but the noise of the unconditional one,
    uncond + scale·(cond - uncond) + (r/s)·(x - uncond): this is `cfg` with the scale that depends on the step,
    scale·s/(s - r). So it is that; a sampler need not know.

    At a level of the grid, r is the next one. Between levels, as for a sampler with churn, s/(s - r) is interpolated
    linearly in sigma, beyond the ends it is constant. Samplers of second order run, but the algorithm is of first.

    Args:
        scale: the paper's lambda, meant for [0, 1].
        sigmas: [n + 1], decreasing: the grid that the sampler is given.
    """
    check_scale(scale)
    levels = numbers(sigmas)
    if levels is not None and not (len(levels) > 1 and all(s > r for s, r in itertools.pairwise(levels))):
        raise ValueError(f"sigmas={sigmas}: the noise levels must decrease; give the grid that the sampler is given")

    def denoise(x, sigma):
        sigma = each(sigma, x)
        s, r = jnp.asarray(sigmas[:-1], x.dtype), jnp.asarray(sigmas[1:], x.dtype)
        w = each(scale, x) * jnp.interp(sigma, s[::-1], (s / (s - r))[::-1])
        return _combined(cond, uncond, x, sigma, w)

    return denoise


def apg(
    cond: Denoiser,
    uncond: Denoiser,
    scale: float | Array,
    *,
    eta: float | Array = 0.0,
    norm_threshold: float | Array = float("inf"),
) -> Denoiser:
    """Adaptive projected guidance, arXiv:2410.02416, Algorithm 1, without its momentum.

    The difference cond - uncond is shortened to `norm_threshold`; then its part parallel to `cond`, which saturates
    colors, is multiplied by `eta`. eta = 1 without a threshold is `cfg`. The momentum sums the differences of earlier
    steps: it is a state of the sampler, and a denoiser, a function of (x, sigma), has none.

    Args:
        scale: as of `cfg`.
        eta: share of the parallel part that is kept, in [0, 1] in the paper.
        norm_threshold: largest Euclidean norm of the difference, over all of an example, in the units of the data
            (the paper's r).
    """
    check_scale(scale)
    check(math.isfinite, "every sample would be NaN; give 0 to drop the parallel part, 1 to keep it", eta=eta)
    check(
        lambda norm: norm > 0,
        "the difference cannot be made that short; give a positive norm, inf for none",
        norm_threshold=norm_threshold,
    )

    def denoise(x, sigma):
        sigma = each(sigma, x)
        w = _weight(sigma, scale)
        toward = cond(x, sigma).astype(x.dtype)
        away = unless(always(lambda w: w == 1, w), uncond, x, sigma)
        update = _projected(_shortened(toward - away, each(norm_threshold, x)), toward, each(eta, x))
        return toward + expand(each(w, x) - 1, x) * update

    return denoise


def _weight(sigma, scale, sigma_lo=0.0, sigma_hi=float("inf")):
    """The weight of `cond`: the scale within the interval, 1 elsewhere. As it was given where sigma does not matter."""
    everywhere = holds(lambda lo, hi: lo <= 0 and hi == float("inf"), sigma_lo, sigma_hi)  # levels are positive
    if everywhere or holds(lambda w: w == 1, scale):
        return scale
    inside = (each(sigma_lo, sigma) < sigma) & (sigma <= each(sigma_hi, sigma))
    return jnp.where(inside, each(scale, sigma), 1)


def _combined(cond, uncond, x, sigma, w, rescale=0.0):
    """uncond + w·(cond - uncond), rescaled; a network that all weights make idle is not run."""
    toward = unless(always(lambda w, phi: (w == 0) & (phi == 0), w, rescale), cond, x, sigma)
    away = unless(always(lambda w: w == 1, w), uncond, x, sigma)
    return _guided(toward, away, w, rescale)


def _guided(cond, uncond, w, rescale):
    guided = cond + expand(each(w, cond) - 1, cond) * (cond - uncond)
    if holds(lambda phi: phi == 0, rescale):
        return guided
    axes = tuple(range(1, cond.ndim))
    wanted, found = (jnp.var(x0, axis=axes) for x0 in (cond, guided))
    spread = (wanted > 0) & (found > 0)  # an example without any, as of a single number, is left as it is
    # arXiv:2305.08891, Eq. 15 and 16; the square root of 0 has no derivative
    ratio = jnp.sqrt(jnp.where(spread, wanted, 1) / jnp.where(spread, found, 1))
    return guided * expand(1 + each(rescale, cond) * (ratio - 1), cond)


def _shortened(difference, longest):
    """Each example's vector, of the Euclidean norm `longest` if it was longer; arXiv:2410.02416, Algorithm 1."""
    squared = dot(difference, difference)
    over = squared > longest**2
    return difference * expand(jnp.where(over, longest, 1) / jnp.sqrt(jnp.where(over, squared, 1)), difference)


def _projected(difference, onto, eta):
    """Each example's vector, its part parallel to `onto` multiplied by eta; arXiv:2410.02416, Algorithm 1."""
    axes = tuple(range(1, onto.ndim))
    length = jnp.sum(onto**2, axis=axes)  # squared; where it is 0, nothing is parallel
    share = jnp.sum(difference * onto, axis=axes) / jnp.where(length > 0, length, 1)
    return difference - expand((1 - eta) * share, onto) * onto


def _check_cfg(scale, sigma_lo, sigma_hi, rescale):
    check_scale(scale)
    check(
        lambda lo, hi: lo < hi,
        "no noise level is in (sigma_lo, sigma_hi]; give sigma_lo below sigma_hi",
        sigma_lo=sigma_lo,
        sigma_hi=sigma_hi,
    )
    check(
        lambda phi: 0 <= phi <= 1,
        "it is a share; give a number in [0, 1], 0 for no rescaling",
        rescale=rescale,
    )
