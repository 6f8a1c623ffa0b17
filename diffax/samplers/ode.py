"""Single-step samplers of the probability-flow ODE, dx/dsigma = (x - D(x, sigma))/sigma; noise only on demand."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from diffax.known import check
from diffax.prediction import Denoiser
from diffax.samplers.grids.grid import check_sigmas
from diffax.samplers.path import Samples, integrate, step_noise


def euler(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    keys: Array,
    *,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = float("inf"),
    s_noise: float = 1.0,
    trajectory: bool | int = False,
) -> Samples:
    """Euler's method, of first order, with the churn of arXiv:2206.00364, Algorithm 2 (see `heun`).

    Without churn it is `ddim` with eta = 0.
    """

    churned = _churn(keys, sigmas, churn, s_min, s_max, s_noise)

    def step(x, i, s, r):
        x, up = churned(x, i, s)
        x0 = denoise(x, up)
        return (r / up) * x + (1.0 - r / up) * x0, x0

    return integrate(step, x, sigmas, trajectory)


def heun(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    keys: Array,
    *,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = float("inf"),
    s_noise: float = 1.0,
    trajectory: bool | int = False,
) -> Samples:
    """EDM's second-order sampler, arXiv:2206.00364, Algorithm 2 (Algorithm 1 where churn is 0): two calls a step.

    Args:
        churn: S_churn: how much noise is added over the whole run, in units of steps·log(sigma).
        s_min, s_max: noise is added at levels in [s_min, s_max] only.
        s_noise: standard deviation of that noise.
    """

    churned = _churn(keys, sigmas, churn, s_min, s_max, s_noise)

    def step(x, i, s, r):
        x, up = churned(x, i, s)
        return heun_step(denoise, x, up, r)

    return integrate(step, x, sigmas, trajectory)


def heun_step(denoise: Denoiser, x: Array, s: Array, r: Array) -> tuple[Array, Array]:
    """(x at level r, the estimate at level s): Heun's step from s to r, Euler's where r is 0."""
    x0 = denoise(x, s)
    slope = (x - x0) / s
    euler = x + (r - s) * slope

    def correct():
        level = jnp.where(r > 0, r, s)  # under vmap both branches run: the one not taken must be finite too
        return x + (level - s) * 0.5 * (slope + (euler - denoise(euler, level)) / level)

    return jax.lax.cond(r > 0, correct, lambda: euler), x0


def dpm2(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    keys: Array,
    *,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = float("inf"),
    s_noise: float = 1.0,
    trajectory: bool | int = False,
) -> Samples:
    """The midpoint method: the slope at the geometric mean of both levels; second order, two network calls a step.

    DPM-Solver-2, arXiv:2206.00927, Algorithm 1, in sigma; with the churn of arXiv:2206.00364, Algorithm 2 (see `heun`).
    """

    churned = _churn(keys, sigmas, churn, s_min, s_max, s_noise)

    def step(x, i, s, r):
        x, up = churned(x, i, s)
        x0 = denoise(x, up)

        def midpoint():
            middle = jnp.sqrt(up * jnp.where(r > 0, r, up))
            half = (middle / up) * x + (1.0 - middle / up) * x0
            return x + (r - up) * (half - denoise(half, middle)) / middle

        return jax.lax.cond(r > 0, midpoint, lambda: x0), x0

    return integrate(step, x, sigmas, trajectory)


def dpmpp_2s(denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, trajectory: bool | int = False) -> Samples:
    """DPM-Solver++(2S), arXiv:2211.01095, Algorithm 1 with r_1 = 1/2: second order, two network calls a step.

    The estimate at the geometric mean of both levels stands for that of the whole step. Draws no noise.
    """

    def step(x, i, s, r):
        x0 = denoise(x, s)

        def midpoint():
            middle = jnp.sqrt(s * jnp.where(r > 0, r, s))
            half = (middle / s) * x + (1.0 - middle / s) * x0
            return (r / s) * x + (1.0 - r / s) * denoise(half, middle)

        return jax.lax.cond(r > 0, midpoint, lambda: x0), x0

    return integrate(step, x, sigmas, trajectory)


def _churn(keys, sigmas, churn, s_min, s_max, s_noise):
    """(x, i, s) -> (x with noise added, its level): arXiv:2206.00364, Algorithm 2, lines 5 and 6."""
    check_sigmas(sigmas)
    check(lambda churn: 0 <= churn < math.inf, "noise is added, not removed; 0 adds none", churn=churn)
    check(lambda s_noise: 0 <= s_noise < math.inf, "a standard deviation is not negative", s_noise=s_noise)
    check(lambda s_min, s_max: s_min <= s_max, "no level lies between them", s_min=s_min, s_max=s_max)
    most = churn / (len(sigmas) - 1)

    def churned(x, i, s):
        gamma = jnp.where((s_min <= s) & (s <= s_max), jnp.minimum(most, 2.0**0.5 - 1.0), 0.0)

        def noisier():
            root = jnp.sqrt(jnp.where(gamma > 0, gamma * (2.0 + gamma), 1.0))  # √(up² - s²)/s, with nothing to cancel
            return x + s_noise * s * root * step_noise(keys, i, x)

        return jax.lax.cond(gamma > 0, noisier, lambda: x), s * (1.0 + gamma)

    return churned
