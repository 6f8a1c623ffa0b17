"""Guidance against its formula, and against the law that it samples where that has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import GUIDANCES, MIXTURE, exact_denoiser, gaussian, keys_of, precision

from diffax import guidance, samplers

COND, UNCOND = exact_denoiser(gaussian(0.4, 0.3)), exact_denoiser(gaussian(-0.2, 0.7))


def points(n=5):
    return jax.random.normal(jax.random.key(0), (n, 1)) * 2.0


@pytest.mark.parametrize("name", GUIDANCES)
@pytest.mark.parametrize("sigma", [0.31, 1.0, 2.9])
def test_extrapolates_from_the_unconditional(name, sigma):
    x = points()
    expected = UNCOND(x, sigma) + 3.0 * (COND(x, sigma) - UNCOND(x, sigma))
    np.testing.assert_allclose(GUIDANCES[name](COND, UNCOND)(x, sigma), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", GUIDANCES)
def test_two_equal_denoisers_are_left_alone(name):
    denoise = exact_denoiser(MIXTURE)
    x = jax.random.normal(jax.random.key(1), (4, MIXTURE.means.shape[-1]))
    np.testing.assert_array_equal(GUIDANCES[name](denoise, denoise)(x, 0.7), denoise(x, 0.7))


def test_scale_one_is_conditional_bit_for_bit_and_zero_unconditional():
    x = points()
    np.testing.assert_array_equal(guidance.cfg(COND, UNCOND, 1.0)(x, 0.8), COND(x, 0.8))
    np.testing.assert_allclose(guidance.cfg(COND, UNCOND, 0.0)(x, 0.8), UNCOND(x, 0.8), rtol=1e-6, atol=1e-6)


def test_the_interval_excludes_its_lower_and_includes_its_upper_end():
    x = points(1)
    guided = guidance.cfg(COND, UNCOND, 5.0, sigma_lo=0.5, sigma_hi=2.0)
    always = guidance.cfg(COND, UNCOND, 5.0)
    for sigma, inside in ((0.25, False), (0.5, False), (0.51, True), (2.0, True), (2.01, False)):
        expected = always(x, sigma) if inside else COND(x, sigma)
        np.testing.assert_array_equal(guided(x, sigma), expected)
        assert bool(jnp.allclose(always(x, sigma), COND(x, sigma))) is False


def test_scale_per_example():
    x, scales = points(3), jnp.array([0.0, 1.0, 4.0])
    together = guidance.cfg(COND, UNCOND, scales)(x, 0.8)
    for i, scale in enumerate(scales):
        alone = guidance.cfg(COND, UNCOND, scale)(x[i : i + 1], 0.8)
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-6)


def test_batched_is_cfg_of_the_two_conditions():
    def either(x, sigma, mean):
        return exact_denoiser(gaussian(0.0, 0.5))(x - mean[:, None], sigma) + mean[:, None]

    x, cond, uncond = points(4), jnp.array([1.0, -1.0, 0.5, 0.0]), jnp.zeros(4)
    sigma = jnp.array([0.1, 0.5, 1.0, 3.0])
    batched = guidance.batched_cfg(either, cond, uncond, 2.5, sigma_lo=0.2)(x, sigma)
    apart = guidance.cfg(lambda x, s: either(x, s, cond), lambda x, s: either(x, s, uncond), 2.5, sigma_lo=0.2)(
        x, sigma
    )
    np.testing.assert_allclose(batched, apart, rtol=1e-6, atol=1e-6)


def test_guided_sampling_of_equal_spreads_moves_the_mean():
    """Guided Gaussians of one spread s have a closed form.

    With means a and b the guided denoiser is that of N(m, s²) but for a shift: the ODE's solution from sigma = inf
    ends at mean b + w(a - b), spread s.
    """
    a, b, s, w = 0.3, -0.1, 0.5, 3.0
    guided = guidance.cfg(exact_denoiser(gaussian(a, s)), exact_denoiser(gaussian(b, s)), w)
    with precision(64):
        keys = keys_of(4000)
        sigmas = samplers.karras(60, 0.001, 200.0)
        x = samplers.heun(guided, samplers.init_noise(keys, (1,), sigmas[0]), sigmas, keys)
        assert abs(float(x.mean()) - (b + w * (a - b))) < 4.5 * s / np.sqrt(4000) + 0.01
        assert abs(float(x.std()) / s - 1.0) < 0.05


def test_changing_scale_and_interval_does_not_recompile():
    traces = []

    @jax.jit
    def run(x, scale, lo, hi):
        traces.append(1)
        return guidance.cfg(COND, UNCOND, scale, sigma_lo=lo, sigma_hi=hi)(x, 1.0)

    for scale, lo, hi in ((1.0, 0.0, jnp.inf), (7.5, 0.2, 5.0), (0.0, 0.0, 1.0)):
        run(points(), scale, lo, hi)
    assert len(traces) == 1
