"""Samplers of the probability-flow ODE; noise only on demand."""

import jax
import jax.numpy as jnp
from jax import Array

from diffax.prediction import Denoiser
from diffax.samplers.path import Samples, integrate, step_noise


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
    trajectory: bool = False,
) -> Samples:
    """EDM's second-order sampler, arXiv:2206.00364, Algorithm 2 (Algorithm 1 where churn is 0).

    Args:
        churn: S_churn: how much noise is added over the whole run, in units of steps·log(sigma).
        s_min, s_max: noise is added at levels in [s_min, s_max] only.
        s_noise: standard deviation of that noise.
    """
    n = len(sigmas) - 1

    def step(x, i, s, r):
        gamma = jnp.minimum(churn / n, 2.0**0.5 - 1.0)
        churned = (s_min <= s) & (s <= s_max)
        up = jnp.where(churned, s * (1.0 + gamma), s)
        added = jnp.where(churned, s_noise * s * jnp.sqrt(gamma * (2.0 + gamma)), 0.0)
        x = x + added * step_noise(keys, i, x)
        x0 = denoise(x, up)
        slope = (x - x0) / up
        euler = x + (r - up) * slope

        def correct(euler):
            level = jnp.where(r > 0, r, up)  # under vmap both branches run: the one not taken must be finite too
            return x + (level - up) * 0.5 * (slope + (euler - denoise(euler, level)) / level)

        return jax.lax.cond(r > 0, correct, lambda euler: euler, euler), x0

    return integrate(step, x, sigmas, trajectory)


def dpmpp_2m(denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, trajectory: bool = False) -> Samples:
    """DPM-Solver++(2M), arXiv:2211.01095, Algorithm 2: second order with one network call a step. Draws no noise.

    The first step, and a last one to 0, are of first order.
    """

    def step(carry, i, s, r):
        x, last, before = carry  # before: the level of the last estimate
        x0 = denoise(x, s)
        h, h_last = jnp.log(s / jnp.where(r > 0, r, s)), jnp.log(before / s)
        # h/(2·h_last), Algorithm 2's 1/(2r); 0 where there is no earlier estimate or no finite h
        k = jnp.where(h_last > 0, 0.5 * h / jnp.where(h_last > 0, h_last, 1.0), 0.0)
        best = x0 + k * (x0 - last)
        return ((r / s) * x + (1.0 - r / s) * best, x0, s), x0

    first = (x, jnp.zeros_like(x), sigmas[0])
    return integrate(step, first, sigmas, trajectory, position=lambda carry: carry[0])
