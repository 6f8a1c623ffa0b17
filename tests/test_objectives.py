"""Further objectives, each against its closed form on Gaussian data: learned variance, learned schedule, slices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import exact_network, gaussian, keys_of, precision, strict  # noqa: F401

from diffax import (
    DDPM,
    VP,
    FlowMatching,
    LearnedSchedule,
    ancestral,
    cosine_betas,
    learned_schedule,
    losses,
    prediction,
    uniform_time,
)
from diffax.batch import expand
from diffax.conformance import exact_denoiser
from diffax.likelihood import categorical, discretized, vlb
from diffax.likelihood import gaussian as gaussian_decoder

STD, DIM, T = 0.5, 2, 12
DATA = gaussian(0.0, STD, dim=DIM)


def chain():
    return DDPM(cosine_betas(T))


def even_times(process, keys):
    """Every timestep equally often: the mean over the batch is then that over `discrete()` times, with less noise."""
    return (jnp.arange(len(keys)) % T).astype(jnp.result_type(float))


def posterior_variance(nsr):
    return STD**2 * nsr**2 / (STD**2 + nsr**2)


def best_share(process):
    """v [T] of the variance that is optimal for the data, from snr alone, arXiv:2102.09672, Eq. 15."""
    nsr2 = np.exp(2 * np.float64(process.log_nsr))
    r2, s2 = nsr2[:-1], nsr2[1:]
    small, large = r2 * (s2 - r2) / s2, (s2 - r2) * (1 + r2) / (1 + s2)
    # of x_s given x_t: what is left of x0, seen through the posterior's mean, on top of the posterior's variance
    best = small + (1 - r2 / s2) ** 2 * posterior_variance(np.sqrt(s2))
    of_steps = np.log(best / small) / np.log(large / small)
    alpha2 = 1 / (1 + nsr2[0])
    low, high = alpha2 * small[0], alpha2 * nsr2[0]
    return np.append(np.log(posterior_variance(np.sqrt(nsr2[0])) / low) / np.log(high / low), of_steps)


def learned(process, name, share):
    """The exact network of a prediction, with shares v [T] of the large variance as the second half of its output."""
    apply, row = exact_network(DATA, process, name)

    def both(x_in, t):
        y = apply(x_in, t)
        v = jnp.asarray(share, y.dtype)[jnp.round(t).astype(jnp.int32)]
        return jnp.concatenate([y, jnp.broadcast_to((2.0 * v - 1.0)[:, None], y.shape)], axis=-1)

    return both, row


def chain_loss(name, process, share, x0, keys, sample_time=even_times):
    apply, row = learned(process, name, share)
    return losses.vlb_loss(apply, process, row, x0, keys, sample_time, decoder=gaussian_decoder)


def test_bound_with_the_best_variance_is_the_entropy_given_the_last_level():
    # every step and the decoder are then the true conditionals of a Gaussian chain, so that their surprises sum to
    # the entropy of x0 given x_T, whatever the levels between
    n = 20_000 * T
    with precision(64):
        process = chain()
        share, x0 = best_share(process), jnp.asarray(DATA.draw(n))
        found = np.asarray(jax.jit(chain_loss, static_argnums=0)("eps", process, share, x0, keys_of(n, 1)))
        last = float(process.nsr(process.t_max))
    exact = 0.5 * np.log(2 * np.pi * np.e * posterior_variance(last))
    each = found.reshape(-1, T)
    error = np.sqrt(np.sum(each.var(axis=0)) / len(each)) / T
    assert abs(found.mean() - exact) < 4 * error
    assert error < 0.005


@pytest.mark.slow
def test_bound_does_not_depend_on_what_is_predicted():
    with precision(64):
        process, n = chain(), 2 * T
        share, x0 = np.linspace(0.0, 1.0, T), jnp.asarray(DATA.draw(n))
        run = jax.jit(lambda x0, keys: [chain_loss(name, process, share, x0, keys) for name in ("eps", "x0", "v")])
        found = run(x0, keys_of(n))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-9)


@jax.jit
def terms_of_known_x0(v, process, x0, keys):
    def knows(x_in, t):
        return jnp.concatenate([jnp.zeros_like(x_in), jnp.full_like(x_in, 1.0) * (2 * v - 1)], axis=-1)

    return losses.vlb_loss(knows, process, prediction.x0(), x0, keys, even_times, decoder=gaussian_decoder)


@pytest.mark.parametrize("v", [0.0, 0.4, 1.0])
def test_terms_of_a_network_that_knows_x0_are_those_of_the_betas(v):
    # only the variances are left: beta^v·beta-tilde^(1 - v) for the posterior's beta-tilde, arXiv:2102.09672, Eq. 15;
    # the decoder has that of the first step, with the beta-tilde of the second
    betas, x0 = cosine_betas(T), np.zeros((T, DIM))
    alpha2 = np.cumprod(1 - betas)
    small = betas[1:] * (1 - alpha2[:-1]) / (1 - alpha2[1:])
    small = np.append(small[0], small)
    ratio = (betas / small) ** v
    expected = 0.5 * (np.log(ratio) + 1 / ratio - 1)
    expected[0] = 0.5 * np.log(2 * np.pi * small[0] * ratio[0])

    with precision(64):
        found = terms_of_known_x0(v, DDPM(betas), x0, keys_of(T))
    np.testing.assert_allclose(found, T * expected, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_bound_is_least_at_the_best_variance():
    with precision(64):
        process, n = chain(), 400 * T
        best = best_share(process)
        x0, keys = jnp.asarray(DATA.draw(n)), keys_of(n, 1)

        @jax.jit
        @jax.grad
        def slope(share):
            return jnp.mean(chain_loss("eps", process, share, x0, keys))

        down, up, there = (np.asarray(slope(jnp.asarray(best + off))) for off in (-0.3, 0.3, 0.0))
    assert np.all(down < 0)
    assert np.all(up > 0)
    assert np.all(np.abs(there) < 0.25 * (up - down))


@pytest.mark.slow
def test_bound_at_fixed_variances_is_that_of_the_chain():
    # the same terms as `likelihood.vlb`, which holds the variance fixed; an independent draw of the noise
    with precision(64):
        process, n = chain(), 1000 * T
        x0, keys = jnp.asarray(DATA.draw(n)), keys_of(n, 1)
        for v in (0.0, 1.0):
            share = np.append(1.0, np.full(T - 1, v))
            found = np.asarray(jax.jit(chain_loss, static_argnums=0)("eps", process, share, x0, keys))
            bound = jax.jit(functools.partial(vlb, exact_denoiser(DATA), process, variance=v))(x0, keys)
            other = np.asarray(bound.diffusion + bound.reconstruction) / DIM
            error = np.sqrt(np.sum(found.reshape(-1, T).var(axis=0)) * T / n / T**2 + other.var() / n)
            assert abs(found.mean() - other.mean()) < 4 * error


def test_hybrid_is_the_simple_loss_and_the_bound_in_bits():
    process, n = chain(), 4 * T
    apply, row = learned(process, "eps", np.linspace(0.1, 0.9, T))
    x0, keys = np.float32(DATA.draw(n)), keys_of(n)

    def simple_only(x_in, t):
        return apply(x_in, t)[:, :DIM]

    @jax.jit
    def run(x0, keys):
        simple = losses.denoising_loss(simple_only, process, row, x0, keys, losses.discrete())
        bound = losses.vlb_loss(apply, process, row, x0, keys)
        return simple, bound, losses.hybrid_loss(apply, process, row, x0, keys, lambda_vlb=0.3)

    simple, bound, found = jax.device_get(run(x0, keys))
    np.testing.assert_allclose(found, simple + 0.3 * bound / np.log(2.0), rtol=1e-5)


@pytest.mark.parametrize("decoder", [gaussian_decoder, discretized(256), categorical(16)])
def test_the_bound_trains_the_variance_alone(decoder):
    process, n = chain(), 4 * T
    x0 = np.float32(np.clip(np.round(DATA.draw(n) * 127.5 + 127.5), 0, 255) / 127.5 - 1.0)
    x0[:2] = [[1.0], [-1.0]]  # the cells that reach to infinity

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def slopes(y_shift, v_shift, lambda_vlb, weight):
        apply, row = learned(process, "eps", np.full(T, 0.4))

        def shifted(x_in, t):
            y = apply(x_in, t)
            return y + jnp.concatenate([jnp.full(DIM, 1.0) * y_shift, jnp.full(DIM, 1.0) * v_shift])

        w = lambda process, prediction, t: jnp.full_like(t, 1.0) * weight  # noqa: E731
        each = losses.hybrid_loss(
            shifted, process, row, x0, keys_of(n), even_times, w, lambda_vlb=lambda_vlb, decoder=decoder
        )
        return jnp.mean(each)

    of_y, of_v = jax.device_get(slopes(0.1, 0.1, 1.0, 0.0))
    assert of_y == 0.0
    assert np.isfinite(of_v) and of_v != 0.0
    of_y, of_v = jax.device_get(slopes(0.1, 0.1, 0.0, 1.0))
    assert np.isfinite(of_y) and of_y != 0.0
    assert of_v == 0.0


@pytest.mark.slow
def test_learned_variance_reproduces_the_small_and_the_large():
    process, keys = chain(), keys_of(8)
    sigmas = uniform_time(process, T)
    x = sigmas[0] * jax.vmap(lambda key: jax.random.normal(key, (DIM,)))(keys_of(8, 1))

    @jax.jit
    def run(v):
        apply, row = learned(process, "eps", jnp.full(T, v))
        denoise, variance = prediction.learned_variance(apply, process, row)
        shares = variance(x, sigmas[0])
        return shares, *(ancestral(denoise, x, sigmas, keys, variance=each) for each in (variance, v))

    for v in (0.0, 0.3, 1.0):
        shares, found, fixed = run(v)
        np.testing.assert_allclose(shares, np.full((8, DIM), v), atol=1e-6)
        np.testing.assert_allclose(found, fixed, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_ancestral_with_the_best_variance_has_the_law_of_the_data():
    # exact at any number of steps but for the last, which draws no noise: there E[x0 | x_1] is left
    process, n = chain(), 20_000
    apply, row = learned(process, "eps", best_share(process))
    denoise, variance = prediction.learned_variance(apply, process, row)
    sigmas = uniform_time(process, T)
    start = np.sqrt(STD**2 + float(sigmas[0]) ** 2)
    x = start * jax.vmap(lambda key: jax.random.normal(key, (DIM,)))(keys_of(n, 1))
    found = jax.jit(lambda x, keys: ancestral(denoise, x, sigmas, keys, variance=variance))(x, keys_of(n))
    nsr = float(sigmas[-2])
    exact = STD**4 / (STD**2 + nsr**2)
    assert abs(np.var(found) / exact - 1) < 4.5 * np.sqrt(2 / (n * DIM))


@pytest.mark.slow
def test_the_bound_in_continuous_time_takes_a_number_of_steps():
    process, x0, keys = FlowMatching(), jnp.zeros((64, DIM)), keys_of(64)
    apply, row = exact_network(DATA, process, "velocity")

    def both(x_in, t):
        return jnp.concatenate([apply(x_in, t), jnp.zeros_like(x_in)], axis=-1)

    times = losses.discrete(16)
    run = jax.jit(lambda x0, keys: losses.vlb_loss(both, process, row, x0, keys, times, steps=16))
    assert np.all(np.isfinite(run(x0, keys)))
    with pytest.raises(ValueError, match="steps=None for VP: give the number of levels"):
        losses.vlb_loss(both, VP(), row, x0, keys, times)
    with pytest.raises(ValueError, match=r"returned shape \(64, 2\) .* twice as long"):
        losses.hybrid_loss(apply, process, row, x0, keys, times, steps=16)


def test_categorical_decoder_is_a_law_over_the_levels():
    values = np.linspace(-1.0, 1.0, 16, dtype=np.float32)
    log_p = jax.jit(categorical(16))(values[:, None], np.full((16, 1), 0.21, np.float32), 0.1)
    assert np.exp(log_p).sum() == pytest.approx(1.0, rel=1e-5)
    # a fine grid of cells under a wide law: away from the ends both decoders give the density times the cell
    x0, estimate = np.float32([[0.0]]), np.float32([[0.02]])
    fine = [np.asarray(jax.jit(make(4001))(x0, estimate, 0.1))[0] for make in (categorical, discretized)]
    assert fine[0] == pytest.approx(fine[1], abs=1e-3)


def filled(values, length=10):
    """A history whose timestep i saw `length` losses, values[i] each."""
    t, seen = (np.tile(np.float32(each), length) for each in (np.arange(len(values)), values))
    return jax.jit(lambda: losses.observe(losses.loss_history(len(values), length), t, seen))()


def test_history_keeps_the_last_losses():
    t, seen = np.float32([1.0, 2.0, 1.0, 1.0]), np.float32([5.0, 6.0, 7.0, 8.0])
    history = jax.jit(lambda: losses.observe(losses.loss_history(3, 2), t, seen))()
    np.testing.assert_array_equal(history.losses, [[0, 0], [7, 8], [0, 6]])
    np.testing.assert_array_equal(history.count, [0, 3, 1])


def test_times_are_even_until_every_row_is_full():
    @jax.jit
    def probabilities():
        t = np.arange(4, dtype=np.float32)
        half = losses.observe(losses.loss_history(4, 2), t, np.float32([1.0, 2.0, 3.0, 4.0]))
        full = losses.observe(half, t, np.float32([7.0, 1.0, 3.0, 2.0]))
        return losses.time_probabilities(half), losses.time_probabilities(full, uniform=0.0)

    half, full = probabilities()
    np.testing.assert_allclose(half, 0.25)
    root = np.sqrt([25.0, 2.5, 9.0, 10.0])
    np.testing.assert_allclose(full, root / root.sum(), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(losses.time_probabilities)(filled([0.0, 0.0])), 0.5)


def test_importance_weights_keep_the_mean():
    # exactly, in the sum over t of p_t·weight·L_t; and in draws
    values, n = np.array([4.0, 0.0, 1.0, 0.5, 2.0]), 40_000
    run = jax.jit(lambda history, keys: (losses.time_probabilities(history), *losses.draw_times(history, keys)))
    p, t, weight = run(filled(values), keys_of(n))
    p, i = np.float64(p), np.asarray(t).astype(int)
    np.testing.assert_allclose(weight, 1 / (5 * p[i]), rtol=1e-5)
    counts = np.bincount(i, minlength=5)
    assert np.all(np.abs(counts - n * p) < 4.5 * np.sqrt(n * p + 1))
    drawn = np.float64(weight) * values[i]
    assert abs(drawn.mean() - values.mean()) < 4.5 * drawn.std() / np.sqrt(n) + 1e-6
    # p_t in proportion to the loss: hardly any variance is left
    assert drawn.std() < 0.1 * values.std()


@pytest.mark.slow
def test_importance_sampled_bound_is_the_bound():
    process, n = chain(), 24_000
    history = filled(np.linspace(3.0, 0.3, T))
    t, weight = losses.draw_times(history, keys_of(n, 5))
    x0 = jnp.asarray(DATA.draw(n), jnp.float32)
    run = jax.jit(lambda t, keys: chain_loss("eps", process, np.full(T, 0.5), x0, keys, lambda process, keys: t))
    even, sampled = run(even_times(process, t), keys_of(n, 1)), weight * run(t, keys_of(n, 2))
    error = np.sqrt((np.var(even) + np.var(sampled)) / n)
    assert abs(np.mean(even) - np.mean(sampled)) < 4 * error


def bumpy(ends=(-6.0, 3.0)):
    """A schedule far from a straight line, in arrays of the precision in force."""
    schedule = learned_schedule(4, *ends, steepness=30.0)
    heights = np.asarray(schedule.network.w3) + np.array([0.0, 2.0, -1.0, 1.0], schedule.network.w3.dtype)
    return LearnedSchedule(schedule.gamma_min, schedule.gamma_max, schedule.network._replace(w3=heights))


def vdm(process, x0, keys):
    apply, row = exact_network(DATA, process, "eps")
    return losses.vdm_bound(apply, process, row, x0, keys, decoder=gaussian_decoder)


def closed_vdm(ends):
    """The three terms a dimension, of the data's law, as functions of the ends of gamma alone."""
    low, high = ends
    diffusion = 0.5 * (jnp.logaddexp(0.0, 2 * np.log(STD) - low) - jnp.logaddexp(0.0, 2 * np.log(STD) - high))
    reconstruction = 0.5 * (np.log(2 * np.pi) + low + 1.0)
    alpha2, sigma2 = jax.nn.sigmoid(-high), jax.nn.sigmoid(high)
    prior = 0.5 * (alpha2 * STD**2 + sigma2 - 1.0 - jnp.log(sigma2))
    return prior, diffusion, reconstruction


@pytest.mark.parametrize("straight", [True, False])
def test_vdm_terms_do_not_depend_on_the_schedule_between_its_ends(straight):
    n, ends = 40_000, (-6.0, 3.0)
    with precision(64):
        process = LearnedSchedule(*ends) if straight else bumpy(ends)
        found = jax.jit(vdm)(process, DATA.draw(n), keys_of(n, 1))
        exact = [float(term) for term in jax.jit(closed_vdm)(ends)]
        found = [np.asarray(term) / DIM for term in found]
    for name, term, value in zip(("prior", "diffusion", "reconstruction", "total"), found, [*exact, sum(exact)]):
        assert abs(term.mean() - value) < 4 * term.std() / np.sqrt(n), name


@pytest.mark.slow
def test_vdm_gradient_is_that_of_the_ends_and_none_between():
    groups, n = 100, 500
    with precision(64):
        process = bumpy()
        x0 = jnp.asarray(DATA.draw(groups * n)).reshape(groups, n, DIM)
        keys = keys_of(groups * n, 1).reshape(groups, n)
        slope = jax.grad(lambda process, x0, keys: jnp.mean(vdm(process, x0, keys).total) / DIM)
        found = jax.device_get(jax.jit(jax.vmap(slope, (None, 0, 0)))(process, x0, keys))
        exact = jax.grad(lambda ends: sum(closed_vdm(ends)))(jnp.asarray([-6.0, 3.0]))
        exact = np.asarray(exact)
    ends = ((found.gamma_min, exact[0]), (found.gamma_max, exact[1]))
    for leaf, expected in (*ends, *((w, 0.0) for w in found.network)):
        assert np.all(leaf.std(axis=0) > 0)
        assert np.all(np.abs(leaf.mean(axis=0) - expected) < 4.5 * leaf.std(axis=0) / np.sqrt(groups))


def test_vdm_loss_is_the_bound_a_dimension_and_finite_in_float32():
    process, keys = learned_schedule(16), keys_of(64)
    row = prediction.eps(c_noise=prediction.quarter_log_nsr)
    x0 = np.float32(np.random.default_rng(0).integers(0, 256, (64, 2, 2, 1)) / 127.5 - 1.0)

    def apply(x_in, c_noise):
        return x_in * expand(jax.nn.sigmoid(4.0 * c_noise), x_in)

    @jax.jit
    def run(process):
        bound = losses.vdm_bound(apply, process, row, x0, keys)
        slope = jax.grad(lambda process: jnp.mean(losses.vdm_loss(apply, process, row, x0, keys)))(process)
        return bound, losses.vdm_loss(apply, process, row, x0, keys), slope

    with pytest.raises(ValueError, match="one key an example"):
        losses.vdm_bound(apply, process, row, x0, jax.random.key(0))
    bound, loss, slope = jax.device_get(run(process))
    np.testing.assert_allclose(loss, bound.total / 4, rtol=1e-6)
    for leaf in jax.tree.leaves((bound, slope)):
        assert leaf.dtype == np.float32
        assert np.all(np.isfinite(leaf))


def test_learned_schedule_rises_between_its_ends_whatever_its_parameters():
    with precision(64):
        process, t = learned_schedule(8, -7.0, 4.0), np.linspace(0.0, 1.0, 101)
        rng = np.random.default_rng(0)
        wild = jax.tree.map(lambda w: np.asarray(w) + 5.0 * rng.standard_normal(w.shape), process.network)
        run = jax.jit(lambda process: process.logsnr(t))
        straight, moved = np.asarray(run(process)), np.asarray(run(LearnedSchedule(-7.0, 4.0, wild)))
    for logsnr in (straight, moved):
        np.testing.assert_allclose(logsnr[[0, -1]], [7.0, -4.0], rtol=1e-9)
        assert np.all(np.diff(logsnr) < 0)
    np.testing.assert_allclose(straight, 7.0 - 11.0 * np.linspace(0, 1, 101), atol=1.0)
    assert np.abs(moved - straight).max() > 1.0
    with pytest.raises(ValueError, match="gamma_min below gamma_max"):
        learned_schedule(8, 5.0, 5.0)


@pytest.mark.parametrize("variance_reduced", [False, True])
def test_sliced_score_matching_of_a_gaussian(variance_reduced):
    # the score -x/a of N(0, s²): -d/a + d·s²/(2·a²), least at a = s²
    n, dim, s2 = 40_000, 3, 0.49
    with precision(64):
        x = gaussian(0.0, np.sqrt(s2), dim=dim).draw(n)

        @functools.partial(jax.jit, static_argnums=2)
        def run(a, keys, slices):
            loss = functools.partial(losses.sliced_score_matching, x=x, keys=keys, n=slices)
            each, slope = jax.jvp(lambda a: loss(lambda x: -x / a, variance_reduced=variance_reduced), (a,), (1.0,))
            return each, slope

        found = {a: [np.asarray(value) for value in run(a, keys_of(n, 1), 1)] for a in (0.3, s2, 1.0)}
        thrice = np.asarray(run(s2, keys_of(n, 1), 3)[0])
    for a, (each, slope) in found.items():
        assert abs(each.mean() - (-dim / a + 0.5 * dim * s2 / a**2)) < 4 * each.std() / np.sqrt(n)
        assert abs(slope.mean() - (dim / a**2 - dim * s2 / a**3)) < 4 * slope.std() / np.sqrt(n)
    assert abs(found[s2][1].mean()) < 4 * found[s2][1].std() / np.sqrt(n)
    # the variance is that of ½·(v·x)²/a², x·v ~ N(0, d·s²): ½·d²·s⁴/a⁴; or of ½·|x|²/a²: ½·d·s⁴/a⁴
    expected = 0.5 * (dim if variance_reduced else dim**2) / s2**2
    assert found[s2][0].var() == pytest.approx(expected, rel=0.1)
    # more slices change nothing where no randomness of v is left, and lower the variance elsewhere
    if variance_reduced:
        np.testing.assert_allclose(thrice, found[s2][0], rtol=1e-9)
    else:
        assert thrice.var() < 0.7 * found[s2][0].var()


def test_sliced_score_matching_of_a_turned_gaussian_by_its_energy():
    # E = ½·x·P·x with P of off-diagonal terms, in x ~ N(0, 1): the trace of P and of P² are what counts
    n = 20_000
    half = np.float32([[1.0, 0.0], [0.6, 0.8]])
    p, x = half @ half.T, np.random.default_rng(4).standard_normal((n, 2)).astype(np.float32)
    score = losses.energy_score(lambda x: 0.5 * jnp.sum((x @ p) * x, axis=-1))

    @jax.jit
    def run(x, seeds):
        keys = jax.random.wrap_key_data(seeds)
        return [losses.sliced_score_matching(score, x, keys, 2, reduced) for reduced in (False, True)]

    exact = -np.trace(p) + 0.5 * np.trace(p @ p)
    seeds = np.asarray(jax.random.key_data(keys_of(n)))
    sliced, reduced = jax.device_get(run(x, seeds))
    for found in (sliced, reduced):
        assert found.dtype == np.float32
        assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(n)
    assert reduced.var() < sliced.var()
    np.testing.assert_allclose(run(x[3:5], seeds[3:5])[0], sliced[3:5], rtol=1e-4, atol=1e-5)


def test_sliced_score_matching_refuses_what_cannot_be_meant():
    x, keys = np.ones((4, 2), np.float32), keys_of(4)
    with pytest.raises(ValueError, match="one key an example"):
        losses.sliced_score_matching(lambda x: -x, x, jax.random.key(0))
    with pytest.raises(ValueError, match="n=0 projections"):
        losses.sliced_score_matching(lambda x: -x, x, keys, 0)
    with pytest.raises(ValueError, match=r"score has shape \(4,\)"):
        jax.eval_shape(lambda: losses.sliced_score_matching(lambda x: x.sum(1), x, keys))


def test_uncertainty_is_least_at_the_log_of_the_mean_loss():
    loss = np.float32([0.1, 0.4, 2.0, 0.02])
    best = np.log(np.mean(loss))

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def run(u, scale):
        return jnp.mean(losses.uncertainty(scale * loss, jnp.full_like(loss, 1.0) * u))

    (value, (slope, of_scale)), (below, _), (above, _) = (run(best + off, 1.0) for off in np.float32([0.0, -0.1, 0.1]))
    assert float(slope) == pytest.approx(0.0, abs=1e-6)
    assert float(value) == pytest.approx(1.0 + float(best), rel=1e-6)
    assert float(value) < min(float(below), float(above))
    # there the gradient of a level's loss is that of the logarithm of its mean
    np.testing.assert_allclose(of_scale, 1.0, rtol=1e-6)


@jax.jit
def every_objective(x0, keys):
    def wide(x_in, c_noise):
        return jnp.concatenate([0.3 * x_in, 0.2 * x_in], axis=-1)

    process, schedule, row = chain(), learned_schedule(4), prediction.v()
    return {
        "hybrid": losses.hybrid_loss(wide, process, row, x0, keys),
        "vlb": losses.vlb_loss(wide, process, row, x0, keys),
        "vdm": losses.vdm_loss(lambda x_in, c_noise: 0.3 * x_in, schedule, row, x0, keys),
        "sliced": losses.sliced_score_matching(lambda x: -jnp.tanh(x), x0, keys, 2),
    }


@pytest.mark.slow
def test_objective_i_depends_on_example_and_key_i_only():
    x0 = jax.random.uniform(jax.random.key(1), (8, 2, 2, 3), minval=-1.0)
    whole, some = every_objective(x0, keys_of(8)), every_objective(x0[3:6], keys_of(8)[3:6])
    for name, value in whole.items():
        assert value.shape == (8,) and value.dtype == np.float32
        np.testing.assert_allclose(some[name], value[3:6], rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("decoder", [gaussian_decoder, discretized(256), categorical(256)])
@pytest.mark.slow
def test_objectives_and_their_gradients_are_finite_at_both_ends(decoder):
    # of a network that knows nothing, at each level of the chain and at the ends of a schedule
    x0, keys = jnp.asarray([[-1.0, 1.0], [1.0, 0.0], [-1.0 / 255, 1.0 / 255]]), keys_of(3)
    row = prediction.eps()

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def run(theta, schedule, share):
        def wide(x_in, c_noise):
            return jnp.concatenate([theta * x_in, jnp.tanh(theta) * jnp.ones_like(x_in)], axis=-1)

        def at(process, keys):
            return jnp.full(len(keys), 1.0) * (process.t_min + share * (process.t_max - process.t_min))

        hybrid = losses.hybrid_loss(wide, chain(), row, x0, keys, at, decoder=decoder)
        bound = losses.vlb_loss(wide, chain(), row, x0, keys, at, decoder=decoder)
        vdm = losses.vdm_loss(lambda x, c: theta * x, schedule, row, x0, keys, at, decoder=decoder)
        return jnp.sum(hybrid + bound + vdm)

    for share in (0.0, 1.0):
        for theta in (-3.0, 0.0, 3.0):
            for leaf in jax.tree.leaves(run(theta, learned_schedule(4), share)):
                assert np.all(np.isfinite(leaf)), (share, theta)
