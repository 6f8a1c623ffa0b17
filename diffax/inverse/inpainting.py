"""Images of which some pixels are known."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffax.inverse.measured import check_fits
from diffax.known import check_count, numbers
from diffax.prediction import Denoiser
from diffax.samplers.grids.grid import checked
from diffax.samplers.path import Samples, follow, step_noise


def inpaint(denoise: Denoiser, known: Array, mask: Array) -> Denoiser:
    """Replacement: where `mask` is 1 the estimate is `known`, at every level; elsewhere it is the denoiser's.

    Along the probability-flow ODE a known pixel then is known + sigma·eps with one eps, and a sampler that ends on its
    last estimate (`ddim`, `ancestral`, `dpmpp_2m`, …) returns it to the bit, others to rounding. With a mask of zeros
    it is `denoise`, to the bit. The rest of the image sees what is known only through the noisy x: `repaint` and
    `pigdm` with `mask` do more to make both fit.

    Args:
        known: [batch, *data], or what broadcasts against it, of any finite value where it is not known.
        mask: 1 or True where the pixel is known, 0 or False elsewhere; broadcasts too, as [height, width, 1].
    """
    _check_mask(mask)

    def replaced(x, sigma):
        return _joined(mask, known, denoise(x, sigma), known)

    return replaced


def repaint(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    keys: Array,
    known: Array,
    mask: Array,
    *,
    resamples: int = 10,
    jump: int = 1,
    trajectory: bool | int = False,
) -> Samples:
    """RePaint, arXiv:2201.09865, Algorithm 1: known pixels are noised to each level, the others take ancestral steps.

    After every `jump` steps, but for those that end on the last level, it goes back up by as many, with noise of
    variance s² - r², and down again, until it has gone down `resamples` times: so both parts come to fit.
    Of n levels above the last it makes n + (resamples - 1)·jump·⌊(n - 1)/jump⌋ network calls. With resamples = 1 and a
    mask of zeros it is `ancestral`, to the bit.

    Args:
        known, mask: as of `inpaint`.
        resamples: the paper's U (10 there): how often each way down is gone.
        jump: steps of a way down; 1 is Algorithm 1, 10 the setting of the paper's App. B.
    """
    check_count("resamples", resamples)
    check_count("jump", jump)
    _check_mask(mask)
    check_fits("known", known, x)  # before it is added to noise
    sigmas, known = checked(sigmas), jnp.asarray(known, x.dtype)
    at, tops = _walk(len(sigmas) - 1, resamples, jump)
    n, top_levels = len(tops), sigmas[tops]

    def step(x, i, low, r):
        s = top_levels[i]
        up = jnp.sqrt((s - low) * (s + low))
        x = jax.lax.cond(up > 0, lambda: x + up * step_noise(keys, n + i, x), lambda: x)
        x0 = denoise(x, s)
        drawn = (r / s) * jnp.sqrt((s - r) * (s + r))
        unknown = x0 + (r / s) ** 2 * (x - x0) + drawn * step_noise(keys, i, x)
        return _joined(mask, known, unknown, known + r * step_noise(keys, 2 * n + i, x)), x0

    return follow(step, x, sigmas[at], trajectory)


def _walk(n, resamples, jump):
    """(where x is before each step and at last, from where the step goes down): indices into n + 1 levels."""
    at, tops = [0], []
    for end in [*range(jump, n, jump), n]:
        start = at[-1]
        for _ in range(resamples if end < n else 1):
            tops += range(start, end)
            at += range(start + 1, end + 1)
    return np.asarray(at), np.asarray(tops)


def _joined(mask, known, unknown, noisy):
    """`noisy`, the known part, where the mask is 1; else `unknown`."""
    check_fits("known", known, unknown)
    check_fits("mask", mask, unknown)
    return jnp.where(jnp.asarray(mask).astype(bool), jnp.asarray(noisy, unknown.dtype), unknown)


def _check_mask(mask):
    soft = [value for value in numbers(mask) or () if value not in (0, 1)]
    if soft:
        raise ValueError(f"mask holds {soft[0]}: a pixel is known or it is not; give 1 or True, 0 or False")
