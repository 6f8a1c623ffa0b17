"""Guidance: functions of denoisers, held to the formula, the interval, and the answers of tilted Gaussians."""

import itertools
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle import (  # noqa: F401
    GUIDANCES,
    MIXTURE,
    Mixture,
    exact_denoiser,
    gaussian,
    keys_of,
    posterior_mean,
    precision,
    strict,
)

from diffax import (
    apg,
    batched_cfg,
    cfg,
    cfg_pp,
    classifier_guidance,
    dynamic_threshold,
    samplers,
    static_threshold,
)

COND, UNCOND = exact_denoiser(gaussian(0.8, 0.3)), exact_denoiser(gaussian(0.0, 0.6))
SIGMA = np.float32([0.1, 0.3, 0.5, 3.0, 3.5])
X = np.linspace(-1.0, 1.0, 5, dtype=np.float32)[:, None]
WIDE = X + np.linspace(-0.7, 1.1, 4, dtype=np.float32) ** 2  # examples of four numbers, each with a spread of its own


def together(denoisers):
    """What each of them makes of X at SIGMA, by one program."""
    return jax.device_get(jax.jit(lambda x, sigma: [denoise(x, sigma) for denoise in denoisers])(X, SIGMA))


@pytest.mark.parametrize("make", [cfg, lambda cond, uncond, scale: GUIDED["batched"](cond, uncond, scale)])
def test_scale_moves_along_the_line(make):
    # arXiv:2207.12598, Eq. 6
    scales = (0.0, 1.0, 2.5, -1.0)
    cond, uncond, *guided = together([COND, UNCOND, *(make(COND, UNCOND, scale) for scale in scales)])
    for scale, found in zip(scales, guided, strict=True):
        np.testing.assert_allclose(found, uncond + scale * (cond - uncond), rtol=1e-5, atol=1e-6)


def of_flags(cond, uncond):
    """One denoiser of the two, told by a flag which to be."""
    return lambda x, sigma, flag: jnp.where(flag[:, None] == 1, cond(x, sigma), uncond(x, sigma))


GUIDED = {
    "batched": lambda cond, uncond, scale, **interval: batched_cfg(
        of_flags(cond, uncond), np.ones(5, np.int32), np.zeros(5, np.int32), scale, **interval
    ),
    "twice": cfg,
}


@pytest.mark.parametrize("make", GUIDED.values(), ids=GUIDED)
def test_interval_is_open_below_and_closed_above(make):
    # arXiv:2404.07724, Eq. 4: guided where lo < sigma <= hi, the conditional denoiser elsewhere
    guided = make(COND, UNCOND, 3.0, sigma_lo=0.3, sigma_hi=3.0)
    found, everywhere, cond = together([guided, cfg(COND, UNCOND, 3.0), COND])
    for i, inside in enumerate((False, False, True, True, False)):
        np.testing.assert_allclose(found[i], (everywhere if inside else cond)[i], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", GUIDED.values(), ids=GUIDED)
def test_scale_may_differ_by_example(make):
    scales = np.float32([0.0, 1.0, 2.0, 3.0, 4.0])
    found, *alone = together([make(COND, UNCOND, scales), *(cfg(COND, UNCOND, scale) for scale in scales)])
    for i in range(5):
        np.testing.assert_allclose(found[i], alone[i][i], rtol=1e-6, atol=1e-7)


def test_conditions_may_be_any_tree():
    seen = []

    def denoise(x, sigma, condition):
        seen.append((x.shape, sigma.shape))
        return condition["shift"][:, None] * condition["label"][:, None].astype(x.dtype)

    cond = {"shift": np.full(5, 2.0, np.float32), "label": np.arange(5)}
    uncond = {"shift": np.full(5, 1.0, np.float32), "label": np.full(5, 10)}
    found = jax.jit(batched_cfg(denoise, cond, uncond, 3.0))(X, 0.7)
    np.testing.assert_allclose(np.asarray(found)[:, 0], 10.0 + 3.0 * (2.0 * np.arange(5) - 10.0))
    assert seen == [((10, 1), (10,))]  # one call, twice the batch, one level an example


ALONE = jax.jit(exact_denoiser(gaussian(0.2, 0.5, dim=6)))


@pytest.mark.parametrize("name", GUIDANCES)
def test_guiding_a_denoiser_by_itself_changes_nothing(name):
    x = np.random.default_rng(0).standard_normal((5, 2, 3, 1)).astype(np.float32)
    sigma = np.linspace(0.1, 5.0, 5, dtype=np.float32)
    guided = jax.jit(lambda x, sigma: GUIDANCES[name](ALONE, ALONE)(x, sigma))
    np.testing.assert_allclose(guided(x, sigma), ALONE(x, sigma), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GUIDANCES)
def test_one_level_for_all_is_the_same_as_one_each(name):
    @jax.jit
    def both(x, sigma):
        guided = GUIDANCES[name](COND, UNCOND)
        return guided(x, sigma), guided(x, jnp.full(5, sigma, x.dtype))

    np.testing.assert_allclose(*both(X, 0.5), rtol=1e-6)


def test_guided_gaussians_are_a_gaussian():
    # of equal widths: score + (w - 1)·(score - score_0) is that of the mean m + (w - 1)·(m - m_0), exactly
    with precision(64):
        x, sigma = np.linspace(-2.0, 2.0, 9)[:, None], np.geomspace(0.01, 50.0, 9)
        guided = cfg(exact_denoiser(gaussian(0.8, 0.5)), exact_denoiser(gaussian(0.2, 0.5)), 2.5)
        expected = posterior_mean(gaussian(0.8 + 1.5 * 0.6, 0.5), x, sigma)
        np.testing.assert_allclose(jax.jit(guided)(x, sigma), expected, rtol=1e-12, atol=1e-12)


@jax.jit
def every_guided_sample(x, seeds):
    keys = jax.vmap(jax.random.key)(seeds)
    return {
        name: samplers.ddim(make(COND, UNCOND), x, samplers.karras(6, 0.01, 10.0), keys, eta=0.5)
        for name, make in GUIDANCES.items()
    }


def test_sample_i_depends_on_its_key_only_on_any_number_of_devices():
    x, seeds = 10.0 * np.random.default_rng(0).standard_normal((16, 2)).astype(np.float32), np.arange(16)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    eight = every_guided_sample(*jax.device_put((x, seeds), NamedSharding(mesh, P("batch"))))
    assert {len(found.devices()) for found in eight.values()} == {8}
    for start in range(0, 16, 4):  # four at a time, on one device
        four = every_guided_sample(x[start : start + 4], seeds[start : start + 4])
        for name, found in four.items():
            expected = np.asarray(eight[name])[start : start + 4]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("make", GUIDED.values(), ids=GUIDED)
def test_sweeping_does_not_recompile(make):
    traced, traced_first, found = [], 0, set()

    def cond(x, sigma):
        traced.append(1)
        return COND(x, sigma)

    @jax.jit
    def sample(scale, sigma_lo, sigma_hi):
        guided = make(cond, UNCOND, scale, sigma_lo=sigma_lo, sigma_hi=sigma_hi)
        return samplers.ddim(guided, 10.0 * X, samplers.karras(6, 0.01, 10.0), keys_of(5))

    for arguments in ((1.0, 0.0, 99.0), (3.0, 0.0, 99.0), (3.0, 0.3, 99.0), (3.0, 0.3, 3.0)):
        found.add(float(np.asarray(sample(*arguments))[0, 0]))
        traced_first = traced_first or len(traced)
        assert len(traced) == traced_first <= 2  # the scan traces its body once; a batch has the two sizes
    assert len(found) == 4


def test_vmap_and_gradients():
    def mean(scale, sigma_lo):
        return jnp.mean(cfg(COND, UNCOND, scale, sigma_lo=sigma_lo)(X, SIGMA))

    scales, lows = np.float32([1.0, 3.0]), np.float32([0.0, 0.4])
    values, slopes = jax.device_get(jax.jit(jax.vmap(jax.value_and_grad(mean)))(scales, lows))
    gap = (np.asarray(COND(X, SIGMA)) - np.asarray(UNCOND(X, SIGMA)))[:, 0]
    np.testing.assert_allclose(slopes, [gap.mean(), gap[2:].sum() / 5], rtol=1e-5)
    np.testing.assert_allclose(values[1], mean(scales[1], lows[1]), rtol=1e-5)


def test_autoguidance_of_gaussians_is_a_gaussian():
    # arXiv:2406.02507: the scores are those of p1^w/p0^(w - 1), here of a sharp p1 and a blurred p0 of the same mean
    with precision(64):
        x, sigma, w = np.linspace(-2.0, 2.0, 9)[:, None], np.geomspace(0.01, 50.0, 9), 2.5
        guided = cfg(exact_denoiser(gaussian(0.8, 0.5)), exact_denoiser(gaussian(0.8, 0.7)), w)
        sharpness = w / (0.5**2 + sigma**2) - (w - 1.0) / (0.7**2 + sigma**2)  # 1/variance at level sigma
        expected = x - (sigma**2 * sharpness)[:, None] * (x - 0.8)
        np.testing.assert_allclose(jax.jit(guided)(x, sigma), expected, rtol=1e-11, atol=1e-11)


def rescaled(cond, uncond, scale, phi):
    """arXiv:2305.08891, Eq. 15 and 16, all of x0 plainly."""
    guided = uncond + scale * (cond - uncond)
    std = [jnp.std(x0, axis=1, keepdims=True) for x0 in (cond, guided)]
    return phi * guided * std[0] / std[1] + (1.0 - phi) * guided


@pytest.mark.parametrize("make", GUIDED.values(), ids=GUIDED)
def test_rescale_matches_the_standard_deviation_of_the_conditional_estimate(make):
    with precision(64):
        x, sigma = WIDE.astype(float), SIGMA.astype(float)

        @jax.jit
        def every(scale, phi, sigma_lo):
            cond, uncond = COND(x, sigma), UNCOND(x, sigma)
            ours = make(COND, UNCOND, scale, sigma_lo=sigma_lo, rescale=phi)(x, sigma)
            return ours, rescaled(cond, uncond, scale[:, None], phi[:, None]), cond

        scales, phis = np.array([7.5, 7.5, -1.0, 0.0, 1.0]), np.array([0.7, 0.0, 0.3, 0.5, 0.5])
        found, expected, cond = jax.device_get(every(scales, phis, 0.0))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        whole = np.asarray(every(np.full(5, 7.5), np.ones(5), 0.4)[0])
        np.testing.assert_allclose(whole.std(1), cond.std(1), rtol=1e-12)
        np.testing.assert_allclose(whole[:2], cond[:2], rtol=1e-12)  # outside of the interval


def test_rescale_leaves_what_has_no_spread():
    def guided(phi):
        return cfg(COND, UNCOND, 3.0, rescale=phi)(X, SIGMA)  # examples of one number

    found, plain, slope = jax.jit(lambda phi: (guided(phi), guided(0.0), jax.jacrev(guided)(phi)))(0.7)
    np.testing.assert_allclose(found, plain, rtol=1e-6)
    assert np.isfinite(slope).all()


LEVELS, INSIDE = 6, 2  # of karras(6, 0.01, 10.0): those in (0.1, 2]


def rows(name, denoise, counts):
    """`denoise`, adding the rows that it is run on to counts[name]."""

    def run(x, *arguments):
        jax.debug.callback(lambda: counts.update({name: len(x)}))
        return denoise(x, *arguments)

    return run


# scale, interval, passes of cond, of uncond, and of batches of the single size in batched_cfg
PASSES = [
    (3.0, (0.0, 99.0), LEVELS, LEVELS, 2 * LEVELS),
    (1.0, (0.0, 99.0), LEVELS, 0, LEVELS),
    (0.0, (0.0, 99.0), 0, LEVELS, LEVELS),
    (3.0, (0.1, 2.0), LEVELS, INSIDE, LEVELS + INSIDE),
    (0.0, (0.1, 2.0), LEVELS - INSIDE, INSIDE, LEVELS),
    ([1.0, 1.0, 0.0, 1.0, 0.0], (0.0, 99.0), LEVELS, LEVELS, LEVELS),
    ([1.0, 1.0, 1.0, 1.0, 1.1], (0.0, 99.0), LEVELS, LEVELS, 2 * LEVELS),
]


def test_a_network_that_changes_nothing_is_not_run():
    counts, one, nothing = Counter(), np.ones(5, np.int32), np.zeros(5, np.int32)

    @jax.jit
    def sample(scale, sigma_lo, sigma_hi):
        grid, options = samplers.karras(LEVELS, 0.01, 10.0), dict(sigma_lo=sigma_lo, sigma_hi=sigma_hi)
        two = cfg(rows("cond", COND, counts), rows("uncond", UNCOND, counts), scale, **options)
        flags = batched_cfg(rows("batched", of_flags(COND, UNCOND), counts), one, nothing, scale, **options)
        return grid, [samplers.ddim(guided, 10.0 * X, grid, keys_of(5)) for guided in (two, flags)]

    for scale, interval, *passes in PASSES:
        counts.clear()
        grid, samples = jax.device_get(sample(np.broadcast_to(np.float32(scale), 5), *interval))
        jax.effects_barrier()
        assert np.sum((grid > 0.1) & (grid <= 2.0)) == INSIDE
        assert [counts[name] for name in ("cond", "uncond", "batched")] == [5 * n for n in passes]
        np.testing.assert_allclose(*samples, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale, expected", [(1.0, (1, 0)), (0, (0, 1)), (2.0, (1, 1))])
def test_a_known_scale_decides_when_traced(scale, expected):
    traced = Counter()

    def network(name, denoise):
        return lambda x, sigma: (traced.update([name]), denoise(x, sigma))[1]

    cond, uncond = network("cond", COND), network("uncond", UNCOND)
    jaxpr = jax.make_jaxpr(lambda x, sigma: cfg(cond, uncond, scale)(x, sigma))(X, SIGMA)
    assert (traced["cond"], traced["uncond"]) == expected and "cond[" not in str(jaxpr)


@pytest.mark.parametrize("make", GUIDED.values(), ids=GUIDED)
def test_derivatives_where_a_network_is_not_run(make):
    # at scales 0 and 1 the derivative needs the estimate that the value does not
    with precision(64):
        x, sigma = WIDE.astype(float), SIGMA.astype(float)

        def ours(cond, scale, phi):
            return make(cond, UNCOND, scale, sigma_hi=99.0, rescale=phi)(x, sigma)

        def plain(cond, scale, phi):
            return rescaled(cond(x, sigma), UNCOND(x, sigma), scale, phi)

        @jax.jit
        def slopes(scale, phi, shift):
            def mean(guided, scale, phi, shift):
                return jnp.mean(guided(lambda x, sigma: COND(x, sigma) + shift * x**2, scale, phi) * jnp.arange(4.0))

            return [jax.grad(mean, argnums=(1, 2, 3))(guided, scale, phi, shift) for guided in (ours, plain)]

        for scale, phi in ((0.0, 0.0), (1.0, 0.0), (0.0, 0.4), (1.0, 0.4), (2.5, 0.4)):
            np.testing.assert_allclose(*slopes(scale, phi, 0.1), rtol=1e-10, atol=1e-12)


def test_cfg_pp_is_the_papers_algorithm():
    # arXiv:2406.08070, Algorithm 2, in the paper's own variables: x_t = √abar·x0 + √(1 - abar)·eps, eps predicted
    with precision(64):
        sigmas = np.asarray(jax.jit(partial(samplers.karras, 8, 0.02, 20.0))())
        scale, start = np.asarray([0.0, 0.3, 0.6, 0.8, 1.0]), 20.0 * X.astype(float)
        guided, data = cfg_pp(COND, UNCOND, scale, sigmas), (gaussian(0.8, 0.3), gaussian(0.0, 0.6))
        found = jax.jit(lambda start: samplers.ddim(guided, start, sigmas, keys_of(5)))(start)
        abar = 1.0 / (1.0 + sigmas**2)
        x_t = np.sqrt(abar[0]) * start
        for now, after in itertools.pairwise(abar):
            x, level = x_t / np.sqrt(now), np.full(5, np.sqrt((1.0 - now) / now))
            eps = [(x_t - np.sqrt(now) * posterior_mean(d, x, level)) / np.sqrt(1.0 - now) for d in data]
            eps_scale = eps[1] + scale[:, None] * (eps[0] - eps[1])
            x0 = (x_t - np.sqrt(1.0 - now) * eps_scale) / np.sqrt(now)
            x_t = np.sqrt(after) * x0 + np.sqrt(1.0 - after) * eps[1]
        np.testing.assert_allclose(found, x_t, rtol=1e-9, atol=1e-9)


def test_cfg_pp_between_and_beyond_the_levels_of_its_grid():
    with precision(64):
        grid, sigma = np.array([4.0, 2.0, 0.5, 0.0]), np.array([5.0, 4.0, 3.0, 2.0, 1.25, 0.5, 0.1])
        factors, x = np.array([2.0, 2.0, 5 / 3, 4 / 3, 7 / 6, 1.0, 1.0]), np.linspace(-2.0, 2.0, 7)[:, None]

        @jax.jit
        def both(grid, factors):
            grids, scales = (grid, grid[2:]), (0.6 * factors, 0.6 * jnp.ones(7))  # then a single step, to 0
            ours = [cfg_pp(COND, UNCOND, 0.6, grid)(x, sigma) for grid in grids]
            return ours, [cfg(COND, UNCOND, scale)(x, sigma) for scale in scales]

        np.testing.assert_allclose(*both(grid, factors), rtol=1e-12)


def test_apg_of_all_parts_is_cfg():
    guides = partial(apg, COND, UNCOND, eta=1.0), partial(cfg, COND, UNCOND)
    both = jax.jit(lambda scale: [guide(scale)(WIDE, SIGMA) for guide in guides])
    for scale in (-1.0, 1.0, 7.5):
        np.testing.assert_array_equal(*both(scale))


def test_apg_shortens_and_projects():
    # arXiv:2410.02416, Algorithm 1, example by example in NumPy
    with precision(64):
        x, sigma, longest = WIDE.astype(float), SIGMA.astype(float), 0.9

        @jax.jit
        def guided(eta, longest):
            return apg(COND, UNCOND, 4.0, eta=eta, norm_threshold=longest)(x, sigma), COND(x, sigma), UNCOND(x, sigma)

        found, cond, uncond = map(np.asarray, guided(0.3, longest))
        lengths = np.linalg.norm(cond - uncond, axis=1)
        assert (lengths < longest).any() and (lengths > longest).any()
        for c, u, length, row in zip(cond, uncond, lengths, found):
            difference = (c - u) * min(1.0, longest / length)
            direction = c / np.linalg.norm(c)
            parallel = (difference @ direction) * direction
            np.testing.assert_allclose(row, c + 3.0 * (difference - parallel + 0.3 * parallel), rtol=1e-12)
        across = np.asarray(guided(0.0, jnp.inf)[0]) - cond
        np.testing.assert_allclose(np.sum(across * cond, 1), 0.0, atol=1e-12)


def test_apg_has_derivatives_where_there_is_nothing_to_project():
    def guided(x, longest):
        return jnp.sum(apg(lambda x, sigma: 0.0 * x, lambda x, sigma: 0.0 * x, 3.0, norm_threshold=longest)(x, 0.5))

    slope = jax.jit(jax.grad(guided))
    for longest in (0.5, jnp.inf):
        assert np.isfinite(slope(WIDE, longest)).all()


def test_guided_by_the_exact_classifier_the_unconditional_denoiser_is_the_conditional_one():
    # a mixture's class is two of its three components; arXiv:2105.05233, Algorithm 2
    weights, means, stds = MIXTURE
    members = np.asarray([0, 2])

    def log_prob(x, sigma):
        variance = stds**2 + sigma[:, None] ** 2
        square = jnp.sum((x[:, None] - means) ** 2, axis=-1)
        joint = jnp.log(weights) - 0.5 * square / variance - jnp.log(variance)  # in two dimensions
        return jax.nn.logsumexp(joint[:, members], axis=1) - jax.nn.logsumexp(joint, axis=1)

    with precision(64):
        x, sigma = 2.0 * np.random.default_rng(0).standard_normal((9, 2)), np.geomspace(0.05, 20.0, 9)
        of_class = Mixture(weights[members] / weights[members].sum(), means[members], stds[members])
        cond, uncond = exact_denoiser(of_class), exact_denoiser(MIXTURE)

        @jax.jit
        def both(scale):
            guided = classifier_guidance(uncond, log_prob, scale)(x, sigma)
            return guided, cfg(cond, uncond, scale)(x, sigma)

        for scale in (1.0, -0.5, 0.0, 3.0):  # at scale 1, cfg is cond itself
            np.testing.assert_allclose(*both(scale), rtol=1e-9, atol=1e-10)


def test_a_classifier_returns_one_number_an_example():
    with pytest.raises(ValueError, match=r"shape \(5, 3\) for a batch of 5: return \(5,\)"):
        jax.eval_shape(classifier_guidance(COND, lambda x, sigma: jnp.zeros((5, 3)), 1.0), X, SIGMA)


def test_thresholds():
    # arXiv:2205.11487, Sec. 2.3
    with precision(64):
        x0 = np.random.default_rng(0).standard_normal((5, 8, 8, 3))
        x0 *= np.array([0.1, 0.4, 1, 2, 5])[:, None, None, None]
        static = jax.jit(static_threshold(lambda x, sigma: x, -0.3, 0.5))
        np.testing.assert_array_equal(static(x0, 1.0), x0.clip(-0.3, 0.5))
        dynamic = jax.jit(lambda x, *args: dynamic_threshold(lambda x, sigma: x, *args)(x, 1.0))
        for percentile, limit in ((0.995, 1.0), (0.9, 0.5), (1.0, 1.0)):
            found = np.asarray(dynamic(x0, percentile, limit))
            for row, image in zip(found, x0):
                s = max(np.quantile(np.abs(image), percentile), limit)
                np.testing.assert_allclose(row, image.clip(-s, s) / (s / limit), rtol=1e-12)
            assert np.abs(found).max() <= limit * (1 + 1e-12)


# what else can be swept: (denoiser of it, five values)
SWEEPS = {
    "rescale": (lambda v: cfg(COND, UNCOND, 3.0, rescale=v), (0.0, 0.2, 0.4, 0.6, 1.0)),
    "cfg_pp": (lambda v: cfg_pp(COND, UNCOND, v, samplers.karras(6, 0.01, 10.0)), (0.0, 0.2, 0.5, 0.8, 1.0)),
    "apg": (lambda v: apg(COND, UNCOND, v, norm_threshold=0.7), (0.0, 1.0, 2.0, 4.0, 8.0)),
    "apg_eta": (lambda v: apg(COND, UNCOND, 3.0, eta=v), (0.0, 0.2, 0.4, 0.8, 1.0)),
    "apg_norm": (lambda v: apg(COND, UNCOND, 3.0, norm_threshold=v), (0.2, 0.3, 0.4, 0.5, 0.6)),
    "static": (lambda v: static_threshold(COND, -v, v), (0.1, 0.2, 0.3, 0.5, 0.7)),
    "dynamic": (lambda v: dynamic_threshold(COND, v, 0.1), (0.3, 0.5, 0.8, 0.9, 0.95)),
    "dynamic_limit": (lambda v: dynamic_threshold(COND, 0.9, v), (0.1, 0.2, 0.3, 0.4, 0.5)),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_what_is_swept_is_traced_and_may_differ_by_example(name):
    make, values = SWEEPS[name]
    with precision(64):
        x, sigma, values = WIDE.astype(float), SIGMA.astype(float), np.array(values)

        @jax.jit
        def every(values):
            slopes = jax.vmap(jax.jacrev(lambda v: make(v)(x, sigma)))(values)
            return jax.vmap(lambda v: make(v)(x, sigma))(values), make(values)(x, sigma), slopes

        mapped, batched, slopes = jax.device_get(every(values))
        np.testing.assert_allclose(batched, mapped[np.arange(5), np.arange(5)], rtol=1e-12, atol=1e-14)
        above, below = (np.asarray(every(values + step)[0]) for step in (1e-6, -1e-6))
        numeric = (above - below) / 2e-6
        np.testing.assert_allclose(slopes, numeric, rtol=1e-5, atol=1e-7)
        assert np.abs(slopes).max() > 1e-3


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda v: cfg(COND, UNCOND, v(jnp.nan)), "scale=nan: every sample would be NaN; give a finite scale"),
        (lambda v: cfg(COND, UNCOND, v([1.0, jnp.inf])), "scale=.*inf.*: every sample"),
        (
            lambda v: cfg(COND, UNCOND, 2.0, sigma_lo=v(2.0), sigma_hi=v(0.5)),
            "sigma_lo=2.0, sigma_hi=0.5: no noise level",
        ),
        (lambda v: cfg(COND, UNCOND, 2.0, rescale=v(1.5)), "rescale=1.5: it is a share; give a number in .0, 1."),
        (lambda v: batched_cfg(COND, X, X, 2.0, rescale=v(-0.1)), "rescale=-0.1: it is a share"),
        (lambda v: cfg_pp(COND, UNCOND, 0.5, v([1.0, 1.0, 0.0])), "sigmas=.*: the noise levels must decrease"),
        (lambda v: apg(COND, UNCOND, 2.0, norm_threshold=v(0.0)), "norm_threshold=0.0: .*give a positive norm"),
        (lambda v: apg(COND, UNCOND, 2.0, eta=v(jnp.nan)), "eta=nan: every sample would be NaN"),
        (lambda v: classifier_guidance(COND, COND, v(jnp.nan)), "scale=nan: every sample"),
        (lambda v: static_threshold(COND, v(1.0), v(-1.0)), "lo=1.0, hi=-1.0: the range is empty; give lo below hi"),
        (lambda v: dynamic_threshold(COND, v(99.5)), "percentile=99.5: it is a fraction; give one in"),
        (lambda v: dynamic_threshold(COND, 0.9, v(-1.0)), "limit=-1.0: a magnitude is positive"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(lambda value: value if isinstance(value, float) else jnp.asarray(value))
    with pytest.raises(ValueError, match=message):  # known inside a jit
        jax.jit(lambda: make(lambda value: value if isinstance(value, float) else np.asarray(value)) and 0.0)()
    jax.eval_shape(lambda one: make(lambda value: one * jnp.asarray(value)) and one, 1.0)  # traced: nobody can know
