"""Continuous-time processes of the literature: variance-preserving and -exploding SDEs, cosine, EDM, flow matching."""

import math

import jax.numpy as jnp

from diffax.process.gaussian import Process, pytree


def _beta_integral(t, beta_min, beta_max):
    return beta_min * t + 0.5 * (beta_max - beta_min) * t**2


def _beta_time(integral, beta_min, beta_max):
    # the root of the quadratic in the form that does not cancel
    slope = beta_max - beta_min
    return 2.0 * integral / (beta_min + jnp.sqrt(beta_min**2 + 2.0 * slope * integral))


@pytree
class VP(Process):
    """The variance-preserving SDE, arXiv:2011.13456, Eq. 32-33: alpha² = exp(-∫beta) = 1 - sigma², linear beta(t)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    @property
    def t_min(self):
        """1e-5, the epsilon of arXiv:2011.13456, App. C."""
        return 1e-5

    def alpha(self, t):
        """exp(-½∫beta)."""
        return jnp.exp(-0.5 * _beta_integral(t, self.beta_min, self.beta_max))

    def sigma(self, t):
        """√(1 - exp(-∫beta))."""
        return jnp.sqrt(-jnp.expm1(-_beta_integral(t, self.beta_min, self.beta_max)))

    def nsr(self, t):
        """√(exp(∫beta) - 1)."""
        return jnp.sqrt(jnp.expm1(_beta_integral(t, self.beta_min, self.beta_max)))

    def time(self, nsr):
        """The inverse of `nsr`, in closed form."""
        return _beta_time(jnp.log1p(nsr**2), self.beta_min, self.beta_max)


@pytree
class SubVP(Process):
    """The sub-variance-preserving SDE, arXiv:2011.13456, Eq. 34-35: alpha = exp(-½∫beta), sigma = 1 - exp(-∫beta)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    @property
    def t_min(self):
        """1e-3: at 1e-5 the noise would be 1e-6 of the data."""
        return 1e-3

    def alpha(self, t):
        """exp(-½∫beta)."""
        return jnp.exp(-0.5 * _beta_integral(t, self.beta_min, self.beta_max))

    def sigma(self, t):
        """1 - exp(-∫beta)."""
        return -jnp.expm1(-_beta_integral(t, self.beta_min, self.beta_max))

    def nsr(self, t):
        """2·sinh(½∫beta)."""
        return 2.0 * jnp.sinh(0.5 * _beta_integral(t, self.beta_min, self.beta_max))

    def time(self, nsr):
        """The inverse of `nsr`, in closed form."""
        return _beta_time(2.0 * jnp.arcsinh(0.5 * nsr), self.beta_min, self.beta_max)


@pytree
class VE(Process):
    """The variance-exploding SDE, arXiv:2011.13456, Eq. 30-31: alpha = 1, sigma geometric between its ends."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def alpha(self, t):
        """1."""
        return jnp.ones_like(t)

    def sigma(self, t):
        """sigma_min·(sigma_max/sigma_min)^t."""
        return self.sigma_min * jnp.exp(t * jnp.log(jnp.asarray(self.sigma_max / self.sigma_min, jnp.result_type(t))))

    def time(self, nsr):
        """The inverse of `nsr`, in closed form."""
        ratio = jnp.asarray(self.sigma_max / self.sigma_min, jnp.result_type(nsr))
        return jnp.log(nsr / self.sigma_min) / jnp.log(ratio)


@pytree
class EDM(Process):
    """Time is the noise level itself, arXiv:2206.00364, Table 1: alpha = 1, sigma(t) = t."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    @property
    def t_min(self):
        """sigma_min."""
        return self.sigma_min

    @property
    def t_max(self):
        """sigma_max."""
        return self.sigma_max

    def alpha(self, t):
        """1."""
        return jnp.ones_like(t)

    def sigma(self, t):
        """t."""
        return jnp.asarray(t)

    def time(self, nsr):
        """nsr."""
        return jnp.asarray(nsr)

    def timestep(self, t):
        """Linear in log t: most of [sigma_min, sigma_max] is pure noise."""
        lo, hi = (jnp.log(jnp.asarray(end, jnp.result_type(t))) for end in (self.sigma_min, self.sigma_max))
        return 999.0 * (jnp.log(t) - lo) / (hi - lo)


@pytree
class Cosine(Process):
    """The cosine schedule in continuous time, arXiv:2102.09672, Eq. 17: alpha = cos(u)/cos(u0), alpha² + sigma² = 1.

    u = (t + s)/(1 + s)·π/2 and u0 = u(0). It stops at t = 0.999, where the noise is about 640 times the signal:
    at t = 1 nothing of the data is left and the noise-to-signal ratio is infinite.
    """

    s: float = 0.008

    @property
    def t_min(self):
        """1e-5."""
        return 1e-5

    @property
    def t_max(self):
        """0.999."""
        return 0.999

    def _angles(self, t):
        step = 0.5 * math.pi / (1.0 + self.s)
        return step * t, step * self.s, step * (1.0 - t)  # u - u0, u0, π/2 - u

    def alpha(self, t):
        """cos(u)/cos(u0)."""
        _, start, rest = self._angles(t)
        return jnp.sin(rest) / jnp.cos(jnp.asarray(start, jnp.result_type(t)))

    def sigma(self, t):
        """√(sin(u - u0)·sin(u + u0))/cos(u0): 1 - alpha² without its cancellation."""
        delta, start, _ = self._angles(t)
        return jnp.sqrt(jnp.sin(delta) * jnp.sin(delta + 2.0 * start)) / jnp.cos(jnp.asarray(start, jnp.result_type(t)))

    def time(self, nsr):
        """The inverse of `nsr`, in closed form."""
        step = 0.5 * math.pi / (1.0 + self.s)
        start = jnp.asarray(step * self.s, jnp.result_type(nsr))
        # cos(u) = cos(u0)/√(1 + nsr²) gives tan(u); the tangent of u - u0 then needs no difference of near-equals
        tan_u, tan_0 = jnp.sqrt(nsr**2 + jnp.sin(start) ** 2) / jnp.cos(start), jnp.tan(start)
        difference = (nsr / jnp.cos(start)) ** 2 / (tan_u + tan_0)
        return jnp.arctan2(difference, 1.0 + tan_u * tan_0) / step


@pytree
class FlowMatching(Process):
    """The straight path of flow matching, arXiv:2210.02747, Eq. 20-21, and rectified flow, arXiv:2209.03003.

    alpha = 1 - t, sigma = t, with data at t = 0. It stops at t = 0.999: at 1 the noise-to-signal ratio is infinite.
    """

    @property
    def t_min(self):
        """1e-5."""
        return 1e-5

    @property
    def t_max(self):
        """0.999."""
        return 0.999

    def alpha(self, t):
        """1 - t."""
        return 1.0 - jnp.asarray(t)

    def sigma(self, t):
        """t."""
        return jnp.asarray(t)

    def time(self, nsr):
        """nsr/(1 + nsr)."""
        return 1.0 / (1.0 + 1.0 / nsr)  # its derivative is a product: nothing cancels where nsr is large
