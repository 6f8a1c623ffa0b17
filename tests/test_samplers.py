"""Samplers: each against the algorithm of its paper in NumPy float64, in the coordinates of that paper."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from networks import thinned
from oracle import (
    MIXTURE,
    PROCESSES,
    SAMPLERS,
    exact_denoiser,
    exact_network,
    gaussian,
    keys_of,
    levels,
    noises,
    posterior_mean,
    precision,
    strict,  # noqa: F401
)

from diffax import DDPM, FlowMatching, denoiser, init_noise, linear_betas, samplers
from diffax.samplers.path import of_samples

DATA = gaussian(0.3, 0.5)


@jax.jit
def every_sampler(x, sigmas, keys):
    """{sampler: (samples, path)} for Gaussian data."""
    return {name: case.run(exact_denoiser(DATA), x, sigmas, keys, trajectory=True) for name, case in SAMPLERS.items()}


@jax.jit
def dpmpp_2m_of_a_network(process, x, sigmas):
    apply, row = exact_network(MIXTURE, process, "v")
    return samplers.dpmpp_2m(denoiser(apply, process, row), x, sigmas, None)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_a_network_of_any_process_samples_alike(process_name):
    with precision(64):
        process = PROCESSES[process_name]()
        sigmas = samplers.karras(12, *levels(process, 2))
        start, noise = init_noise(keys_of(6), (2,), sigmas[0]), np.zeros((12, 6, 2))
        found = np.asarray(dpmpp_2m_of_a_network(process, start, sigmas))
    path = SAMPLERS["dpmpp_2m"].reference(reference.denoiser(MIXTURE), np.asarray(start), np.asarray(sigmas), noise)
    np.testing.assert_allclose(found, path[-1], rtol=1e-7, atol=1e-8)


def test_ddim_is_euler_on_the_velocity():
    # x_t' = x_t + (t' - t)·E[eps - x0 | x_t] in flow matching's own coordinates
    t = np.append(np.linspace(0.98, 0.05, 15), 0.0)
    with precision(64):
        process = FlowMatching()
        apply, row = exact_network(MIXTURE, process, "velocity")
        sigmas = samplers.at_times(process, t[:-1])
        start = init_noise(keys_of(8), (2,), sigmas[0])
        _, path = jax.jit(
            lambda x: samplers.ddim(denoiser(apply, process, row), x, sigmas, keys_of(8), trajectory=True)
        )(start)
    path, x_t = np.asarray(path.x), np.asarray(start) * (1 - t[0])
    for i in range(15):
        x0 = posterior_mean(MIXTURE, x_t / (1 - t[i]), np.full(8, t[i] / (1 - t[i])))
        x_t = x_t + (t[i + 1] - t[i]) * (x_t - x0) / t[i]
        np.testing.assert_allclose(path[i + 1] * (1 - t[i + 1]), x_t, rtol=1e-10, atol=1e-11)


@jax.jit
def chains(process, x, sigmas):
    apply, row = exact_network(MIXTURE, process, "eps")
    return [
        SAMPLERS[name].run(denoiser(apply, process, row), x, sigmas, keys_of(8), trajectory=True)[1].x
        for name in ("ddim_full", "ancestral_small", "ancestral_large")
    ]


def test_the_ddpm_chain_of_ho_et_al():
    # arXiv:2006.11239, Algorithm 2, on a chain of 30 steps from its betas, in x_t
    betas = linear_betas(30, 0.003, 0.5)
    alpha_bar = np.cumprod(1 - betas)
    with precision(64):
        start = np.asarray(init_noise(keys_of(8, seed=1), (2,), 1.0))
        process, z = DDPM(betas), noises(keys_of(8), 30, (2,))
        sigmas = samplers.uniform_time(process, 30)
        found = jax.device_get(chains(process, start / np.sqrt(alpha_bar[-1]), sigmas))
    for path, large in zip(found, (False, False, True)):
        x_t = start
        for i, t in enumerate(reversed(range(30))):
            before = alpha_bar[t - 1] if t else 1.0
            x0 = posterior_mean(MIXTURE, x_t / np.sqrt(alpha_bar[t]), np.full(8, np.sqrt(1 / alpha_bar[t] - 1)))
            # Eq. 7
            mean = np.sqrt(before) * betas[t] * x0 + np.sqrt(1 - betas[t]) * (1 - before) * x_t
            variance = betas[t] if large else betas[t] * (1 - before) / (1 - alpha_bar[t])
            x_t = mean / (1 - alpha_bar[t]) + (np.sqrt(variance) * z[i] if t else 0.0)
            np.testing.assert_allclose(path[i + 1] * np.sqrt(before), x_t, rtol=1e-8, atol=1e-9)


@functools.cache
def batch_of_16():
    sigmas, keys = samplers.karras(7), keys_of(16)
    x = init_noise(keys_of(16, seed=1), (1,), sigmas[0])
    with precision(32):
        return sigmas, keys, x, jax.device_get(every_sampler(x, sigmas, keys))


def test_trajectories():
    sigmas, keys, x, whole = batch_of_16()
    for name, (found, path) in whole.items():
        steps = 7 + (6 if name == "restart" else 0)
        assert path.x.shape == (steps + 1, 16, 1)
        assert path.x0.shape == (steps, 16, 1)
        np.testing.assert_array_equal(path.x[0], x)
        np.testing.assert_array_equal(path.x[-1], found)
        # the step to 0 ends on the estimate itself
        np.testing.assert_allclose(found, path.x0[-1], rtol=1e-5, atol=1e-6, err_msg=name)
        if "churn" not in name and name != "restart":  # whose estimates are made after noise is added
            expected = posterior_mean(DATA, path.x[3], np.full(16, sigmas[3]))
            np.testing.assert_allclose(path.x0[3], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    without = samplers.ddim(exact_denoiser(DATA), x, sigmas, keys)
    np.testing.assert_allclose(without, whole["ddim"][0], rtol=1e-5, atol=1e-6)


def test_the_path_of_the_first_samples_alone():
    sigmas, keys, x, whole = batch_of_16()
    for name in ("dpmpp_2m", "heun_churn", "restart"):
        found, path = SAMPLERS[name].run(exact_denoiser(DATA), x, sigmas, keys, trajectory=3)
        np.testing.assert_allclose(found, whole[name][0], rtol=1e-5, atol=1e-6, err_msg=name)
        for one, every in zip(path, whole[name][1]):
            np.testing.assert_allclose(one, every[:, :3], rtol=1e-5, atol=1e-5, err_msg=name)


def test_numpys_numbers_ask_for_the_path_as_pythons_do():
    for numpys in (np.True_, np.False_, np.int64(3), np.uint8(0)):
        assert of_samples(numpys) == of_samples(numpys.item())
    assert [len(range(16)[of_samples(asked)]) for asked in (True, False, np.int32(3))] == [16, 0, 3]
    for wrong in (-1, 2.0, "all", None, np.float32(2), np.int64(-1)):
        for sampler in (samplers.ddim, samplers.adaptive_ode):
            with pytest.raises(ValueError, match="give True, or of how many"):
                sampler(lambda x, _: x, jnp.ones((1, 1)), jnp.array([1.0, 0.0]), keys_of(1), trajectory=wrong)


def test_keys_matter_where_noise_is_drawn():
    sigmas = samplers.karras(7)
    first, second = (every_sampler(jnp.ones((16, 1)), sigmas, keys_of(16, seed)) for seed in (0, 1))
    for name, case in SAMPLERS.items():
        assert np.all(first[name][0] == second[name][0]) != (case.draws > 0), name
        assert len(np.unique(first[name][0])) == (16 if case.draws else 1), name


def test_sample_i_depends_on_start_and_key_i_only():
    sigmas, keys, x, whole = batch_of_16()
    alone, turned = every_sampler(x[5:6], sigmas, keys[5:6]), every_sampler(x[::-1], sigmas, keys[::-1])
    others = every_sampler(x.at[1:].set(7.0), sigmas, keys.at[1:].set(keys_of(15, seed=2)))
    for name in SAMPLERS:
        np.testing.assert_allclose(alone[name][0], whole[name][0][5:6], rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(turned[name][0], whole[name][0][::-1], rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(others[name][0][0], whole[name][0][0], err_msg=name)


@pytest.mark.slow  # the command's are compared in test_main, the guided ones in test_guidance
def test_eight_devices_draw_the_same_samples():
    sigmas, keys, x, whole = batch_of_16()
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    x, keys = jax.device_put((x, keys), NamedSharding(mesh, P("batch")))
    for name, (found, _) in every_sampler(x, sigmas, keys).items():
        assert len(found.sharding.device_set) == 8
        np.testing.assert_allclose(found, whole[name][0], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_finite_from_the_noisiest_level_of_all():
    sigmas = samplers.uniform_logsnr(7, 1e-4, 4096.0)
    x = init_noise(keys_of(16), (1,), sigmas[0])
    for name, (found, _) in every_sampler(x, sigmas, keys_of(16, seed=1)).items():
        assert found.dtype == np.float32
        assert np.all(np.abs(found) < 20.0), name  # of steps so long that little but the order of size is right


def swept(name):
    """A sampler, and the options that its line in the list sets."""
    run = SAMPLERS[name].run
    floats = {k: jnp.float32(v) for k, v in run.keywords.items() if isinstance(v, float)}
    return partial(run.func, **{k: v for k, v in run.keywords.items() if k not in floats}), floats


# one of each way to be written; every other takes a second to trace and several to compile
WAYS = ("ddim_half", "ancestral_small", "heun_churn", "dpmpp_2m", "dpmpp_sde", "restart", "unipc")


@pytest.mark.parametrize("name", thinned(SAMPLERS, *WAYS))
def test_sweeping_does_not_recompile(name):
    run, options = swept(name)
    traced, found = [], set()

    @jax.jit
    def sample(x, sigmas, keys, options):
        traced.append(1)
        return run(exact_denoiser(DATA), x, sigmas, keys, **options)

    x, keys = jnp.ones((2, 1)), keys_of(2)
    for factor in (1.0, 0.8, 0.5):
        found.add(float(sample(x, samplers.karras(5), keys, {k: v * factor for k, v in options.items()})[0, 0]))
    assert len(found) == (3 if options else 1)
    sample(x, samplers.karras(5, 0.02, 10.0), keys, options)
    assert len(traced) == 1


@pytest.mark.parametrize("name", thinned(SAMPLERS, "ddim_half", "heun_churn", "dpmpp_2m", "restart"))
def test_vmap_and_gradients(name):
    # over everything that is traced, at once, the last level, 0, included
    run, options = swept(name)
    keys, sigmas = keys_of(2), samplers.karras(5, 0.01, 10.0)

    def mean(x, sigmas, options):
        return jnp.mean(run(exact_denoiser(DATA), x, sigmas, keys, **options))

    def total(*arguments):
        values = jax.vmap(mean)(*arguments)
        return jnp.sum(values), values

    @jax.jit
    def run_all(*arguments):
        # the gradient of the vmapped, where both branches of every condition run
        (_, values), gradients = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(*arguments)
        if not options:
            return values, gradients
        return values, gradients, jax.jvp(lambda *a: total(*a)[0], arguments, jax.tree.map(jnp.ones_like, arguments))[1]

    x, grids = jnp.asarray([[[1.0]] * 2, [[-3.0]] * 2]), jnp.stack([sigmas, 0.9 * sigmas])
    found = run_all(x, grids, {k: v * jnp.asarray([1.0, 0.9]) for k, v in options.items()})
    for leaf in jax.tree.leaves(found):
        assert np.all(np.isfinite(leaf))
    values, gradients, *slope = jax.device_get(found)
    for i, value in enumerate(values):
        alone = mean(x[i], grids[i], {k: v * (1.0, 0.9)[i] for k, v in options.items()})
        assert value == pytest.approx(float(alone), rel=1e-4, abs=1e-5)
    if slope:  # the two modes agree: the slope along all ones is the sum of the gradient
        along = sum(np.sum(g) for g in jax.tree.leaves(gradients))
        np.testing.assert_allclose(slope[0], along, rtol=1e-3, atol=1e-4)


def test_init_noise():
    keys = keys_of(4096)
    x = init_noise(keys, (2, 3), 80.0)
    assert x.shape == (4096, 2, 3)
    np.testing.assert_allclose(init_noise(keys[7:8], (2, 3), 40.0)[0] * 2, x[7], rtol=1e-6)
    n = x.size
    assert abs(np.mean(x) / 80.0) < 4 / np.sqrt(n)
    assert abs(np.var(x) / 80.0**2 - 1) < 4 * np.sqrt(2 / n)


def test_a_single_key_is_refused():
    with pytest.raises(ValueError, match="expected one an example"):
        init_noise(jax.random.key(0), (2,), 1.0)
    x, sigmas = jnp.ones((8, 2)), samplers.karras(3)
    for keys in (jax.random.key(0), keys_of(4)):
        with pytest.raises(ValueError, match=r"one key an example, jax.random.split\(key, 8\)"):
            samplers.ddim(exact_denoiser(DATA), x, sigmas, keys, eta=1.0)
