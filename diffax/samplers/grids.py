"""Grids: decreasing noise levels that end in 0."""

import itertools
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import Array

Sigmas = Annotated[Array, "noise levels [n + 1], decreasing, the last 0"]


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


def _ramp(n):
    if n < 1:
        raise ValueError(f"a grid needs n of at least 1 level, got {n}")
    return jnp.arange(n, dtype=jnp.result_type(float)) / max(n - 1, 1)


def _then_zero(levels):
    return jnp.concatenate([levels, jnp.zeros(1, levels.dtype)])
