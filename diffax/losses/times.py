"""The distributions of training times.

Each raises a ValueError where a number of its own cannot be meant.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffax.known import check_number
from diffax.process import Process

TimeSampler = Callable[[Process, Array], Array]  # (process, keys [batch]) -> t [batch]


def uniform() -> TimeSampler:
    """t uniform on [t_min, t_max]."""
    return lambda process, keys: _spread(process, _uniforms(keys))


def stratified() -> TimeSampler:
    """t uniform on [t_min, t_max], the batch's i-th example in the i-th of its `batch` equal parts.

    The mean over a batch varies less than with `uniform`. Example i depends on its key and on its place in the
    batch; in a batch that is split by `pmap` the strata are each device's own.
    """

    return lambda process, keys: _spread(process, _strata(keys))


def lognormal(mean: float = -1.2, std: float = 1.2, stratified: bool = False) -> TimeSampler:
    """ln nsr ~ N(mean, std²), arXiv:2206.00364, Table 1. Not cut off at the process's ends, as in the paper.

    Args:
        stratified: the batch's i-th example in the i-th of `batch` equally likely parts, as in `stratified`.
    """
    _check_normal(mean, std)
    return lambda process, keys: process.time(jnp.exp(mean + std * _normals(keys, stratified)))


def logit_normal(mean: float = 0.0, std: float = 1.0, stratified: bool = False) -> TimeSampler:
    """logit of (t - t_min)/(t_max - t_min) ~ N(mean, std²), arXiv:2403.03206, Eq. 19.

    Args:
        stratified: as of `lognormal`.
    """
    _check_normal(mean, std)
    return lambda process, keys: _spread(process, jax.nn.sigmoid(mean + std * _normals(keys, stratified)))


def discrete(n: int | None = None) -> TimeSampler:
    """t uniform on n equally spaced times from t_min to t_max; on the indices 0 … T-1 of a DDPM process.

    Args:
        n: the number of times; None takes the process's own `steps`.

    Raises:
        ValueError: n below 2; no n, and a process in continuous time.
    """
    if n is not None:
        check_number(lambda n: n >= 2 and n % 1 == 0, "give an integer, 2 or more", n=n)

    def sample(process, keys):
        count = n if n is not None else getattr(process, "steps", None)
        if n is None and (count is None or count < 2):
            own = "no steps" if count is None else f"{count} step"
            raise ValueError(
                f"discrete() needs n of at least 2 for {type(process).__name__}, which has {own} of its own"
            )
        i = jax.vmap(lambda key: jax.random.randint(key, (), 0, count))(keys)
        gap = (process.t_max - process.t_min) / (count - 1)  # 1 for a DDPM: its t are whole numbers
        return process.t_min + gap * i.astype(jnp.result_type(float))

    return sample


def _check_normal(mean, std):
    allowed = "give a finite mean, and a standard deviation of 0 or more"
    check_number(lambda mean, std: math.isfinite(mean) and 0 <= std < math.inf, allowed, mean=mean, std=std)


def _spread(process, u):
    return process.t_min + (process.t_max - process.t_min) * u


def _uniforms(keys):
    return jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.result_type(float)))(keys)


def _strata(keys):
    u = _uniforms(keys)
    return (jnp.arange(u.shape[0], dtype=u.dtype) + u) / u.shape[0]


def _normals(keys, stratified):
    if not stratified:
        return jax.vmap(lambda key: jax.random.normal(key, dtype=jnp.result_type(float)))(keys)
    u = _strata(keys)
    limits = jnp.finfo(u.dtype)  # rounding may bring u to an end, whose quantile is infinite
    return jax.scipy.special.ndtri(jnp.clip(u, limits.tiny, 1 - limits.epsneg))
