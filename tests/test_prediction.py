"""Parameterizations: the denoiser of the exact network is the exact posterior mean, whatever was predicted."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import (
    MIXTURE,
    PREDICTIONS,
    PROCESSES,
    exact_denoiser,
    exact_network,
    gaussian,
    levels,
    posterior_mean,
    precision,
    strict,  # noqa: F401
    told_t,
)

from diffax import VP, Cosine, FlowMatching, Prediction, denoiser, prediction, to_x0

LEVELS, POINTS = 24, 8


@functools.cache
def denoised(process_name, bits):
    """(sigma [n], reference [n, 2], {prediction: denoised [n, 2]}) at points of the mixture's own marginals."""
    with precision(bits):
        process = PROCESSES[process_name]()
        sigma = np.repeat(levels(process, LEVELS), POINTS)
        x = MIXTURE.draw(sigma.size) + sigma[:, None] * np.random.default_rng(1).standard_normal((sigma.size, 2))
        sigma, x = jnp.asarray(sigma, f"float{bits}"), jnp.asarray(x, f"float{bits}")

        @jax.jit
        def every(process, x, sigma):
            rows = {name: exact_network(MIXTURE, process, name) for name in PREDICTIONS}
            return {name: denoiser(apply, process, row)(x, sigma) for name, (apply, row) in rows.items()}

        found = jax.tree.map(np.asarray, every(process, x, sigma))
        return np.asarray(sigma), posterior_mean(MIXTURE, x, sigma), found


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
