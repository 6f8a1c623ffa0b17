"""Losses: the exact network's loss is the posterior variance, under every weight and whatever is predicted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from networks import thinned
from oracle import (
    PREDICTIONS,
    PROCESSES,
    TIMES,
    WEIGHTS,
    Exact,
    exact_network,
    gaussian,
    keys_of,
    levels,
    posterior_mean,
    precision,
    strict,  # noqa: F401
)

from diffax import DDPM, EDM, VP, FlowMatching, denoiser, denoising_loss, linear_betas, losses, prediction
from diffax.batch import expand

DATA, DIM, BATCH = gaussian(0.2, 0.5, dim=3), 3, 4096


every_process = pytest.mark.parametrize("process_name", thinned(PROCESSES, "vp", "ve", "edm", "flow", "cosine", "ddpm"))


def every_weight(process, row, t):
    """All weights at once, [weights, batch]: one run of the network serves them all."""
    return jnp.stack([make()(process, row, t) for make, _ in WEIGHTS.values()])


def every_loss(process, x0, keys):
    """{prediction: [weights, batch]} of the exact networks."""
    return {name: denoising_loss(*network_first(process, name), x0, keys, weight=every_weight) for name in PREDICTIONS}


def network_first(process, name):
    apply, row = exact_network(DATA, process, name)
    return apply, process, row


def draws(process, keys):
    """The times and the noise of `denoising_loss`, and what the weights need of the process there."""
    pairs = jax.vmap(jax.random.split)(keys)
    t = losses.uniform()(process, pairs[:, 0])
    eps = jax.vmap(lambda key: jax.random.normal(key, (DIM,), t.dtype))(pairs[:, 1])
    return t, eps, process.nsr(t), process.alpha(t), process.sigma(t)


@functools.cache
def measured(process_name):
    """(losses {prediction: {weight: [batch]}}, x0, t, eps, nsr, rate) in float64."""
    with precision(64):
        process = PROCESSES[process_name]()
        x0, keys = jnp.asarray(DATA.draw(BATCH)), keys_of(BATCH, seed=3)
        found = jax.device_get(every_loss(process, x0, keys))
        t, eps, nsr, *_ = (np.asarray(value) for value in draws(process, keys))
        found = {name: dict(zip(WEIGHTS, value)) for name, value in found.items()}
        return found, np.asarray(x0), t, eps, nsr, rate_of(process, t)


def rate_of(process, t):
    """-(t_max - t_min)·d logsnr/dt by a central difference."""
    span = process.t_max - process.t_min
    h = 1e-8 * span
    return -span * np.asarray(process.logsnr(jnp.asarray(t + h)) - process.logsnr(jnp.asarray(t - h))) / (2 * h)


def intervals(process):
    """A quadrature over t, fine in log nsr: (widths as shares of the whole, middles), both [BATCH]."""
    t = np.asarray(process.time(jnp.asarray(levels(process, BATCH + 1))))
    return np.diff(t) / (process.t_max - process.t_min), 0.5 * (t[1:] + t[:-1])


@pytest.mark.parametrize("name", PREDICTIONS)
@every_process
def test_exact_network_has_the_posterior_error(process_name, name):
    # example by example, from the same draws: the weight's own formula times the squared error of x0
    found, x0, _, eps, nsr, rate = measured(process_name)
    error = np.mean((x0 - posterior_mean(DATA, x0 + nsr[:, None] * eps, nsr)) ** 2, axis=1)
    for weight, (_, of_nsr) in WEIGHTS.items():
        if of_nsr is not None:
            expected = of_nsr(nsr, rate) * error
            np.testing.assert_allclose(found[name][weight], expected, rtol=2e-5, atol=1e-12, err_msg=weight)


@every_process
def test_weights_do_not_depend_on_what_is_predicted(process_name):
    found = measured(process_name)[0]
    for weight, (_, of_nsr) in WEIGHTS.items():
        if of_nsr is not None:
            for name in PREDICTIONS:
                np.testing.assert_allclose(found[name][weight], found["x0"][weight], rtol=1e-7, err_msg=name)


@pytest.mark.parametrize("process_name", ["vp", "flow", "edm", "ddpm"])
def test_unit_weight_is_the_squared_error_of_the_output(process_name):
    # the output of the exact network less the same formula of the true x0 and eps
    with precision(64):
        process = PROCESSES[process_name]()
        found, x0, t, eps, *_ = measured(process_name)
        t = jnp.asarray(t)
        alpha, sigma = process.alpha(t), process.sigma(t)
        slopes = (jax.grad(lambda t, f=f: jnp.sum(f(t)))(t) for f in (process.alpha, process.sigma))
        x_t = alpha[:, None] * x0 + sigma[:, None] * eps
        truth = Exact(jnp.asarray(x0), jnp.asarray(eps), x_t, *(expand(c, x_t) for c in (alpha, sigma, *slopes)))
        for name, case in PREDICTIONS.items():
            apply, row = exact_network(DATA, process, name)
            y = apply(row.c_in(process, t)[:, None] * x_t, t)
            expected = np.mean((y - case.output(truth)) ** 2, axis=1)
            np.testing.assert_allclose(found[name]["unit"], expected, rtol=1e-7, err_msg=name)


@every_process
def test_mean_loss_equals_its_integral(process_name):
    # over t by quadrature; s²·nsr²/(s² + nsr²) is the posterior variance, and the error is that times chi²/DIM
    found, *_ = measured(process_name)
    with precision(64):
        process = PROCESSES[process_name]()
        share, middle = intervals(process)
        nsr, rate = np.asarray(process.nsr(jnp.asarray(middle))), rate_of(process, middle)
    variance = 0.25 * nsr**2 / (0.25 + nsr**2)
    for weight, (_, of_nsr) in WEIGHTS.items():
        if of_nsr is not None:
            value = of_nsr(nsr, rate) * variance
            mean, square = np.sum(share * value), np.sum(share * value**2) * (1 + 2 / DIM)
            assert abs(found["v"][weight].mean() - mean) < 4 * np.sqrt((square - mean**2) / BATCH), weight


def bound(process, t):
    return {name: losses.elbo()(process, case.make(), t) for name, case in PREDICTIONS.items()} | {
        "rows": {name: case.make().target(process, t) for name, case in PREDICTIONS.items()},
    }


@every_process
def test_elbo_is_the_information_gained(process_name):
    # ½·ln((1 + s²·snr_max)/(1 + s²·snr_min)) nats a dimension: for Gaussian data the bound is tight, and knows
    # nothing of the schedule between its ends
    with precision(64):
        process = PROCESSES[process_name]()
        ends, (share, middle) = levels(process, 2), intervals(process)
        middle = jnp.asarray(middle)
        nsr = np.asarray(process.nsr(middle))
        rows = jax.device_get(bound(process, middle))
    closed = 0.5 * np.log((1 + 0.25 / ends[0] ** 2) / (1 + 0.25 / ends[-1] ** 2))
    for name, (a, b) in rows.pop("rows").items():
        of_y = (a - b / nsr) ** 2 * 0.25 * nsr**2 / (0.25 + nsr**2)
        # of a table, intervals that hold a kink are less exact
        rel = 5e-4 if "ddpm" in process_name else 1e-5
        assert np.sum(share * rows[name] * of_y) == pytest.approx(closed, rel=rel), name


@every_process
def test_times_have_their_distribution(process_name):
    process, keys = PROCESSES[process_name](), keys_of(BATCH)
    for name, (make, cdf) in TIMES.items():
        t = make()(process, keys)
        assert t.dtype == np.float32
        share = (np.float64(t) - process.t_min) / (process.t_max - process.t_min)
        if name.startswith("lognormal"):
            assert np.all(np.isfinite(t))  # not cut off at the ends
        else:
            assert np.all((share >= -1e-6) & (share <= 1 + 1e-6))
        value = cdf(share, np.float64(process.nsr(t)))
        # Kolmogorov-Smirnov: 1.95/√n is passed by chance once in a thousand
        empirical = (np.arange(BATCH) + 0.5) / BATCH
        gap = np.abs(np.sort(value) - empirical).max()
        assert gap < 1.95 / np.sqrt(BATCH) + (0.005 if name == "discrete" else 0.0), name
        if name.endswith("stratified"):
            inside = (share != 0) & (share != 1)  # a learned schedule is not told levels beyond its ends
            assert inside.mean() > 0.99
            assert np.abs(value - empirical)[inside].max() < 0.51 / BATCH + 1e-6, name


def test_discrete_times_of_ddpm_are_its_indices():
    for n in (14, 50, 1000):  # (i/(n - 1))·(n - 1) is not i in float32 for each of these
        t = losses.discrete()(DDPM(linear_betas(n)), keys_of(BATCH))
        np.testing.assert_array_equal(t, np.round(t))
        assert set(np.asarray(t[: 8 * n]).astype(int)) <= set(range(n))
        assert t.min() == 0
        assert t.max() == n - 1 or n == 1000


def test_stratified_halves_are_the_strata():
    t = losses.stratified()(FlowMatching(), keys_of(8))
    for i, value in enumerate(t):
        assert i / 8 <= (value - 1e-5) / (0.999 - 1e-5) <= (i + 1) / 8


def test_no_stratum_reaches_an_infinite_quantile(monkeypatch):
    for end in (0.0, 1 - 2.0**-24):  # the ends of what jax.random.uniform draws; (31 + u)/32 is rounded to 1
        monkeypatch.setattr(jax.random, "uniform", lambda key, dtype, end=end: jnp.asarray(end, dtype))
        t = losses.lognormal(0.0, 1.2, stratified=True)(EDM(), keys_of(32))
        assert np.all(np.isfinite(t)) and np.all(t > 0)


@pytest.mark.parametrize("n", [None, 1, 0])
def test_discrete_needs_a_number(n):
    with pytest.raises(ValueError, match=f"n={n}.* at least 2 for VP"):
        losses.discrete(n)(VP(), keys_of(2))


@every_process
def test_finite_at_both_ends(process_name):
    # of an example: its loss is the weight times a squared error of numbers of the order of a and b
    process = PROCESSES[process_name]()
    t = jnp.asarray([process.t_min, process.t_max], jnp.float32)
    for name, case in PREDICTIONS.items():
        row = case.make()
        for value in (every_weight(process, row, t), *row.target(process, t), row.c_in(process, t)):
            assert value.dtype == np.float32
            assert np.all(np.isfinite(value)), name


def test_gradient_in_the_parameters():
    # the loss of theta·x_in is a parabola in theta, for which a central difference is exact
    x0, keys = jnp.asarray(DATA.draw(8), jnp.float32), keys_of(8)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(theta):
        each = denoising_loss(lambda x_in, c: theta * x_in, VP(), prediction.v(), x0, keys)
        return jnp.mean(each), each

    (low, _), (middle, slope), (high, _) = loss(0.0), loss(0.5), loss(1.0)
    np.testing.assert_allclose(slope, high[0] - low[0], rtol=1e-4)
    assert middle[1].shape == (8,)


@jax.jit
def every_time_loss(x0, keys):
    apply, row = exact_network(DATA, FlowMatching(), "velocity")
    return {
        name: denoising_loss(apply, FlowMatching(), row, x0, keys, make(), losses.min_snr())
        for name, (make, _) in TIMES.items()
    }


@functools.cache
def batch_of_16():
    x0, keys = jnp.asarray(DATA.draw(16), jnp.float32), keys_of(16)
    with precision(32):
        return x0, keys, jax.device_get(every_time_loss(x0, keys))


def test_loss_i_depends_on_example_and_key_i_only():
    x0, keys, whole = batch_of_16()
    fewer, turned = every_time_loss(x0[5:8], keys[5:8]), every_time_loss(x0[::-1], keys[::-1])
    stratified = {name for name in TIMES if name.endswith("stratified")}
    for name in set(TIMES) - stratified:
        np.testing.assert_allclose(fewer[name], whole[name][5:8], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(turned[name], whole[name][::-1], rtol=1e-5, err_msg=name)
    # there the place in the batch counts too, the neighbors do not
    others = every_time_loss(x0.at[1:].set(0.0), keys.at[1:].set(keys_of(15, seed=1)))
    for name in stratified:
        np.testing.assert_allclose(others[name][0], whole[name][0], rtol=1e-5, err_msg=name)


def test_eight_devices_give_the_same_loss():
    x0, keys, whole = batch_of_16()
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    split = every_time_loss(*jax.device_put((x0, keys), NamedSharding(mesh, P("batch"))))
    for name in TIMES:
        assert len(split[name].sharding.device_set) == 8
        np.testing.assert_allclose(split[name], whole[name], rtol=1e-5, err_msg=name)


def test_images_and_a_bfloat16_network():
    x0, keys, seen = jnp.ones((4, 2, 2, 3)), keys_of(4), []

    def half(x_in, c_noise):
        seen.append((x_in.dtype, c_noise.dtype))
        return jnp.zeros_like(x_in, jnp.bfloat16)

    loss = denoising_loss(half, FlowMatching(), prediction.x0(), x0, keys)
    assert seen == [(np.float32, np.float32)]
    assert loss.dtype == np.float32
    np.testing.assert_array_equal(loss, 1.0)  # the mean over the data's axes of (0 - 1)²


def test_sweeping_does_not_recompile():
    traced = []

    @jax.jit
    def loss(process, gamma, mean, x0, keys):
        traced.append(1)
        return denoising_loss(
            lambda x, c: x * c[:, None],
            process,
            prediction.v(),
            x0,
            keys,
            losses.lognormal(mean),
            losses.min_snr(gamma),
        )

    x0, found = jnp.ones((64, 3)), set()
    for process, gamma, mean in ((VP(), 5.0, 0.0), (VP(0.2), 5.0, 0.0), (VP(), 1.0, 0.0), (VP(), 5.0, -1.0)):
        found.add(float(loss(process, gamma, mean, x0, keys_of(64)).sum()))
    assert len(traced) == 1
    assert len(found) == 4


def test_vmap_over_the_weight():
    x0, keys = jnp.ones((2, 3)), keys_of(2)

    @jax.jit
    def loss(gamma):
        return denoising_loss(lambda x, c: x, VP(), prediction.x0(), x0, keys, weight=losses.min_snr(gamma))

    gammas = jnp.asarray([0.5, 5.0])
    np.testing.assert_allclose(jax.vmap(loss)(gammas), [loss(g) for g in gammas], rtol=1e-6)


@pytest.mark.parametrize("wrong", [lambda x, c: x[:, :1], lambda x, c: x.mean(0)])
def test_an_output_of_another_shape_is_refused(wrong):
    process, row = FlowMatching(), prediction.velocity()
    with pytest.raises(ValueError, match=r"returned shape .* for x0 of shape \(8, 2\)"):
        denoising_loss(wrong, process, row, jnp.ones((8, 2)), keys_of(8))
    with pytest.raises(ValueError, match=r"returned shape .* for x of shape \(8, 2\)"):
        denoiser(wrong, process, row)(jnp.ones((8, 2)), 1.0)


def test_a_single_key_is_refused():
    process, row, x0 = FlowMatching(), prediction.velocity(), jnp.ones((8, 2))
    for keys in (jax.random.key(0), keys_of(4)):
        with pytest.raises(ValueError, match=r"one key an example, jax.random.split\(key, 8\)"):
            denoising_loss(lambda x, c: x, process, row, x0, keys)
