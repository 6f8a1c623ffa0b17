"""Multistep samplers of the probability-flow ODE: one network call a step, higher order from those of earlier steps.

With u = log(1/sigma) the exact solution from level s to r is

    x_r = (r/s)·x_s + ∫ e^(-(h - u)) D(u) du,   D the estimate along the path, u from 0 to h = log(s/r).

They differ in what they approximate by a polynomial, the estimate or the slope (x - D)/sigma, and in which variable.
The first steps have fewer earlier ones to use, so their order is lower. The step to 0 ends on the last estimate.
"""

import jax.numpy as jnp
from jax import Array

from diffax.known import check_count
from diffax.prediction import Denoiser
from diffax.samplers import history
from diffax.samplers.grids.grid import checked
from diffax.samplers.path import Samples, integrate


def dpmpp_2m(denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, trajectory: bool | int = False) -> Samples:
    """DPM-Solver++(2M), arXiv:2211.01095, Algorithm 2: second order with one network call a step. Draws no noise."""

    def step(carry, i, s, r):
        x, last, before = carry  # before: the level of the last estimate
        x0 = denoise(x, s)
        k = history.half_step_ratio(before, s, jnp.where(r > 0, r, s))
        best = x0 + k * (x0 - last)
        return ((r / s) * x + (1.0 - r / s) * best, x0, s), x0

    sigmas = checked(sigmas)
    first = (x, jnp.zeros_like(x), sigmas[0])
    return integrate(step, first, sigmas, trajectory, position=lambda carry: carry[0])


def dpmpp_3m(denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, trajectory: bool | int = False) -> Samples:
    """DPM-Solver++ of third order with one network call a step, arXiv:2211.01095, section 4. Draws no noise.

    The estimate is a parabola through its last three values, integrated exactly. (Implementations that multiply the
    second divided difference by phi_3, where the integral of u² gives 2·phi_3, are of second order.)
    """

    def advance(x, estimates, levels, valid, s, r):
        return (r / s) * x + history.combine(history.exponential_weights(levels, valid, s, r), estimates)

    return _multistep(denoise, x, sigmas, 3, trajectory, lambda x, x0, s: x0, advance)


def lms(
    denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, order: int = 4, trajectory: bool | int = False
) -> Samples:
    """Adams-Bashforth with steps of any size: the slope is a polynomial in sigma. Draws no noise.

    Also known as rho-AB-DEIS, arXiv:2204.13902, section 3.3.

    Args:
        order: 1 to 4, the number of slopes that it rests on.
    """
    return _adams(denoise, x, sigmas, order, trajectory, history.sigma_weights)


def deis(
    denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, order: int = 3, trajectory: bool | int = False
) -> Samples:
    """DEIS (tAB), arXiv:2204.13902, Eq. 14-15, with log(sigma) for the time t, so that it needs no process.

    The slope, the network's eps, is a polynomial in log(sigma). Draws no noise.

    Args:
        order: 1 to 4, the number of slopes that it rests on; 1 is DDIM.
    """
    return _adams(denoise, x, sigmas, order, trajectory, history.log_sigma_weights)


def unipc(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    keys: Array,
    *,
    order: int = 3,
    bh: int = 2,
    corrector: bool = True,
    trajectory: bool | int = False,
) -> Samples:
    """UniPC, arXiv:2302.04867, Algorithms 1 and 2: the next estimate corrects the step that led to it.

    Of order `order` + 1 with the corrector, which costs no network call, `order` without. Draws no noise.

    Args:
        order: 1 to 3, the number of estimates that the predictor rests on.
        bh: 1 for B(h) = h, 2 for B(h) = 1 - e^(-h) (section 3.3). It matters where a step rests on two estimates, whose
            weight the paper sets to B(h)/2; with more it cancels.
        corrector: False is UniP alone.
    """
    check_count("order", order, most=3)
    if bh not in (1, 2):
        raise ValueError(f"bh={bh!r} is not allowed: give 1 for B(h) = h or 2 for B(h) = 1 - exp(-h)")

    def move(x, values, levels, valid, s, r):
        weights = history.exponential_weights(levels, valid, s, r)
        h = jnp.log(s / r)
        b = h if bh == 1 else -jnp.expm1(-h)
        second = jnp.where(valid, 0.5 * b * h / jnp.log(s / levels).at[0].set(1.0), 0.0)[1:]
        of_two = jnp.concatenate([(-jnp.expm1(-h) - jnp.sum(second))[None], second])
        return (r / s) * x + history.combine(jnp.where(jnp.sum(valid) == 2, of_two, weights), values)

    def step(carry, i, s, r):
        x, start, values, levels = carry  # x was predicted from `start`, of level levels[0]
        x0 = denoise(x, s)
        earlier = jnp.arange(order)
        if corrector:
            both = (jnp.concatenate(pair) for pair in ((values, x0[None]), (levels, s[None])))
            x = jnp.where(i > 0, move(start, *both, jnp.append(earlier < i, True), levels[0], s), x)
        values, levels = history.push(x0, values), history.push(s, levels)
        ahead = move(x, values, levels, earlier <= i, s, jnp.where(r > 0, r, 0.5 * s))
        return (jnp.where(r > 0, ahead, x0), x, values, levels), x0

    sigmas = checked(sigmas)
    first = (x, x, *history.empty(order, x, sigmas))
    return integrate(step, first, sigmas, trajectory, position=lambda carry: carry[0])


def _adams(denoise, x, sigmas, order, trajectory, weights):
    check_count("order", order, most=4)

    def advance(x, slopes, levels, valid, s, r):
        return x + history.combine(weights(levels, valid, s, r), slopes)

    return _multistep(denoise, x, sigmas, order, trajectory, lambda x, x0, s: (x - x0) / s, advance)


def _multistep(denoise, x, sigmas, order, trajectory, value, advance):
    """Steps x <- advance(x, values, levels, valid, s, r) with the last `order` of value(x, x0, s), newest first."""

    def step(carry, i, s, r):
        x, values, levels = carry
        x0 = denoise(x, s)
        values, levels = history.push(value(x, x0, s), values), history.push(s, levels)
        ahead = advance(x, values, levels, jnp.arange(order) <= i, s, jnp.where(r > 0, r, 0.5 * s))
        return (jnp.where(r > 0, ahead, x0), values, levels), x0

    sigmas = checked(sigmas)
    first = (x, *history.empty(order, x, sigmas))
    return integrate(step, first, sigmas, trajectory, position=lambda carry: carry[0])
