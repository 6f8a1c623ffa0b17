"""Samplers in (x, sigma), and grids of sigmas.

A sampler takes x of noise level sigmas[0] to the data: `sampler(denoise, x, sigmas, keys, ...) -> x0`. It knows a
denoiser E[x0 | x] and nothing of processes or parameterizations. The loop is one `lax.scan`, so the time to compile
does not depend on the number of steps, and every number that one might sweep is traced: a new eta, churn or grid of
the same length runs the same executable.

Args of every sampler:
    denoise: (x, sigma) -> x0, for x [batch, *data] and a scalar sigma.
    x: [batch, *data], of noise level sigmas[0]: see `init_noise`.
    sigmas: [n + 1], decreasing, n ≥ 1; the last is 0, or a positive level to stop at.
    keys: one PRNG key an example, [batch]. Sample i depends on key i only. Unused where no noise is drawn.
    trajectory: also return the path, (x0, Trajectory).
"""

import itertools
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffax.prediction import Denoiser

Sigmas = Annotated[Array, "noise levels [n + 1], decreasing, the last 0"]


class Trajectory(NamedTuple):
    """The path of a sampler of n steps: `x` [n + 1, batch, *data] and the estimates `x0` [n, batch, *data] on it."""

    x: Array
    x0: Array


Samples = Array | tuple[Array, Trajectory]


def ddim(
    denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, eta: float = 0.0, trajectory: bool = False
) -> Samples:
    """DDIM, arXiv:2010.02502, Eq. 12 and 16. eta = 0 is Euler's method on dx/dsigma; eta = 1 is Ho et al.'s posterior.

    From s to r the noise drawn has the standard deviation eta·r·√(s² - r²)/s.

    Args:
        eta: share of the noise that is drawn anew, in [0, 1].
    """

    def step(x, i, s, r):
        x0 = denoise(x, s)
        share = eta * jnp.where(r > 0, r, s) / s  # a share of 0 has no derivative where eta is 1
        kept = r * jnp.sqrt((1.0 - eta**2) + share**2)  # √(r² - drawn²), with nothing to cancel
        drawn = eta * r * jnp.sqrt((1.0 - r / s) * (1.0 + r / s))
        return x0 + (kept / s) * (x - x0) + drawn * _noise(keys, i, x), x0

    return _integrate(step, x, sigmas, trajectory)


def ancestral(
    denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, variance: float = 0.0, trajectory: bool = False
) -> Samples:
    """Ancestral sampling of the DDPM chain, arXiv:2006.11239, Algorithm 2; no noise in the last step.

    Args:
        variance: 0 is the small variance, the posterior's beta-tilde = r²(s² - r²)/s²; 1 is the large one, the forward
            beta of a variance-preserving chain, (s² - r²)(1 + r²)/(1 + s²); between them the logarithm is
            interpolated, arXiv:2102.09672, Eq. 15.
    """

    def step(x, i, s, r):
        x0 = denoise(x, s)
        # large/small = (s² + s²r²)/(r² + s²r²); the square root of small is taken out before r = 0 can spoil it
        ratio = (s**2 * (1.0 + r**2)) / (jnp.where(r > 0, r, s) ** 2 * (1.0 + s**2))
        drawn = (r / s) * jnp.sqrt((s - r) * (s + r)) * ratio ** (0.5 * variance)
        return x0 + (r / s) ** 2 * (x - x0) + drawn * _noise(keys, i, x), x0

    return _integrate(step, x, sigmas, trajectory)


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
        x = x + added * _noise(keys, i, x)
        x0 = denoise(x, up)
        slope = (x - x0) / up
        euler = x + (r - up) * slope

        def correct(euler):
            level = jnp.where(r > 0, r, up)  # under vmap both branches run: the one not taken must be finite too
            return x + (level - up) * 0.5 * (slope + (euler - denoise(euler, level)) / level)

        return jax.lax.cond(r > 0, correct, lambda euler: euler, euler), x0

    return _integrate(step, x, sigmas, trajectory)


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
    return _integrate(step, first, sigmas, trajectory, position=lambda carry: carry[0])


def karras(n: int, lo: float = 0.002, hi: float = 80.0, rho: float = 7.0) -> Sigmas:
    """Sigmas [n + 1]: n levels from hi to lo, evenly spaced in sigma^(1/rho), then 0; arXiv:2206.00364, Eq. 5."""
    ramp = _ramp(n)
    ends = (jnp.asarray(end, ramp.dtype) ** (1.0 / rho) for end in (hi, lo))
    start, stop = ends
    return _then_zero((start + ramp * (stop - start)) ** rho)


def uniform_logsnr(n: int, lo: float = 0.002, hi: float = 80.0) -> Sigmas:
    """Sigmas [n + 1]: n levels from hi to lo, evenly spaced in log(sigma), then 0."""
    ramp = _ramp(n)
    start, stop = (jnp.log(jnp.asarray(end, ramp.dtype)) for end in (hi, lo))
    return _then_zero(jnp.exp(start + ramp * (stop - start)))


def at_times(process, ts: Array) -> Sigmas:
    """Sigmas [n + 1]: a process's noise levels at the decreasing times ts [n], then 0."""
    return _then_zero(process.nsr(jnp.asarray(ts, jnp.result_type(float))))


def uniform_time(process, n: int) -> Sigmas:
    """Sigmas [n + 1]: the levels at n times from t_max to t_min, evenly spaced, then 0; a DDPM's own steps at n = T."""
    ramp = _ramp(n)
    return at_times(process, (1.0 - ramp) * process.t_max + ramp * process.t_min)  # exact at both ends


def init_noise(keys: Array, shape: tuple[int, ...], sigma: float | Array) -> Array:
    """Starting points [batch, *shape] of level sigma: sigma·N(0, 1), the i-th from key i."""
    return sigma * jax.vmap(lambda key: jax.random.normal(key, shape, jnp.result_type(float)))(keys)


def check_sigmas(sigmas) -> None:
    """Refuses a grid that no sampler can follow.

    Raises:
        ValueError: not a vector of at least two finite, decreasing levels, the last of them 0.
    """
    values = jax.device_get(jnp.asarray(sigmas)).ravel().tolist()
    if jnp.ndim(sigmas) != 1 or len(values) < 2:
        raise ValueError(f"sigmas must be a vector of at least 2 levels, got shape {jnp.shape(sigmas)}")
    for i, (s, r) in enumerate(itertools.pairwise(values)):
        if not (s > r and s < float("inf")):
            raise ValueError(f"sigmas must be finite and decrease, got {s} then {r} at step {i}")
    if values[-1] != 0.0:
        raise ValueError(f"sigmas must end in 0, got {values[-1]}")


def _integrate(step: Callable, start, sigmas, trajectory, position=lambda carry: carry) -> Samples:
    """Scans step(carry, i, s, r) -> (carry, x0) over neighboring levels (s, r); `position` finds x in the carry."""
    sigmas = jnp.asarray(sigmas)

    def body(carry, level):
        carry, x0 = step(carry, *level)
        return carry, (position(carry), x0) if trajectory else None

    levels = (jnp.arange(len(sigmas) - 1), sigmas[:-1], sigmas[1:])
    last, path = jax.lax.scan(body, start, levels)
    if not trajectory:
        return position(last)
    return position(last), Trajectory(jnp.concatenate([position(start)[None], path[0]]), path[1])


def _noise(keys, i, like):
    """Noise of step i, example by example."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), like.shape[1:], like.dtype))(keys)


def _ramp(n):
    if n < 1:
        raise ValueError(f"a grid needs n of at least 1 level, got {n}")
    return jnp.arange(n, dtype=jnp.result_type(float)) / max(n - 1, 1)


def _then_zero(levels):
    return jnp.concatenate([levels, jnp.zeros(1, levels.dtype)])
