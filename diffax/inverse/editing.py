"""Sampling that starts from an image: with noise added to it, or from the noise that the sampler would turn into it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import check_keys, dot, each, expand
from diffax.known import check, check_count, numbers
from diffax.prediction import Denoiser
from diffax.samplers.grids.grid import checked
from diffax.samplers.path import Samples, follow, init_noise


def noised(x0: Array, keys: Array, sigma: float | Array) -> Array:
    """x0 + sigma·eps [batch, *data], the eps of example i from key i: that of `init_noise`."""
    check_keys(keys, x0)
    return x0 + expand(each(sigma, x0), x0) * init_noise(keys, x0.shape[1:], 1.0).astype(x0.dtype)


def sigmas_from(sigmas: Array, strength: float) -> Array:
    """The end of a grid of n steps: its last round(strength·n) steps, [round(strength·n) + 1].

    Args:
        strength: in [0, 1], known when traced, as it sets the number of steps; 1 is the whole grid.
    """
    if numbers(strength) is None:
        raise ValueError(f"strength={strength} is traced, but it sets the number of steps: give a Python number")
    check(lambda share: 0 <= share <= 1, "it is a share of the steps; give a number in [0, 1]", strength=strength)
    n = len(sigmas) - 1
    return jnp.asarray(sigmas)[n - round(float(strength) * n) :]


def image_to_image(
    sampler: Callable[..., Samples], denoise: Denoiser, x0: Array, sigmas: Array, keys: Array, strength: float
) -> Samples:
    """SDEdit, arXiv:2108.01073, Algorithm 1: x0 with the noise of a level within the grid, sampled from there on.

    Args:
        sampler: (denoise, x, sigmas, keys) -> x0, its options bound, e.g. by `functools.partial`.
        x0: [batch, *data], the image or sketch to start from.
        strength: the share of the grid's steps that is run; the more, the less is kept. 0 returns x0, 1 starts at the
            grid's first level.
    """
    sigmas = sigmas_from(sigmas, strength)
    return sampler(denoise, noised(x0, keys, sigmas[0]), sigmas, keys) if len(sigmas) > 1 else x0


def ddim_inversion(
    denoise: Denoiser, x0: Array, sigmas: Array, *, iterations: int = 20, trajectory: bool | int = False
) -> Samples:
    """The x of level sigmas[0] that `ddim` without noise, on the same grid, takes to x0.

    A step from s to r is x_r = D + (r/s)·(x_s - D) with D = D(x_s, s), arXiv:2010.02502, Eq. 12: to be solved for x_s,
    which is inside D too. One iteration puts x_r there in its stead, the usual inversion, and what comes back differs
    from x0 by O(step). More of them solve the equation, as the fixed-point iterations of arXiv:2309.04907 do, but with
    step lengths of Barzilai and Borwein (1988), since plain substitution diverges on coarse grids. The Jacobian of an
    exact denoiser is Cov[x0 | x]/sigma² ⪰ 0, therefore the solution is unique.

    The step to 0 is D itself and is solved like the others, D(x, sigma_min) = x0. Of an x0 that the denoiser cannot
    return, as noise beside a manifold of images, that part comes back which it can.

    Args:
        x0: [batch, *data].
        iterations: network calls a step. 10 do for most x0 of a mixture, 20 take all to the rounding of float32.
        trajectory: also return the path upwards, of levels sigmas[::-1].
    """
    check_count("iterations", iterations)

    def invert(target, i, r, s):
        share = r / s

        def improve(state, _):
            tried, x, missed, least, size = state
            x0 = denoise(tried, s)
            gap = x0 + share * (tried - x0) - target  # what comes back, but for what should
            better = ~(dot(gap, gap) >= least)
            moved, turned = tried - x, gap - missed
            along, across = dot(moved, turned), dot(turned, turned)
            secant = jnp.where(along > 0, along / jnp.where(along > 0, across, 1), size)
            # where nothing improves, the secant is rounding: it must not carry x away
            size = jnp.minimum(secant, jnp.where(better, 2 * size, 0.5 * size))
            x, missed = (jnp.where(expand(better, x), new, old) for new, old in ((tried, x), (gap, missed)))
            least = jnp.where(better, dot(gap, gap), least)
            return (x - expand(size, x) * missed, x, missed, least, size), x0

        first = each(jnp.where(r > 0, 1 / jnp.where(r > 0, share, 1), 1), target)  # the usual inversion
        start = (target, target, jnp.zeros_like(target), jnp.full_like(first, jnp.inf), first)
        (x, *_), estimates = jax.lax.scan(improve, start, length=iterations)
        return x, estimates[-1]

    return follow(invert, x0, checked(sigmas)[::-1], trajectory)
