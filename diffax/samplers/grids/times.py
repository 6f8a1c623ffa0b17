"""Grids of a process's own noise levels, at times of it."""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import Array

from diffax.samplers.grids.grid import Sigmas, between, check_options, real, then_zero


def at_times(process, ts: Array) -> Sigmas:
    """Sigmas [n + 1]: a process's noise levels at the decreasing times ts [n], then 0.

    Raises:
        ValueError: ts is no vector of finite, decreasing times, or the process has no noise level there.
    """
    ts = real(ts)
    if ts.ndim != 1 or not len(ts):
        raise ValueError(f"ts must be a vector of at least 1 time, got shape {ts.shape}")
    for i, (t, after) in enumerate(itertools.pairwise((*_known(ts), -math.inf))):
        if not after < t < math.inf:
            raise ValueError(f"ts must be finite and decrease, got {t} then {after} at place {i}")
    levels = process.nsr(ts)
    for t, level in zip(_known(ts), _known(levels)):
        if not 0.0 < level < math.inf:
            raise ValueError(
                f"t of {t} in ts is not allowed: the noise level of {type(process).__name__} there is {level}; "
                f"expected times from t_min = {process.t_min} to t_max = {process.t_max}"
            )
    return then_zero(levels)


def uniform_time(process, n: int) -> Sigmas:
    """Sigmas [n + 1]: the levels at n times from t_max to t_min, evenly spaced, then 0; a DDPM's own steps at n = T.

    Raises:
        ValueError: n below 1.
    """
    check_options(n)
    return at_times(process, between(n, process.t_max, process.t_min))


def shifted_time(process, n: int, shift: float = 3.0) -> Sigmas:
    """Sigmas [n + 1]: shift·nsr(t) at n times, evenly spaced, then 0: more levels where there is much noise.

    The timestep shift of arXiv:2403.03206, Eq. 23, with shift = √(m/n) of that paper, for sampling a model that was
    trained without it. In flow matching, where nsr = t/(1 - t), it is t' = shift·t/(1 + (shift - 1)·t). The times end
    where the shifted levels would leave the process's own, from nsr(t_min) to nsr(t_max), which the network knows:
    for shift > 1 at time(nsr(t_max)/shift) and t_min, for shift < 1 at t_max and time(nsr(t_min)/shift). shift = 1 is
    `uniform_time`. A model trained with the shift is a `Shifted` process, and its grid `uniform_time`.

    Raises:
        ValueError: n below 1, shift not above 0.
    """
    check_options(n, shift=shift)
    shift = real(shift)
    lowest, highest = (process.nsr(real(t)) for t in (process.t_min, process.t_max))
    ts = between(n, process.time(highest / jnp.maximum(shift, 1.0)), process.time(lowest / jnp.minimum(shift, 1.0)))
    return then_zero(jnp.clip(shift * process.nsr(ts), lowest, highest))  # beyond them by rounding alone


def resolution_time(process, n: int, tokens: int, base_shift: float = 0.5, max_shift: float = 1.15) -> Sigmas:
    """Sigmas [n + 1]: `shifted_time` with the shift that `resolution_shift` gives for this many tokens.

    FLUX leaves out the level at t_min, where a step of this grid hardly moves; it is kept here as in `uniform_time`.

    Raises:
        ValueError: n below 1, tokens out of range.
    """
    return shifted_time(process, n, resolution_shift(tokens, base_shift, max_shift))


def resolution_shift(tokens: int, base_shift: float = 0.5, max_shift: float = 1.15) -> float:
    """The shift for an image of so many tokens: exp(mu), mu linear in tokens and continued beyond the two points.

    As FLUX has it (black-forest-labs/flux, `src/flux/sampling.py`: `get_lin_function`, `time_shift`), for the reason
    of arXiv:2403.03206, Sec. 5.3.2: at the same noise level, an image of more pixels is easier to see.

    Args:
        tokens: of the image, as the network attends to them: (height/16)·(width/16) of FLUX, 4096 at 1024 x 1024.
        base_shift, max_shift: mu at 256 and at 4096 tokens, not yet exponentiated; FLUX's names for them.

    Raises:
        ValueError: tokens below 1, or so many that exp(mu) has no meaning in float32.
    """
    mu = base_shift + (max_shift - base_shift) * (tokens - 256) / (4096 - 256)
    if not (tokens >= 1 and abs(mu) <= 80):
        raise ValueError(f"tokens of {tokens} is not allowed, expected at least 1 and mu from -80 to 80, which is {mu}")
    return math.exp(mu)


def leading(process, n: int, offset: int = 0) -> Sigmas:
    """Sigmas [n + 1]: levels of a DDPM at t = offset + i·⌊T/n⌋, i = n-1 … 0, then 0; arXiv:2305.08891, Table 2.

    `timestep_spacing="leading"` of diffusers, whose Stable Diffusion pipelines set its `steps_offset` to 1. It never
    starts from the noisiest level, which is the flaw that the paper names, and with n = 1 from nearly clean data.

    Raises:
        ValueError: a process without steps, n not from 1 to T, an offset that leaves the table.
    """
    steps = _steps(process, n)
    last = steps - 1 - (n - 1) * (steps // n)
    if not hasattr(offset, "__index__") or not 0 <= offset <= last:
        raise ValueError(
            f"offset of {offset} is not allowed: it leaves the table of {steps} steps, expected from 0 to {last}"
        )
    return at_times(process, [offset + i * (steps // n) for i in reversed(range(n))])


def trailing(process, n: int) -> Sigmas:
    """Sigmas [n + 1]: levels of a DDPM at t = round(T - i·T/n) - 1, i = 0 … n-1, then 0; arXiv:2305.08891, Table 2.

    The spacing that the paper recommends: it starts from the noisiest level. `timestep_spacing="trailing"` of
    diffusers, but for the timestep of -1 that rounding appends to the latter for some n, such as 61 of T = 1000.

    Raises:
        ValueError: a process without steps, n not from 1 to T.
    """
    steps = _steps(process, n)
    # in float64 as NumPy's arange has it, for where T - i·T/n is half a step: which neighbor it rounds to
    gap = (steps - steps / n) - steps
    return at_times(process, [round(steps + i * gap) - 1 for i in range(n)])


def linspace(process, n: int) -> Sigmas:
    """Sigmas [n + 1]: levels of a DDPM at t = round(i·(T-1)/(n-1)), i = n-1 … 0, then 0; arXiv:2305.08891, Table 2.

    `timestep_spacing="linspace"` of diffusers' DDIM, halves rounded to even; its Euler does not round, which is
    `uniform_time`. n = 1 is t = 0, as there: one step from nearly clean data.

    Raises:
        ValueError: a process without steps, n not from 1 to T.
    """
    steps = _steps(process, n)
    gap = (steps - 1) / max(n - 1, 1)
    return at_times(process, [round(i * gap) for i in reversed(range(n))])


def _steps(process, n):
    """T of a process; refuses one that has none, and more levels than it has."""
    check_options(n)
    steps = getattr(process, "steps", None)
    if steps is None:
        raise ValueError(f"{type(process).__name__} has no table of steps, expected a DDPM; use uniform_time")
    if n > steps:
        raise ValueError(f"n of {n} is not allowed: the process has {steps} steps, expected at most as many")
    return steps


def _known(values):
    """The values of a vector; none while they are traced."""
    return () if isinstance(values, jax.core.Tracer) else jax.device_get(values).tolist()
