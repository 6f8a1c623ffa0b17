"""Samplers that draw noise at every step."""

import jax.numpy as jnp
from jax import Array

from diffax.prediction import Denoiser
from diffax.samplers.path import Samples, integrate, step_noise


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
        return x0 + (kept / s) * (x - x0) + drawn * step_noise(keys, i, x), x0

    return integrate(step, x, sigmas, trajectory)


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
        return x0 + (r / s) ** 2 * (x - x0) + drawn * step_noise(keys, i, x), x0

    return integrate(step, x, sigmas, trajectory)
