"""Guidance by several conditions: the formulas, on mixtures whose conditionals are known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import MIXTURE, Mixture, exact_denoiser, gaussian, keys_of, strict  # noqa: F401

from diffax import batched_cfg, cfg, composed, guidance, init_noise, karras, nested, samplers


def part(components):
    """The exact denoiser of some components of the mixture: of what it is under a condition."""
    weights, means, stds = (values[components] for values in MIXTURE)
    return exact_denoiser(Mixture(weights / weights.sum(), means, stds))


NOTHING, FIRST, BOTH = part(slice(0, 3)), part(slice(0, 2)), part(slice(1, 2))
X = jnp.linspace(-2.0, 2.0, 6)[:, None] * jnp.ones(MIXTURE.means.shape[1])
SIGMA = jnp.asarray([0.05, 0.3, 0.7, 1.0, 3.0, 20.0])
SCALES = [(1.5, 4.0), (-1.0, 2.0), (0.0, 3.0), (jnp.linspace(0.0, 3.0, 6), jnp.linspace(2.0, -2.0, 6))]


def estimates():
    return [np.asarray(denoise(X, SIGMA), np.float64) for denoise in (NOTHING, FIRST, BOTH)]


def column(scale):
    return np.broadcast_to(np.asarray(scale, np.float64).reshape(-1, 1), (len(X), 1))


@pytest.mark.parametrize("scales", SCALES)
def test_composed_is_the_sum_of_differences_from_the_base(scales):
    # arXiv:2206.01714, Eq. 11
    nothing, first, both = estimates()
    expected = nothing + column(scales[0]) * (first - nothing) + column(scales[1]) * (both - nothing)
    np.testing.assert_allclose(composed(NOTHING, [FIRST, BOTH], scales)(X, SIGMA), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scales", SCALES)
def test_nested_is_the_sum_of_differences_from_the_one_before(scales):
    # arXiv:2211.09800, Eq. 3
    nothing, first, both = estimates()
    expected = nothing + column(scales[0]) * (first - nothing) + column(scales[1]) * (both - first)
    np.testing.assert_allclose(nested([NOTHING, FIRST, BOTH], scales)(X, SIGMA), expected, rtol=1e-4, atol=1e-5)


def test_of_one_condition_both_are_cfg():
    expected = cfg(FIRST, NOTHING, 2.5)(X, SIGMA)
    np.testing.assert_allclose(composed(NOTHING, [FIRST], [2.5])(X, SIGMA), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(nested([NOTHING, FIRST], [2.5])(X, SIGMA), expected, rtol=1e-4, atol=1e-5)


def test_scale_1_of_all_is_the_last_of_nested():
    found = nested([NOTHING, FIRST, BOTH], [1.0, 1.0])(X, SIGMA)
    np.testing.assert_allclose(found, BOTH(X, SIGMA), rtol=1e-4, atol=1e-5)


def test_conditions_that_are_independent_compose_to_both_at_once():
    # of two independent coordinates one condition moves the first, the other the second: together they move both
    def of(a, b, u, v):
        first, second = exact_denoiser(gaussian(a, b)), exact_denoiser(gaussian(u, v))
        return lambda x, sigma: jnp.concatenate([first(x[:, :1], sigma), second(x[:, 1:], sigma)], axis=1)

    base, left, right, both = of(0, 1, 0, 1), of(1, 0.3, 0, 1), of(0, 1, -2, 0.1), of(1, 0.3, -2, 0.1)
    x, keys = jnp.asarray([[0.3, -0.4], [2.0, 1.0]]), keys_of(2)
    found = composed(base, [left, right], [1.0, 1.0])
    for sigma in (0.05, 0.5, 5.0):
        np.testing.assert_allclose(found(x, sigma), both(x, sigma), rtol=1e-4, atol=1e-5)
    sigmas = karras(12, 0.01, 10.0)
    noise = init_noise(keys, (2,), sigmas[0])
    expected = samplers.heun(both, noise, sigmas, keys)
    np.testing.assert_allclose(samplers.heun(found, noise, sigmas, keys), expected, rtol=1e-3, atol=1e-4)


def test_a_negative_prompt_leads_away_from_what_it_says():
    # guidance from another condition than nothing: cfg's formula with it, in one batched call too
    positive, negative = np.asarray(BOTH(X, SIGMA)), np.asarray(FIRST(X, SIGMA))
    expected = negative + 3.0 * (positive - negative)
    np.testing.assert_allclose(cfg(BOTH, FIRST, 3.0)(X, SIGMA), expected, rtol=1e-4, atol=1e-5)

    def told(x, sigma, cond):
        return jnp.where(cond["text"][:, :1] == 7, BOTH(x, sigma), FIRST(x, sigma))

    wanted, unwanted = {"text": jnp.full((6, 3), 7)}, {"text": jnp.full((6, 3), 5)}
    found = batched_cfg(told, wanted, unwanted, jnp.full(6, 3.0))(X, SIGMA)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("several", "scales", "run"),
    [
        ("composed", (0.0, 2.0), "nothing both"),
        ("composed", (0.0, 1.0), "both"),
        ("composed", (-1.0, 2.0), "first both"),
        ("composed", (1.0, 1.0), "nothing first both"),
        ("nested", (1.0, 1.0), "both"),
        ("nested", (3.0, 3.0), "nothing both"),
        ("nested", (1.0, 0.0), "first"),
        ("nested", (0.0, 0.0), "nothing"),
        ("nested", (1.0, np.float32([1, 1, 1, 1, 1, 2])), "first both"),
    ],
)
def test_what_is_multiplied_by_0_is_not_run(several, scales, run):
    calls = []

    def counted(name, denoise):
        return lambda x, sigma: calls.append(name) or denoise(x, sigma)

    parts = [counted(*part) for part in (("nothing", NOTHING), ("first", FIRST), ("both", BOTH))]
    denoise = composed(parts[0], parts[1:], scales) if several == "composed" else nested(parts, scales)
    jax.eval_shape(denoise, X, SIGMA)
    assert calls == run.split()


MAKE = {"composed": partial(composed, NOTHING, [FIRST, BOTH]), "nested": partial(nested, [NOTHING, FIRST, BOTH])}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_scales_that_cannot_be_meant_are_refused(make):
    for scales, message in (([1.0], "1 scales for 2 conditions"), ([1.0, float("nan")], "scale=nan"), ([], "0 scales")):
        with pytest.raises(ValueError, match=message):
            make(scales)
    assert {"composed", "nested"} <= set(guidance.__all__)
