"""Gaussian diffusion processes x_t = alpha(t)·x0 + sigma(t)·eps.

A process is two functions of time. Everything else follows from them: the noise-to-signal ratio
nsr = sigma/alpha, the log signal-to-noise ratio, and the inverse `time`. Time runs from `t_min` (data) to `t_max`
(noise) in every process; both ends are chosen so that each quantity is finite there in float32.

Processes are pytrees whose leaves are their hyper-parameters: they pass through jit, vmap and grad.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import expand


def pytree(cls):
    """Class decorator: a frozen dataclass registered as a pytree, every field a child.

    The one record mechanism of the library. Unflattening skips `__init__`, so that a class may validate or
    precompute there and still carry tracers, `None` or shapes through a transformation.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    names = tuple(field.name for field in dataclasses.fields(cls))

    def flatten_with_keys(record):
        return tuple((jax.tree_util.GetAttrKey(name), getattr(record, name)) for name in names), None

    def flatten(record):
        return tuple(getattr(record, name) for name in names), None

    def unflatten(_, children):
        record = object.__new__(cls)
        for name, child in zip(names, children):
            object.__setattr__(record, name, child)
        return record

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


class Process:
    """x_t = alpha(t)·x0 + sigma(t)·eps. A new process gives `alpha` and `sigma`; all methods act elementwise on t."""

    @property
    def t_min(self) -> float:
        """The time of clean data."""
        return 0.0

    @property
    def t_max(self) -> float:
        """The time of pure noise."""
        return 1.0

    def alpha(self, t: Array) -> Array:
        """The signal's scale at time t."""
        raise TypeError(f"{type(self).__name__} must define alpha(t)")

    def sigma(self, t: Array) -> Array:
        """The noise's standard deviation at time t, in units of x_t."""
        raise TypeError(f"{type(self).__name__} must define sigma(t)")

    def nsr(self, t: Array) -> Array:
        """The noise-to-signal ratio sigma(t)/alpha(t): the noise level in the units of the data."""
        return self.sigma(t) / self.alpha(t)

    def logsnr(self, t: Array) -> Array:
        """log(alpha²/sigma²), the gamma of arXiv:2107.00630 with its sign turned."""
        return -2.0 * jnp.log(self.nsr(t))

    def time(self, nsr: Array) -> Array:
        """The inverse of `nsr`, by bisection of [t_min, t_max]; differentiable by the implicit function theorem."""
        nsr = jnp.asarray(nsr)
        lo, hi = jnp.full_like(nsr, self.t_min), jnp.full_like(nsr, self.t_max)

        def halve(_, bracket):
            lo, hi = bracket
            middle = 0.5 * (lo + hi)
            below = self.nsr(middle) < nsr
            return jnp.where(below, middle, lo), jnp.where(below, hi, middle)

        # 64 halvings exhaust the bits of a float64, 32 those of a float32
        lo, hi = jax.lax.fori_loop(0, 64 if nsr.dtype == jnp.float64 else 32, halve, (lo, hi))
        t = jax.lax.stop_gradient(0.5 * (lo + hi))
        value, slope = jax.jvp(self.nsr, (t,), (jnp.ones_like(t),))
        # zero in value, exact in derivative: dt = (d nsr - d nsr(t; parameters)) / nsr'(t)
        return t + ((nsr - jax.lax.stop_gradient(nsr)) - (value - jax.lax.stop_gradient(value))) / slope

    def timestep(self, t: Array) -> Array:
        """What networks are told of t by default: 0 at t_min, 999 at t_max, linear in t, as in DDPM."""
        return 999.0 * (t - self.t_min) / (self.t_max - self.t_min)


def add_noise(process: Process, x0: Array, eps: Array, t: Array) -> Array:
    """Draws x_t given its noise: alpha(t)·x0 + sigma(t)·eps, for x0 and eps [batch, *data] and t [batch]."""
    return expand(process.alpha(t), x0) * x0 + expand(process.sigma(t), x0) * eps


@pytree
class Shifted(Process):
    """`process` with its noise-to-signal ratio multiplied by `shift`: logsnr falls by 2·log(shift).

    The shifted schedule for higher resolutions of arXiv:2301.11093, Eq. 3, and arXiv:2403.03206, Eq. 23. Time is
    rerouted, t → process.time(shift·process.nsr(t)), so that the relation between alpha and sigma is kept.
    """

    process: Process
    shift: float

    @property
    def t_min(self):
        """The base's."""
        return self.process.t_min

    @property
    def t_max(self):
        """The base's."""
        return self.process.t_max

    def _inner(self, t):
        return self.process.time(self.shift * self.process.nsr(t))

    def alpha(self, t):
        """The base's alpha at the rerouted time."""
        return self.process.alpha(self._inner(t))

    def sigma(self, t):
        """The base's sigma at the rerouted time."""
        inner = self._inner(t)
        # 1 where the base's `time` reaches; a base that inverts by bisection stops at its t_max. Not differentiated:
        # in alpha·nsr, equal in value, the derivative is a difference of near-equals where nsr is large
        reach = jax.lax.stop_gradient(self.nsr(t) / self.process.nsr(inner))
        return reach * self.process.sigma(inner)

    def nsr(self, t):
        """shift·nsr of the base."""
        return self.shift * self.process.nsr(t)

    def time(self, nsr):
        """The base's time of nsr/shift."""
        return self.process.time(nsr / self.shift)

    def timestep(self, t):
        """The base's."""
        return self.process.timestep(t)
