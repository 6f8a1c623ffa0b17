"""Restart sampling: the ODE, and within an interval of levels back up by noise and down again."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from diffax.known import check, check_count
from diffax.prediction import Denoiser
from diffax.samplers.grids.grid import checked
from diffax.samplers.ode import heun_step
from diffax.samplers.path import Samples, follow, step_noise


def restart(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    keys: Array,
    *,
    lo: float = 0.05,
    hi: float = 0.3,
    times: int = 3,
    steps: int = 3,
    rho: float = 7.0,
    trajectory: bool | int = False,
) -> Samples:
    """Restart, arXiv:2306.14878, Algorithm 1: `heun`, and once it has passed `lo`, `times` times up to `hi` and back.

    Up by noise of variance hi² - l² at once, l the first level of the grid at or below `lo`; down by Heun's steps on
    levels evenly spaced in sigma^(1/rho). Without times it is `heun`. A path [n + times·steps + 1] holds all levels.

    Args:
        lo, hi: the interval. With no positive level of the grid at or below `lo`, or none above `hi`, it is `heun` too
            (the extra steps stand still).
        times: K, how often.
        steps: Heun's steps of each way down.
        rho: of the way down.
    """
    check_count("times", times, least=0)
    check_count("steps", steps)
    check(lambda lo, hi: 0 < lo and 0 < hi < math.inf, "levels are positive and finite", lo=lo, hi=hi)
    check(lambda rho: 0 < rho < math.inf, "give a positive number, 7 as Karras et al. do", rho=rho)
    levels, ups = _with_restarts(checked(sigmas), lo, hi, int(times), int(steps), rho)

    def step(x, i, s, r):
        up = ups[i]
        x = jax.lax.cond(up > 0, lambda: x + up * step_noise(keys, i, x), lambda: x)
        return heun_step(denoise, x, jnp.sqrt(s**2 + up**2), r)

    return follow(step, x, levels, trajectory)


@partial(jax.jit, static_argnames=("times", "steps"), inline=True)
def _with_restarts(sigmas, lo, hi, times, steps, rho):
    """(levels [m + 1], the noise added before each of the m steps): the grid with the ways down put in."""
    n, extra = len(sigmas) - 1, times * steps
    below = (sigmas <= lo) & (sigmas > 0) & (sigmas[0] >= hi) & (lo < hi)
    at = jnp.argmax(below)  # without one: 0, the first level, where the extra steps stand still
    bottom = sigmas[at]
    top = jnp.where(jnp.any(below), hi, bottom)
    j = jnp.arange(n + extra + 1)
    k = j - at  # the place among the extra steps
    share = ((k - 1) % steps + 1) / steps  # of a way down, at its level number k
    down = (top ** (1 / rho) + share * (bottom ** (1 / rho) - top ** (1 / rho))) ** rho
    down = jnp.where((share < 1) & (bottom < top), down, bottom)
    inside = (k > 0) & (k <= extra)
    levels = jnp.where(inside, down, sigmas[jnp.clip(jnp.where(k > 0, j - extra, j), 0, n)])
    starts = (k >= 0) & (k < extra) & (k % steps == 0)
    ups = jnp.where(starts[:-1], jnp.sqrt(jnp.maximum((top - bottom) * (top + bottom), 0.0)), 0.0)
    return levels, ups
