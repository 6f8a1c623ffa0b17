"""DPM-Solver++ of the diffusion SDE with noise of any strength eta.

The exact solution from level s to r for a constant estimate D, with q = (r/s)^(1 + eta), is

    x_r = q·x_s + (1 - q)·D + r·√(1 - (r/s)^(2·eta))·noise.

eta = 0 is the probability-flow ODE, 1 the reverse SDE of arXiv:2011.13456. The step to 0 ends on the last estimate.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from diffax.known import check
from diffax.prediction import Denoiser
from diffax.samplers import history
from diffax.samplers.grids.grid import checked
from diffax.samplers.path import Samples, integrate, step_noise


def dpmpp_sde(
    denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, eta: float = 1.0, trajectory: bool | int = False
) -> Samples:
    """SDE-DPM-Solver++ (2S): the estimate at the geometric mean of both levels stands for the step's; two calls a step.

    The noise at the middle goes on into that of the whole step, as one path of Brownian motion; arXiv:2211.01095,
    section 5, Eq. 17. eta = 0 is `dpmpp_2s`.
    """
    _check(eta)

    def step(x, i, s, r):
        x0 = denoise(x, s)

        def midpoint():
            level = jnp.where(r > 0, r, 0.5 * s)
            middle = jnp.sqrt(s * level)
            q, noise = _exact(s, middle, eta)
            first = noise * step_noise(keys, 2 * i, x)
            there = denoise(q * x + (1.0 - q) * x0 + first, middle)
            q, noise = _exact(middle, level, eta)
            return q * (q * x + first) + (1.0 - q * q) * there + noise * step_noise(keys, 2 * i + 1, x)

        return jax.lax.cond(r > 0, midpoint, lambda: x0), x0

    return integrate(step, x, sigmas, trajectory)


def dpmpp_2m_sde(
    denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, eta: float = 1.0, trajectory: bool | int = False
) -> Samples:
    """SDE-DPM-Solver++ (2M), arXiv:2211.01095, Eq. 18: `dpmpp_2m` with noise. eta = 0 is `dpmpp_2m`."""
    _check(eta)

    def step(carry, i, s, r):
        x, last, before = carry
        x0 = denoise(x, s)
        level = jnp.where(r > 0, r, 0.5 * s)
        q, noise = _exact(s, level, eta)
        k = history.half_step_ratio(before, s, level)
        ahead = q * x + (1.0 - q) * (x0 + k * (x0 - last)) + noise * step_noise(keys, i, x)
        return (jnp.where(r > 0, ahead, x0), x0, s), x0

    sigmas = checked(sigmas)
    first = (x, jnp.zeros_like(x), sigmas[0])
    return integrate(step, first, sigmas, trajectory, position=lambda carry: carry[0])


def dpmpp_3m_sde(
    denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, eta: float = 1.0, trajectory: bool | int = False
) -> Samples:
    """`dpmpp_3m` with noise: the estimate is a parabola through its last three values. eta = 0 is `dpmpp_3m`."""
    _check(eta)

    def step(carry, i, s, r):
        x, estimates, levels = carry
        x0 = denoise(x, s)
        estimates, levels = history.push(x0, estimates), history.push(s, levels)
        level = jnp.where(r > 0, r, 0.5 * s)
        q, noise = _exact(s, level, eta)
        weights = history.exponential_weights(levels, jnp.arange(3) <= i, s, level, 1.0 + eta)
        ahead = q * x + history.combine(weights, estimates) + noise * step_noise(keys, i, x)
        return (jnp.where(r > 0, ahead, x0), estimates, levels), x0

    sigmas = checked(sigmas)
    first = (x, *history.empty(3, x, sigmas))
    return integrate(step, first, sigmas, trajectory, position=lambda carry: carry[0])


def _exact(s, r, eta):
    """(q, standard deviation of the noise) of the exact solution from s to r > 0."""
    h = jnp.log(s / r)
    return jnp.exp(-(1.0 + eta) * h), r * jnp.sqrt(-jnp.expm1(-2.0 * eta * h))


def _check(eta):
    check(lambda eta: 0 <= eta < math.inf, "the strength of the noise is not negative; 0 draws none", eta=eta)
