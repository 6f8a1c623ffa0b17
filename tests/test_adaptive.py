"""The adaptive sampler: the exact flow of a Gaussian at every level, its tolerances, its steps, its batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle import MIXTURE, exact_denoiser, gaussian, keys_of, posterior_mean, precision, strict  # noqa: F401

from diffax import adaptive_ode, adaptive_ode_stats, heun, init_noise, karras
from diffax.guidance import batched_cfg

DATA = gaussian(0.3, 0.5, 2)
SIGMAS = karras(7)


@jax.jit
def sample(x, sigmas, rtol=1e-5, atol=1e-5):
    """((x0, Trajectory), steps) for Gaussian data."""
    return adaptive_ode_stats(exact_denoiser(DATA), x, sigmas, None, rtol=rtol, atol=atol, trajectory=True)


def start(n=16):
    return init_noise(keys_of(n, seed=1), (2,), SIGMAS[0])


def exact(x, hi, levels):
    """The flow of N(0.3, ¼) from level hi to each of the levels: m + (x - m)·√((s² + r²)/(s² + hi²))."""
    scale = np.sqrt((0.25 + np.asarray(levels, np.float64) ** 2) / (0.25 + float(hi) ** 2))
    return 0.3 + (np.asarray(x, np.float64) - 0.3) * scale[:, None, None]


def test_path_is_the_exact_flow_at_every_level():
    x, before = start(), sample._cache_size()
    for sigmas in (SIGMAS, karras(7, 0.02, 40.0), SIGMAS.at[-1].set(0.001)):
        (x0, path), steps = sample(x, sigmas)
        ends = sigmas[:-1] if sigmas[-1] == 0 else sigmas
        levels = exact(x, sigmas[0], ends)
        np.testing.assert_allclose(path.x[: len(ends)], levels, rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(path.x[-1], x0)
        estimates = [posterior_mean(DATA, at, np.full(16, s)) for at, s in zip(levels, np.asarray(sigmas[:-1]))]
        np.testing.assert_allclose(path.x0, estimates, rtol=1e-4, atol=1e-3)
        if sigmas[-1] == 0:
            np.testing.assert_allclose(x0, estimates[-1], rtol=0, atol=1e-3)
        assert np.all((steps > 8) & (steps < 40))
    assert sample._cache_size() == before + 1


@pytest.mark.slow
def test_error_follows_the_tolerance():
    with precision(64):
        x, sigmas = init_noise(keys_of(16), (2,), 80.0), karras(7)
        sigmas = sigmas.at[-1].set(0.001)
        errors, spent = [], []
        for tolerance in (1e-3, 1e-6, 1e-9):
            (x0, _), steps = sample(x, sigmas, tolerance, tolerance)
            errors.append(np.max(np.abs(x0 - exact(x, sigmas[0], [0.001])[0])))
            spent.append(np.mean(steps))
            assert errors[-1] < 20 * tolerance
        assert spent[0] < spent[1] < spent[2]
    assert len(np.unique(steps)) > 1  # each example has steps of its own


@functools.partial(jax.jit, static_argnames="run")
def of_the_mixture(x, sigmas, run):
    return run(exact_denoiser(MIXTURE), x, sigmas, keys_of(len(x)))


@pytest.mark.slow
def test_the_mixture_as_by_many_steps_of_heun():
    with precision(64):
        x = init_noise(keys_of(16, seed=1), (2,), 80.0)
        found, other = of_the_mixture(x, karras(7), adaptive_ode), of_the_mixture(x, karras(512), heun)
    np.testing.assert_allclose(found, other, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_sample_depends_on_its_start_only():
    x = start()
    whole, others = sample(x, SIGMAS), sample(x.at[1:].set(7.0), SIGMAS)
    for a, b in ((whole[0][0], others[0][0]), (whole[1], others[1])):
        np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_allclose(sample(x[5:6], SIGMAS)[0][0], whole[0][0][5:6], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_eight_devices_draw_the_same_samples():
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    (found, _), steps = sample(jax.device_put(start(), NamedSharding(mesh, P("batch"))), SIGMAS)
    assert len(found.sharding.device_set) == len(steps.sharding.device_set) == 8
    np.testing.assert_allclose(found, sample(start(), SIGMAS)[0][0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_conditions_go_with_the_batch():
    # labels with a batch axis, guided; a call of the network takes the whole batch
    seen = []

    def of_class(x, sigma, label):
        seen.append(x.shape)
        return label[:, None] + (x - label[:, None]) * (0.25 / (0.25 + sigma**2))[:, None]

    labels = jnp.asarray([0.0, 1.0, -1.0, 2.0])
    denoise = batched_cfg(of_class, labels, jnp.zeros(4), 2.0)  # of mean 2·label: the two differ by a shift
    x = start(4)
    found = jax.jit(lambda x: adaptive_ode(denoise, x, SIGMAS, None))(x)
    assert set(seen) == {(8, 2)}
    scale = np.sqrt((0.25 + 0.002**2) / (0.25 + 80.0**2))
    # guidance adds label·sigma²/(¼ + sigma²) to D, which moves the mean of the flow to 2·label
    mean = 2 * np.asarray(labels)[:, None]
    np.testing.assert_allclose(found, mean + (np.asarray(x) - mean) * scale, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_outer_vmap_and_derivative():
    # the flow of a Gaussian is affine: its derivative along x is what x itself adds
    grids, x = jnp.stack([SIGMAS, karras(7, 0.02, 40.0)]), jnp.stack([start(), 0.5 * start()])

    def run(x, sigmas):
        flow = functools.partial(adaptive_ode, exact_denoiser(DATA), sigmas=sigmas, keys=None)
        return jax.jvp(flow, (x,), (jnp.ones_like(x),))

    values, slopes = jax.jit(jax.vmap(run))(x, grids)
    for i, sigmas in enumerate(np.asarray(grids, np.float64)):
        low = np.asarray([sigmas[-2]])
        scale = np.sqrt((0.25 + low**2) / (0.25 + sigmas[0] ** 2)) * 0.25 / (0.25 + low**2)
        np.testing.assert_allclose(slopes[i], np.full((16, 2), scale), rtol=2e-3)
        np.testing.assert_allclose(values[i], 0.3 + (np.asarray(x[i]) - 0.3) * scale, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_too_few_steps_give_nan():
    x = start(4)
    x0, steps = jax.jit(lambda x: adaptive_ode_stats(exact_denoiser(DATA), x, SIGMAS, None, max_steps=5))(x)
    assert np.all(np.isnan(x0))
    np.testing.assert_array_equal(steps, 5)


@pytest.mark.parametrize("option, value", [("rtol", 0.0), ("atol", -1e-5), ("rtol", float("nan")), ("max_steps", 0)])
def test_tolerances_that_cannot_be_meant_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"{option} of {value} is not allowed, expected"):
        adaptive_ode(exact_denoiser(DATA), start(), SIGMAS, None, **{option: value})
