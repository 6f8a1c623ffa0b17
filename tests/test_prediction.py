"""Parameterizations: the denoiser of the exact network is the exact posterior mean, whatever was predicted."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import thinned
from oracle import (
    MIXTURE,
    PREDICTIONS,
    PROCESSES,
    exact_network,
    gaussian,
    levels,
    posterior,
    posterior_mean,
    precision,
    strict,  # noqa: F401
    told_t,
)

from diffax import VP, Cosine, FlowMatching, denoiser, prediction, to_x0

LEVELS, POINTS = 24, 8


@jax.jit
def every_denoiser(process, x, sigma):
    networks = {name: exact_network(MIXTURE, process, name) for name in PREDICTIONS}
    return {name: denoiser(apply, process, row)(x, sigma) for name, (apply, row) in networks.items()}


@functools.cache
def denoised(process_name, bits):
    """(sigma [n], reference [n, 2], {prediction: denoised [n, 2]}) at points of the mixture's own marginals."""
    with precision(bits):
        process = PROCESSES[process_name]()
        sigma = np.repeat(levels(process, LEVELS), POINTS)
        x = MIXTURE.draw(sigma.size) + sigma[:, None] * np.random.default_rng(1).standard_normal((sigma.size, 2))
        sigma, x = jnp.asarray(sigma, f"float{bits}"), jnp.asarray(x, f"float{bits}")
        return np.asarray(sigma), posterior_mean(MIXTURE, x, sigma), jax.device_get(every_denoiser(process, x, sigma))


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("process_name", PROCESSES)
def test_denoiser_is_the_posterior_mean(process_name, name):
    _, reference, found = denoised(process_name, 64)
    np.testing.assert_allclose(found[name], reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("process_name", PROCESSES)
def test_denoiser_in_float32(process_name, name):
    sigma, reference, found = denoised(process_name, 32)
    assert found[name].dtype == np.float32
    # relative to the data, whose mixture has a root mean square of about 1
    error = np.abs(found[name] - reference).max(-1)
    assert error.max() < 1e-3
    assert error[(0.3 < sigma) & (sigma < 3.0)].max() < 2e-5


@pytest.mark.parametrize("process_name", PROCESSES)
def test_to_x0_solves_for_x0(process_name):
    # no network and no posterior: y = a·x0 + b·eps of known x0 and eps, at the two ends and between
    with precision(64):
        process = PROCESSES[process_name]()
        t = process.time(jnp.asarray(levels(process, 9)))
        x0, eps = jax.random.normal(jax.random.key(0), (2, 9, 3, 2))
        alpha, sigma = process.alpha(t)[:, None, None], process.sigma(t)[:, None, None]
        for name, case in PREDICTIONS.items():
            a, b = (c[:, None, None] for c in case.make().target(process, t))
            found = to_x0(case.make(), process, a * x0 + b * eps, alpha * x0 + sigma * eps, t)
            np.testing.assert_allclose(found, x0, rtol=1e-8, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_velocity_is_the_derivative_of_x_t(process_name):
    with precision(64):
        process = PROCESSES[process_name]()
        span = process.t_max - process.t_min
        t = process.t_min + span * jnp.linspace(0.0713, 0.9283, 9)  # no kink of a table within h
        h = 1e-5 * span
        for found, f in zip(prediction.velocity().target(process, t), (process.alpha, process.sigma)):
            np.testing.assert_allclose(found, (f(t + h) - f(t - h)) / (2 * h), rtol=1e-5, atol=1e-7 / span)


def test_score_is_the_gradient_of_the_log_density():
    # the mixture's density at x_t, differentiated: no posterior in it
    weights, means, stds = MIXTURE

    def log_density(x_t, alpha, sigma):
        total = (alpha * stds) ** 2 + sigma**2
        apart = jnp.sum((x_t - alpha * means) ** 2, -1)
        return jax.nn.logsumexp(jnp.log(weights) - 0.5 * apart / total - jnp.log(2 * jnp.pi * total))

    with precision(64):
        process, t = VP(), jnp.linspace(0.02, 1.0, 12)
        x_t = jnp.asarray(MIXTURE.draw(12))
        apply, _ = exact_network(MIXTURE, process, "score")
        expected = jax.jit(jax.vmap(jax.grad(log_density)))(x_t, process.alpha(t), process.sigma(t))
        np.testing.assert_allclose(jax.jit(apply)(x_t, t), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_c_in_gives_unit_variance(process_name):
    with precision(64):
        process = PROCESSES[process_name]()
        t = process.time(jnp.asarray(levels(process, 9)))
        for row, std in ((prediction.edm(0.5), 0.5), (prediction.eps(c_in=prediction.unit_variance), 1.0)):
            variance = row.c_in(process, t) ** 2 * (process.alpha(t) ** 2 * std**2 + process.sigma(t) ** 2)
            np.testing.assert_allclose(variance, 1.0, rtol=1e-9)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_edm_network_sees_the_same_whatever_the_process(process_name):
    # arXiv:2206.00364, Eq. 7: its input is x/√(sigma² + sd²) and ¼·ln(sigma), which name no process
    with precision(64):
        process = PROCESSES[process_name]()
        sigma = jnp.asarray(levels(process, 9))
        x, seen = jnp.linspace(-2.0, 2.0, 9)[:, None], []
        denoiser(lambda *inputs: seen.append(inputs) or inputs[0], process, prediction.edm(0.7))(x, sigma)
        np.testing.assert_allclose(seen[0][0], x / np.sqrt(sigma**2 + 0.49)[:, None], rtol=1e-9)
        np.testing.assert_allclose(seen[0][1], 0.25 * np.log(sigma), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_network_is_told_0_to_999_and_never_more(process_name):
    with precision(64):
        process = PROCESSES[process_name]()
        inside = levels(process, 7)
        sigma = jnp.asarray([inside[0] / 10, *inside, inside[-1] * 10])
        told = []
        denoiser(lambda x, c: told.append(c) or x, process, prediction.eps())(jnp.ones((9, 1)), sigma)
        np.testing.assert_allclose(told[0][:2], 0.0, atol=1e-6)
        np.testing.assert_allclose(told[0][-2:], 999.0, rtol=1e-6)
        assert np.all(np.diff(told[0][1:-1]) > 0)


@pytest.mark.parametrize("name", ["x0", "eps", "v", "velocity", "edm"])
@pytest.mark.parametrize("process", [VP(), Cosine(), FlowMatching()], ids=["vp", "cosine", "flow"])
def test_levels_outside_the_process(process, name):
    # a network that knows the answer at every level: only what it is told of t is clipped, the algebra is not
    with precision(64):
        sigma = jnp.asarray([1e-4, 2e-4, 5e-4, 1e-3, 1.0, 1e3, 1.5e3, 2e3, 3e3])
        x = 0.7 + 0.8 * sigma[:, None]
        row = PREDICTIONS[name].make(c_noise=told_t)
        x0, eps = posterior(gaussian(0.2, 0.5), x, jnp.ones(9), sigma)
        a, b = (c[:, None] for c in row.target(process, process.time(sigma)))
        found = denoiser(lambda x_in, t: a * x0 + b * eps, process, row)(x, sigma)
        np.testing.assert_allclose(found, x0, rtol=1e-7)


@functools.partial(jax.jit, static_argnums=0)
def slopes(name, process, x, sigma):
    def denoise(x, sigma):
        apply, row = exact_network(gaussian(0.2, 0.5), process, name)
        return denoiser(apply, process, row)(x, sigma)

    return jax.vjp(denoise, x, sigma)[1](jnp.ones_like(x))


@pytest.mark.parametrize(
    ("process_name", "name"),
    thinned(
        [*((p, "eps") for p in PROCESSES), *(("vp", p) for p in PREDICTIONS if p != "eps")],
        *("vp", "flow", "ddpm", "shifted_flow", "learned", "trigonometric"),
    ),
)
def test_derivatives_of_the_denoiser(process_name, name):
    # D = (s²·x + sigma²·m)/(s² + sigma²); sigma is differentiated through `time`
    with precision(64):
        process = PROCESSES[process_name]()
        inside = levels(process, 11)[1:-1]
        sigma = jnp.asarray(inside)
        x = jnp.linspace(-2.0, 2.0, 9)[:, None]
        by_x, by_sigma = slopes(name, process, x, sigma)
        np.testing.assert_allclose(by_x[:, 0], 0.25 / (0.25 + inside**2), rtol=1e-7)
        expected = 2 * inside * 0.25 * (0.2 - np.asarray(x[:, 0])) / (0.25 + inside**2) ** 2
        np.testing.assert_allclose(by_sigma, expected, rtol=1e-6, atol=1e-7)


def test_one_level_for_all_is_the_same_as_one_each():
    process = FlowMatching()
    apply, row = exact_network(gaussian(0.0, 0.5, dim=12), process, "velocity")
    denoise = jax.jit(denoiser(apply, process, row))
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 3))  # images
    each = denoise(x, jnp.full(3, 0.8))
    assert each.shape == x.shape
    np.testing.assert_array_equal(denoise(x, 0.8), each)
    np.testing.assert_array_equal(denoise(x, jnp.float32(0.8)), each)
    np.testing.assert_allclose(each, np.asarray(x) * 0.25 / (0.25 + 0.64), rtol=1e-5, atol=1e-6)


def test_vmap_over_the_process():
    apply_of = functools.partial(exact_network, gaussian(0.1, 0.5))

    def denoised_at(beta_max):
        process = VP(0.1, beta_max)
        apply, row = apply_of(process, "v")
        return denoiser(apply, process, row)(jnp.ones((2, 1)), jnp.asarray([0.5, 2.0]))

    found = jax.jit(jax.vmap(denoised_at))(jnp.asarray([5.0, 10.0, 20.0]))
    # the answer does not know the process that led to it
    np.testing.assert_allclose(found[:, 0, 0], (0.25 + 0.1 * 0.25) / 0.5, rtol=1e-5)
    np.testing.assert_allclose(found[:, 1, 0], (0.25 + 0.1 * 4.0) / 4.25, rtol=1e-5)


def test_quarter_log_nsr_is_told():
    t = jnp.asarray([0.1, 0.5, 0.9])
    told = prediction.eps(c_noise=prediction.quarter_log_nsr).c_noise(FlowMatching(), t)
    np.testing.assert_allclose(told, [0.25 * math.log(u / (1 - u)) for u in (0.1, 0.5, 0.9)], rtol=1e-5, atol=1e-7)
