"""Samplers: each against the algorithm of its paper in NumPy float64, in the coordinates of that paper."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle import (
    MIXTURE,
    PROCESSES,
    SAMPLERS,
    exact_denoiser,
    exact_network,
    gaussian,
    keys_of,
    levels,
    posterior_mean,
    precision,
    strict,  # noqa: F401
)

from diffax import DDPM, VP, FlowMatching, denoiser, init_noise, linear_betas, samplers

DATA = gaussian(0.3, 0.5)
STEPS, BATCH = 400, 480  # more examples than draws of noise in each of them


@jax.jit
def every_sampler(x, sigmas, keys):
    """{sampler: (samples, path)} for Gaussian data."""
    return {name: run(exact_denoiser(DATA), x, sigmas, keys, trajectory=True) for name, (run, _) in SAMPLERS.items()}


def noises(keys, n, shape):
    """The noise of steps 0 … n-1, [n, batch, *shape]: key i, folded with the step."""
    each = jax.vmap(lambda i: jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(keys))
    return np.asarray(each(jnp.arange(n)))


@functools.cache
def design():
    """(keys, unit starts [batch, 1], what the samples are made of [batch, 2 + steps], its pseudo-inverse)."""
    with precision(64):
        keys, unit = keys_of(BATCH), init_noise(keys_of(BATCH, seed=1), (1,), 1.0)
        columns = np.concatenate([np.ones((1, BATCH)), np.asarray(unit).T, noises(keys, STEPS, (1,))[..., 0]]).T
    return keys, unit, columns, np.linalg.pinv(columns)


@functools.cache
def moments_of(process_name):
    """(sigmas, {sampler: (mean, variance)}) over a process's own range of levels, without statistical error.

    On Gaussian data a sample is affine in its start and in its noises: the coefficients, found by least squares, are
    all there is, and the noises are those of the documented keys.
    """
    keys, unit, columns, inverse = design()
    with precision(64):
        sigmas = samplers.karras(STEPS, *levels(PROCESSES[process_name](), 2))
        found = jax.device_get(every_sampler(unit * sigmas[0], sigmas, keys))
    moments = {}
    for name, (value, _) in found.items():
        coefficients = inverse @ value[:, 0]
        np.testing.assert_allclose(columns @ coefficients, value[:, 0], rtol=1e-7, atol=1e-7, err_msg=name)
        moments[name] = coefficients[0], np.sum(coefficients[1:] ** 2)
    return np.asarray(sigmas), moments


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("process_name", PROCESSES)
def test_samples_have_the_mean_and_variance_of_the_data(process_name, name):
    mean, variance = moments_of(process_name)[1][name]
    assert mean == pytest.approx(0.3, abs=0.005)
    # of first order with a large constant where noise is drawn; 0.003 otherwise
    assert variance == pytest.approx(0.25, rel=0.06 if "ddim" in name or "ancestral" in name else 0.012)


def recursion(sigmas, drawn_variance, shrink, data_variance=0.25):
    """The variance after the last step: x' = x0 + shrink·(x - x0) + noise, with x0 the exact posterior mean."""
    variance = sigmas[0] ** 2
    for s, r in itertools.pairwise(sigmas):
        drawn = drawn_variance(s, r)
        weight = shrink(s, r, drawn)
        pull = data_variance / (data_variance + s**2)
        variance = (pull + weight * (1 - pull)) ** 2 * variance + drawn
    return variance


def beta_tilde(s, r):
    # arXiv:2006.11239, Eq. 7 over alpha-bar_{t-1}, with alpha-bar = 1/(1 + sigma²)
    before, now = 1 / (1 + r**2), 1 / (1 + s**2)
    return (1 - before) / (1 - now) * (1 - now / before) / before


def beta(s, r):
    before, now = 1 / (1 + r**2), 1 / (1 + s**2)
    return (1 - now / before) / before if r > 0 else 0.0


def by_eta(eta):
    return lambda s, r: eta**2 * beta_tilde(s, r), lambda s, r, drawn: np.sqrt(r**2 - drawn) / s


def posterior_shrink(s, r, drawn):
    return (r / s) ** 2


CLOSED = {
    "ddim": by_eta(0.0),
    "ddim_half": by_eta(0.5),
    "ddim_full": by_eta(1.0),
    "ancestral_small": (beta_tilde, posterior_shrink),
    "ancestral_large": (beta, posterior_shrink),
}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("process_name", ["vp", "cosine", "edm"])
def test_variance_equals_its_closed_form(process_name, name):
    sigmas, found = moments_of(process_name)
    assert found[name][1] == pytest.approx(recursion(sigmas, *CLOSED[name]), rel=1e-8)


def test_small_and_large_variance_of_twenty_steps():
    # of the VP SDE, evenly spaced in t: by the closed form and, within four standard errors, as sampled
    sigmas, n = np.asarray(samplers.uniform_time(VP(), 21), np.float64), 1 << 15
    x = init_noise(keys_of(n), (1,), float(sigmas[0]))
    run = jax.jit(lambda v: samplers.ancestral(exact_denoiser(DATA), x, sigmas, keys_of(n, seed=1), variance=v))
    for variance, name, golden in ((0.0, "ancestral_small", 0.6131), (1.0, "ancestral_large", 1.1841)):
        assert recursion(sigmas, *CLOSED[name]) / 0.25 == pytest.approx(golden, abs=1e-4)
        assert np.var(run(variance)) / 0.25 == pytest.approx(golden, rel=4 * np.sqrt(2 / n))


@jax.jit
def dpmpp_2m_of_a_network(process, x, sigmas):
    apply, row = exact_network(MIXTURE, process, "v")
    return samplers.dpmpp_2m(denoiser(apply, process, row), x, sigmas, None)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_a_network_of_any_process_samples_alike(process_name):
    with precision(64):
        process = PROCESSES[process_name]()
        sigmas = samplers.karras(12, *levels(process, 2))
        start = init_noise(keys_of(6), (2,), sigmas[0])
        found = np.asarray(dpmpp_2m_of_a_network(process, start, sigmas))
    np.testing.assert_allclose(found, algorithm_2_of_dpmpp(np.asarray(start), np.asarray(sigmas)), rtol=1e-7, atol=1e-8)


def algorithm_2_of_dpmpp(x, s):
    """arXiv:2211.01095, in the variance-preserving coordinates and half-log-SNRs of that paper, on the mixture."""
    alpha = 1 / np.sqrt(1 + s**2)
    sigma = s * alpha
    lam = np.log(alpha[:-1] / sigma[:-1])
    x, before = x * alpha[0], None
    for i in range(len(s) - 1):
        x0 = posterior_mean(MIXTURE, x / alpha[i], np.full(len(x), s[i]))
        if i + 2 == len(s):
            return x0
        h = lam[i + 1] - lam[i]
        best = x0 if before is None else x0 + (x0 - before) * h / (2 * (lam[i] - lam[i - 1]))
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * np.expm1(-h) * best
        before = x0


@jax.jit
def to_a_level(x, grids):
    return [
        {name: SAMPLERS[name][0](exact_denoiser(DATA), x, sigmas, keys_of(1)) for name in ("ddim", "heun", "dpmpp_2m")}
        for sigmas in grids
    ]


def test_orders_of_convergence():
    # against the exact solution m + (x - m)·√((s² + r²)/(s² + h²)) of the probability flow from level h to r
    steps = (16, 32, 64, 128)
    with precision(64):
        grids = [samplers.uniform_logsnr(n + 1, 0.05, 20.0)[:-1] for n in steps]
        found = to_a_level(jnp.full((1, 1), 25.0), grids)
    exact = 0.3 + (25.0 - 0.3) * np.sqrt((0.25 + 0.05**2) / (0.25 + 20.0**2))
    for name, order in (("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)):
        errors = [abs(float(result[name][0, 0]) - exact) for result in found]
        slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
        assert slope == pytest.approx(order, abs=0.3), name


S_MIN, S_MAX, S_NOISE = 0.05, 20.0, 1.007


@jax.jit
def churned(x, sigmas, keys, churn):
    options = dict(churn=churn, s_min=S_MIN, s_max=S_MAX, s_noise=S_NOISE, trajectory=True)
    return samplers.heun(exact_denoiser(MIXTURE), x, sigmas, keys, **options)


@pytest.mark.parametrize("churn", [0.0, 5.0, 30.0])
def test_heun_is_edms_algorithm_2(churn):
    # arXiv:2206.00364, Algorithm 2, line by line
    n = 18
    with precision(64):
        keys, t = keys_of(8), samplers.karras(n)
        start = init_noise(keys_of(8, seed=1), (2,), t[0])
        found, path = churned(start, t, keys, churn)
        eps, x, t = noises(keys, n, (2,)), np.asarray(start), np.asarray(t)
    for i in range(n):
        gamma = min(churn / n, np.sqrt(2) - 1) if S_MIN <= t[i] <= S_MAX else 0.0
        t_hat = t[i] + gamma * t[i]
        x_hat = x + np.sqrt(t_hat**2 - t[i] ** 2) * S_NOISE * eps[i]
        d = (x_hat - posterior_mean(MIXTURE, x_hat, np.full(8, t_hat))) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_next = (x - posterior_mean(MIXTURE, x, np.full(8, t[i + 1]))) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (0.5 * d + 0.5 * d_next)
        np.testing.assert_allclose(path.x[i + 1], x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found, x, rtol=1e-9, atol=1e-9)


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
        SAMPLERS[name][0](denoiser(apply, process, row), x, sigmas, keys_of(8), trajectory=True)[1].x
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


def test_variance_between_small_and_large():
    # arXiv:2102.09672, Eq. 15: exp(v·log beta + (1 - v)·log beta-tilde)
    with precision(64):
        s, r = 1.7, 0.6
        keys = keys_of(4)
        found = [
            samplers.ancestral(lambda x, sigma: 0.0 * x, jnp.zeros((4, 1)), jnp.asarray([s, r]), keys, variance=v)
            for v in (0.0, 0.3, 1.0)
        ]
        z = noises(keys, 1, (1,))[0]
    for v, value in zip((0.0, 0.3, 1.0), found):
        np.testing.assert_allclose(value, np.sqrt(beta(s, r) ** v * beta_tilde(s, r) ** (1 - v)) * z, rtol=1e-12)


@functools.cache
def batch_of_16():
    sigmas, keys = samplers.karras(7), keys_of(16)
    x = init_noise(keys_of(16, seed=1), (1,), sigmas[0])
    with precision(32):
        return sigmas, keys, x, jax.device_get(every_sampler(x, sigmas, keys))


def test_trajectories():
    sigmas, keys, x, whole = batch_of_16()
    for name, (found, path) in whole.items():
        assert path.x.shape == (8, 16, 1)
        assert path.x0.shape == (7, 16, 1)
        np.testing.assert_array_equal(path.x[0], x)
        np.testing.assert_array_equal(path.x[-1], found)
        # the step to 0 ends on the estimate itself
        np.testing.assert_allclose(found, path.x0[-1], rtol=1e-5, atol=1e-6, err_msg=name)
        if not name.startswith("heun_"):  # whose estimates are made after noise is added
            expected = posterior_mean(DATA, path.x[3], np.full(16, sigmas[3]))
            np.testing.assert_allclose(path.x0[3], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    without = samplers.ddim(exact_denoiser(DATA), x, sigmas, keys)
    np.testing.assert_allclose(without, whole["ddim"][0], rtol=1e-5, atol=1e-6)


def test_keys_matter_where_noise_is_drawn():
    sigmas = samplers.karras(7)
    first, second = (every_sampler(jnp.ones((16, 1)), sigmas, keys_of(16, seed)) for seed in (0, 1))
    for name, (_, draws) in SAMPLERS.items():
        assert np.all(first[name][0] == second[name][0]) != draws, name
        assert len(np.unique(first[name][0])) == (16 if draws else 1), name


def test_sample_i_depends_on_start_and_key_i_only():
    sigmas, keys, x, whole = batch_of_16()
    alone, turned = every_sampler(x[5:6], sigmas, keys[5:6]), every_sampler(x[::-1], sigmas, keys[::-1])
    others = every_sampler(x.at[1:].set(7.0), sigmas, keys.at[1:].set(keys_of(15, seed=2)))
    for name in SAMPLERS:
        np.testing.assert_allclose(alone[name][0], whole[name][0][5:6], rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(turned[name][0], whole[name][0][::-1], rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(others[name][0][0], whole[name][0][0], err_msg=name)


def test_eight_devices_draw_the_same_samples():
    sigmas, keys, x, whole = batch_of_16()
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    x, keys = jax.device_put((x, keys), NamedSharding(mesh, P("batch")))
    for name, (found, _) in every_sampler(x, sigmas, keys).items():
        assert len(found.sharding.device_set) == 8
        np.testing.assert_allclose(found, whole[name][0], rtol=1e-5, atol=1e-6, err_msg=name)


def test_finite_from_the_noisiest_level_of_all():
    sigmas = samplers.uniform_logsnr(7, 1e-4, 4096.0)
    x = init_noise(keys_of(16), (1,), sigmas[0])
    for name, (found, _) in every_sampler(x, sigmas, keys_of(16, seed=1)).items():
        assert found.dtype == np.float32
        assert np.all(np.abs(found) < 20.0), name  # of steps so long that little but the order of size is right


def swept(name):
    """A sampler, and the options that its line in the list sets."""
    run = SAMPLERS[name][0]
    return getattr(run, "func", run), {k: jnp.float32(v) for k, v in getattr(run, "keywords", {}).items()}


@pytest.mark.parametrize("name", SAMPLERS)
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


@pytest.mark.parametrize("name", SAMPLERS)
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
