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
    Case,
    exact_network,
    gaussian,
    keys_of,
    network_of,
    posterior_mean,
    precision,
    strict,  # noqa: F401
    with_slopes,
)

from diffax import DDPM, EDM, VP, FlowMatching, denoiser, denoising_loss, linear_betas, losses, prediction

DATA, DIM, BATCH = gaussian(0.2, 0.5, dim=3), 3, 4096

QUICK = ("vp", "ve", "edm", "flow", "cosine", "ddpm")
every_process = pytest.mark.parametrize("process_name", thinned(PROCESSES, *QUICK))


def every_weight(process, row, t):
    """All weights at once, [weights, batch]: one run of the network serves them all."""
    target = row.target(process, t)  # computed once, too
    row = row._replace(target=lambda process, t: target)
    return jnp.stack([make()(process, row, t) for make, _ in WEIGHTS.values()])


def of_every_prediction(process, f):
    """f(exact network, its row, its formula) stacked: under `vmap` what they have in common is compiled once."""
    rows, formulas = zip(*((case.make(), case.output) for case in PREDICTIONS.values()))

    def of(i):
        target, c_in, output = (
            functools.partial(jax.lax.switch, i, functions)
            for functions in ([row.target for row in rows], [row.c_in for row in rows], formulas)
        )
        case = Case(lambda c_noise: prediction.Prediction(target, c_in, c_noise), output)
        return f(*network_of(DATA, process, case), output)

    return jax.vmap(of)(jnp.arange(len(rows)))


def draws(process, keys):
    """The times and the noise of `denoising_loss`."""
    pairs = jax.vmap(jax.random.split)(keys)
    t = losses.uniform()(process, pairs[:, 0])
    return t, jax.vmap(lambda key: jax.random.normal(key, (DIM,), t.dtype))(pairs[:, 1])


def rate_of(process, t):
    """-(t_max - t_min)·d logsnr/dt by a central difference."""
    span = process.t_max - process.t_min
    h = 1e-8 * span
    return -span * (process.logsnr(t + h) - process.logsnr(t - h)) / (2 * h)


def intervals(process):
    """A quadrature over t, fine in log nsr: (widths as shares of the whole, middles), both [BATCH]."""
    lo, hi = process.nsr(jnp.asarray([process.t_min, process.t_max]))
    t = process.time(jnp.geomspace(lo, hi, BATCH + 1))
    return jnp.diff(t) / (process.t_max - process.t_min), 0.5 * (t[1:] + t[:-1])


@jax.jit
def everything(process, x0, keys):
    (t, eps), (share, middle) = draws(process, keys), intervals(process)
    x_t = process.alpha(t)[:, None] * x0 + process.sigma(t)[:, None] * eps
    truth = with_slopes(process, x0, eps, x_t, t)

    def of(apply, row, output):
        found = denoising_loss(apply, process, row, x0, keys, weight=every_weight)
        y = apply(row.c_in(process, t)[:, None] * x_t, t)
        bound = losses.elbo()(process, row, middle)
        return found, jnp.mean((y - output(truth)) ** 2, axis=1), bound, row.target(process, middle)

    names = ("found", "errors", "bound", "target")
    return dict(zip(names, of_every_prediction(process, of))) | dict(
        drawn=(eps, process.nsr(t), rate_of(process, t)),
        integral=(share, process.nsr(middle), rate_of(process, middle)),
        ends=process.nsr(jnp.asarray([process.t_min, process.t_max])),
    )


@functools.cache
def measured(process_name):
    """(losses {prediction: {weight: [batch]}}, x0, all else of `everything`) in float64."""
    x0 = DATA.draw(BATCH)
    with precision(64):
        rest = jax.device_get(everything(PROCESSES[process_name](), x0, keys_of(BATCH, seed=3)))
    return {name: dict(zip(WEIGHTS, value)) for name, value in zip(PREDICTIONS, rest.pop("found"))}, x0, rest


@pytest.mark.parametrize("name", PREDICTIONS)
@every_process
def test_exact_network_has_the_posterior_error(process_name, name):
    # example by example, from the same draws: the weight's own formula times the squared error of x0
    found, x0, rest = measured(process_name)
    eps, nsr, rate = rest["drawn"]
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
    found, _, rest = measured(process_name)
    for name, expected in zip(PREDICTIONS, rest["errors"]):
        np.testing.assert_allclose(found[name]["unit"], expected, rtol=1e-7, err_msg=name)


@every_process
def test_mean_loss_equals_its_integral(process_name):
    # over t by quadrature; s²·nsr²/(s² + nsr²) is the posterior variance, and the error is that times chi²/DIM
    found, _, rest = measured(process_name)
    share, nsr, rate = rest["integral"]
    variance = 0.25 * nsr**2 / (0.25 + nsr**2)
    for weight, (_, of_nsr) in WEIGHTS.items():
        if of_nsr is not None:
            value = of_nsr(nsr, rate) * variance
            mean, square = np.sum(share * value), np.sum(share * value**2) * (1 + 2 / DIM)
            assert abs(found["v"][weight].mean() - mean) < 4 * np.sqrt((square - mean**2) / BATCH), weight


@every_process
def test_elbo_is_the_information_gained(process_name):
    # ½·ln((1 + s²·snr_max)/(1 + s²·snr_min)) nats a dimension: for Gaussian data the bound is tight, and knows
    # nothing of the schedule between its ends
    _, _, rest = measured(process_name)
    (share, nsr, _), ends = rest["integral"], rest["ends"]
    closed = 0.5 * np.log((1 + 0.25 / ends[0] ** 2) / (1 + 0.25 / ends[-1] ** 2))
    for name, value, a, b in zip(PREDICTIONS, rest["bound"], *rest["target"]):
        of_y = (a - b / nsr) ** 2 * 0.25 * nsr**2 / (0.25 + nsr**2)
        # of a table, intervals that hold a kink are less exact
        rel = 5e-4 if "ddpm" in process_name else 1e-5
        assert np.sum(share * value * of_y) == pytest.approx(closed, rel=rel), name


@functools.cache
def times(process_names):
    """{process: {time sampler: (t, nsr(t))}}: in one program, for the random numbers are the same."""

    @jax.jit
    def every_time(processes, keys):
        found = {of: {name: make()(p, keys) for name, (make, _) in TIMES.items()} for of, p in processes.items()}
        return {of: {name: (t, processes[of].nsr(t)) for name, t in each.items()} for of, each in found.items()}

    return jax.device_get(every_time({name: PROCESSES[name]() for name in process_names}, keys_of(BATCH)))


@every_process
def test_times_have_their_distribution(process_name):
    process = PROCESSES[process_name]()
    found = times(QUICK if process_name in QUICK else tuple(sorted(set(PROCESSES) - set(QUICK))))[process_name]
    for name, (_, cdf) in TIMES.items():
        t, nsr = found[name]
        assert t.dtype == np.float32
        share = (np.float64(t) - process.t_min) / (process.t_max - process.t_min)
        if name.startswith("lognormal"):
            assert np.all(np.isfinite(t))  # not cut off at the ends
        else:
            assert np.all((share >= -1e-6) & (share <= 1 + 1e-6))
        value = cdf(share, np.float64(nsr))
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
        t = np.asarray(losses.discrete()(DDPM(linear_betas(n)), keys_of(BATCH)))
        np.testing.assert_array_equal(t, np.round(t))
        assert set(t[: 8 * n].astype(int)) <= set(range(n))
        assert t.min() == 0
        assert t.max() == n - 1 or n == 1000


def test_stratified_halves_are_the_strata():
    t = np.asarray(jax.jit(lambda: losses.stratified()(FlowMatching(), keys_of(8)))())
    for i, value in enumerate(t):
        assert i / 8 <= (value - 1e-5) / (0.999 - 1e-5) <= (i + 1) / 8


def test_no_stratum_reaches_an_infinite_quantile(monkeypatch):
    @jax.jit
    @jax.vmap
    def run(end):
        monkeypatch.setattr(jax.random, "uniform", lambda key, dtype: end.astype(dtype))
        return losses.lognormal(0.0, 1.2, stratified=True)(EDM(), keys_of(32))

    # the ends of what jax.random.uniform draws; (31 + u)/32 is rounded to 1
    t = np.asarray(run(np.float32([0.0, 1 - 2.0**-24])))
    assert np.all(np.isfinite(t)) and np.all(t > 0)


def test_discrete_needs_a_number():
    with pytest.raises(ValueError, match="n of at least 2 for VP"):
        losses.discrete()(VP(), keys_of(2))
    for n in (1, 0, 2.5):
        with pytest.raises(ValueError, match=f"n={n}: give an integer, 2 or more"):
            losses.discrete(n)


@jax.jit
def weight_and_row(process, t):
    def of(apply, row, output):
        return every_weight(process, row, t), *row.target(process, t), row.c_in(process, t)

    return of_every_prediction(process, of)


@every_process
def test_finite_at_both_ends(process_name):
    # of an example: its loss is the weight times a squared error of numbers of the order of a and b
    process = PROCESSES[process_name]()
    found = jax.device_get(weight_and_row(process, np.float32([process.t_min, process.t_max])))
    for values in found:
        assert values.dtype == np.float32
        for name, value in zip(PREDICTIONS, values, strict=True):
            assert np.all(np.isfinite(value)), name


def test_gradient_in_the_parameters():
    # the loss of theta·x_in is a parabola in theta, for which a central difference is exact
    x0 = np.float32(DATA.draw(8))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(theta):
        each = denoising_loss(lambda x_in, c: theta * x_in, VP(), prediction.v(), x0, keys_of(8))
        return jnp.mean(each), each

    (low, _), (middle, slope), (high, _) = loss(0.0), loss(0.5), loss(1.0)
    np.testing.assert_allclose(slope, np.asarray(high[0]) - np.asarray(low[0]), rtol=1e-4)
    assert middle[1].shape == (8,)


@jax.jit
def every_time_loss(x0, seeds):
    apply, row = exact_network(DATA, FlowMatching(), "velocity")
    keys = jax.random.wrap_key_data(seeds)
    return {
        name: denoising_loss(apply, FlowMatching(), row, x0, keys, make(), losses.min_snr())
        for name, (make, _) in TIMES.items()
    }


@functools.cache
def batch_of_16():
    x0, seeds = np.float32(DATA.draw(16)), np.asarray(jax.random.key_data(keys_of(16)))
    with precision(32):
        return x0, seeds, jax.device_get(every_time_loss(x0, seeds))


def test_loss_i_depends_on_example_and_key_i_only():
    x0, seeds, whole = batch_of_16()
    fewer, turned = every_time_loss(x0[5:8], seeds[5:8]), every_time_loss(x0[::-1], seeds[::-1])
    stratified = {name for name in TIMES if name.endswith("stratified")}
    for name in set(TIMES) - stratified:
        np.testing.assert_allclose(fewer[name], whole[name][5:8], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(turned[name], whole[name][::-1], rtol=1e-5, err_msg=name)
    # there the place in the batch counts too, the neighbors do not
    first = np.arange(16)[:, None] == 0
    others = every_time_loss(np.where(first, x0, 0), np.where(first, seeds, seeds + 1))
    for name in stratified:
        np.testing.assert_allclose(np.asarray(others[name])[0], whole[name][0], rtol=1e-5, err_msg=name)


def test_eight_devices_give_the_same_loss():
    x0, seeds, whole = batch_of_16()
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    split = every_time_loss(*jax.device_put((x0, seeds), NamedSharding(mesh, P("batch"))))
    for name in TIMES:
        assert len(split[name].sharding.device_set) == 8
        np.testing.assert_allclose(split[name], whole[name], rtol=1e-5, err_msg=name)


def test_images_and_a_bfloat16_network():
    x0, seen = np.ones((4, 2, 2, 3), np.float32), []

    def half(x_in, c_noise):
        seen.append((x_in.dtype, c_noise.dtype))
        return jnp.zeros_like(x_in, jnp.bfloat16)

    loss = jax.jit(lambda: denoising_loss(half, FlowMatching(), prediction.x0(), x0, keys_of(4)))()
    assert seen == [(np.float32, np.float32)]
    assert loss.dtype == np.float32
    np.testing.assert_array_equal(loss, 1.0)  # the mean over the data's axes of (0 - 1)²


def test_sweeping_does_not_recompile():
    traced = []

    @jax.jit
    def loss(process, gamma, mean):
        traced.append(1)
        return denoising_loss(
            lambda x, c: x * c[:, None],
            process,
            prediction.v(),
            np.ones((64, 3), np.float32),
            keys_of(64),
            losses.lognormal(mean),
            losses.min_snr(gamma),
        )

    found = set()
    for process, gamma, mean in ((VP(), 5.0, 0.0), (VP(0.2), 5.0, 0.0), (VP(), 1.0, 0.0), (VP(), 5.0, -1.0)):
        found.add(float(np.asarray(loss(process, gamma, mean)).sum()))
    assert len(traced) == 1
    assert len(found) == 4


def test_vmap_over_the_weight():
    x0 = np.ones((2, 3), np.float32)

    @jax.jit
    def loss(gamma):
        return denoising_loss(lambda x, c: x, VP(), prediction.x0(), x0, keys_of(2), weight=losses.min_snr(gamma))

    gammas = np.float32([0.5, 5.0])
    np.testing.assert_allclose(jax.vmap(loss)(gammas), [loss(g) for g in gammas], rtol=1e-6)


@pytest.mark.parametrize("wrong", [lambda x, c: x[:, :1], lambda x, c: x.mean(0)])
def test_an_output_of_another_shape_is_refused(wrong):
    process, row, x = FlowMatching(), prediction.velocity(), np.ones((8, 2), np.float32)
    with pytest.raises(ValueError, match=r"returned shape .* for x0 of shape \(8, 2\)"):
        jax.eval_shape(lambda: denoising_loss(wrong, process, row, x, keys_of(8)))
    with pytest.raises(ValueError, match=r"returned shape .* for x of shape \(8, 2\)"):
        jax.eval_shape(lambda: denoiser(wrong, process, row)(x, 1.0))


def test_a_single_key_is_refused():
    process, row, x0 = FlowMatching(), prediction.velocity(), jnp.ones((8, 2))
    for keys in (jax.random.key(0), keys_of(4)):
        with pytest.raises(ValueError, match=r"one key an example, jax.random.split\(key, 8\)"):
            denoising_loss(lambda x, c: x, process, row, x0, keys)
