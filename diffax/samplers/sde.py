"""Samplers that draw noise at every step, from keys of each example; the step to 0 draws none."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from diffax.known import check, check_count
from diffax.prediction import Denoiser
from diffax.samplers.path import Samples, integrate, step_noise


def ddim(
    denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, eta: float = 0.0, trajectory: bool | int = False
) -> Samples:
    """DDIM, arXiv:2010.02502, Eq. 12 and 16. eta = 0 is Euler's method on dx/dsigma; eta = 1 is Ho et al.'s posterior.

    From s to r the noise drawn has the standard deviation eta·r·√(s² - r²)/s.

    Args:
        eta: share of the noise that is drawn anew, in [0, 1].

    Raises:
        ValueError: another eta.
    """
    check(lambda eta: 0 <= eta <= 1, "it is a share of the noise; give a number in [0, 1]", eta=eta)

    def step(x, i, s, r):
        x0 = denoise(x, s)
        share = eta * jnp.where(r > 0, r, s) / s  # a share of 0 has no derivative where eta is 1
        kept = r * jnp.sqrt((1.0 - eta**2) + share**2)  # √(r² - drawn²), with nothing to cancel
        drawn = eta * r * jnp.sqrt((1.0 - r / s) * (1.0 + r / s))
        return x0 + (kept / s) * (x - x0) + drawn * step_noise(keys, i, x), x0

    return integrate(step, x, sigmas, trajectory)


def euler_ancestral(
    denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, eta: float = 1.0, trajectory: bool | int = False
) -> Samples:
    """Euler's step to a lower level than the next, and noise up to it: `ddim`, with eta = 1 unless said otherwise.

    In (x, sigma) the two are one formula: Euler's step to the level √(r² - drawn²), then the noise drawn.
    """
    return ddim(denoise, x, sigmas, keys, eta=eta, trajectory=trajectory)


def ancestral(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    keys: Array,
    *,
    variance: float | Callable[[Array, Array], Array] = 0.0,
    trajectory: bool | int = False,
) -> Samples:
    """Ancestral sampling of the DDPM chain, arXiv:2006.11239, Algorithm 2; no noise in the last step.

    Args:
        variance: 0 is the small variance, the posterior's beta-tilde = r²(s² - r²)/s²; 1 is the large one, the forward
            beta of a variance-preserving chain, (s² - r²)(1 + r²)/(1 + s²); between them the logarithm is
            interpolated, arXiv:2102.09672, Eq. 15. A function (x, s) -> [batch, *data] where a network has learned
            it; XLA merges its network call with the denoiser's.

    Raises:
        ValueError: a number outside of [0, 1].
    """
    if not callable(variance):
        check(lambda v: 0 <= v <= 1, "0 is the small one, 1 the large; give a number in [0, 1]", variance=variance)

    def step(x, i, s, r):
        x0 = denoise(x, s)
        v = variance(x, s) if callable(variance) else variance
        # large/small = (s² + s²r²)/(r² + s²r²); the square root of small is taken out before r = 0 can spoil it
        ratio = (s**2 * (1.0 + r**2)) / (jnp.where(r > 0, r, s) ** 2 * (1.0 + s**2))
        drawn = (r / s) * jnp.sqrt((s - r) * (s + r)) * ratio ** (0.5 * v)
        return x0 + (r / s) ** 2 * (x - x0) + drawn * step_noise(keys, i, x), x0

    return integrate(step, x, sigmas, trajectory)


def euler_maruyama(
    denoise: Denoiser, x: Array, sigmas: Array, keys: Array, *, trajectory: bool | int = False
) -> Samples:
    """Euler-Maruyama on the reverse SDE, arXiv:2011.13456, Eq. 6, in (x, sigma): reverse diffusion, App. E.

    From s to r: (s² - r²) times the score (D - x)/s², and noise of variance s² - r².
    """

    def step(x, i, s, r):
        x0 = denoise(x, s)
        return _reverse_diffusion(x, x0, i, s, r, keys), x0

    return integrate(step, x, sigmas, trajectory)


def predictor_corrector(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    keys: Array,
    *,
    snr: float = 0.16,
    corrections: int = 1,
    trajectory: bool | int = False,
) -> Samples:
    """Reverse diffusion, each step followed by Langevin dynamics at its level; arXiv:2011.13456, Algorithms 2 and 4.

    A correction at level r is x + a·score + √(2a)·noise with a = 2·(snr·r)². The paper has the ratio of the norms of
    noise and score in place of r, averaged over the batch; r is what this ratio is for a sample of that level, and
    with it no sample depends on its neighbors.

    Args:
        snr: signal-to-noise ratio of a correction.
        corrections: network calls of the corrector a step.
    """
    check_count("corrections", corrections, least=0)
    check(lambda snr: 0 <= snr < math.inf, "a ratio is not negative; the paper's is 0.16", snr=snr)

    def step(x, i, s, r):
        x0 = denoise(x, s)
        x = _reverse_diffusion(x, x0, i * (corrections + 1), s, r, keys)
        level = jnp.where(r > 0, r, s)
        for j in range(corrections):
            size = 2.0 * snr**2  # a/r²
            noise = step_noise(keys, i * (corrections + 1) + j + 1, x)
            moved = x + size * (denoise(x, level) - x) + jnp.sqrt(2.0 * size) * level * noise
            x = jnp.where(r > 0, moved, x)
        return x, x0

    return integrate(step, x, sigmas, trajectory)


def _reverse_diffusion(x, x0, i, s, r, keys):
    spread = jnp.where(r > 0, jnp.sqrt((s - r) * (s + r)), 0.0)
    return x + (1.0 - r / s) * (1.0 + r / s) * (x0 - x) + spread * step_noise(keys, i, x)
