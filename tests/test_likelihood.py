"""Likelihoods: densities of mixtures, estimates of traces, bounds of Gaussians, each against its closed form."""

import functools
import math
from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import thinned
from oracle import PROCESSES, Mixture, exact_denoiser, gaussian, keys_of, levels, posterior_mean, precision, strict  # noqa: F401

from diffax import DDPM, EDM, VE, VP, FlowMatching, SubVP, likelihood, linear_betas
from diffax.likelihood import bits_per_dim, decode, encode, log_prob, vlb, vlb_continuous


def centered(weights, means, stds):
    """A mixture of mean 0: the mean is what the prior forgets last, at first order in its size over hi."""
    weights, means = np.asarray(weights), np.asarray(means)
    return Mixture(weights, means - weights @ means, np.asarray(stds))


ONE = centered([0.5, 0.3, 0.2], [[0.7], [-0.6], [0.1]], [0.3, 0.4, 0.6])
SIXTEEN = centered([0.6, 0.4], np.random.default_rng(3).uniform(-0.6, 0.6, (2, 16)), [0.5, 0.6])
MIXTURES = {"1": ONE, "16": SIXTEEN}

# process -> the standard deviation of its prior on x_t, arXiv:2011.13456, App. C
PRIORS = {"vp": 1.0, "subvp": 1.0, "ve": 50.0, "edm": 80.0}


def log_density(data, x, sigma):
    """log p(x) of the mixture with noise of level sigma, in NumPy float64."""
    total = data.stds**2 + sigma**2
    square = np.sum((x[:, None] - data.means) ** 2, -1) / total
    return np.logaddexp.reduce(np.log(data.weights) - 0.5 * (square + x.shape[1] * np.log(2 * np.pi * total)), axis=1)


def normal_log_density(x, std):
    return np.sum(-0.5 * (x / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi), axis=1)


def transported(data, x, lo, hi):
    """Where the flow takes x: in one dimension to the quantile of the same rank, else by SciPy's solver of order 8."""
    if x.shape[1] == 1:

        def rank(z, sigma):
            spread = np.sqrt(data.stds**2 + sigma**2)
            apart = (z[:, None] - data.means[:, 0]) / spread
            return np.vectorize(lambda a: 0.5 * math.erfc(-a / math.sqrt(2)))(apart) @ data.weights

        want, below, above = rank(x[:, 0], lo), np.full(len(x), -1e4), np.full(len(x), 1e4)
        for _ in range(80):
            middle = 0.5 * (below + above)
            less = rank(middle, hi) < want
            below, above = np.where(less, middle, below), np.where(less, above, middle)
        return middle[:, None]

    def slope(u, flat):
        x = flat.reshape(-1, data.means.shape[1])
        return (x - posterior_mean(data, x, np.full(len(x), np.exp(u)))).ravel()

    from scipy.integrate import solve_ivp  # a second to import

    ends = np.log([lo, hi])
    return solve_ivp(slope, ends, x.ravel(), "DOP853", rtol=1e-10, atol=1e-10).y[:, -1].reshape(x.shape)


@functools.partial(jax.jit, static_argnames="name")
def density(name, x, lo, hi, std):
    """log_prob of a mixture with the prior N(0, std²) on x, by the exact trace; std is traced."""

    def prior(latent, hi):
        return jnp.sum(jax.scipy.stats.norm.logpdf(latent, scale=std), axis=1)

    options = dict(lo=lo, hi=hi, prior=prior, trace=likelihood.exact_trace())
    return log_prob(exact_denoiser(MIXTURES[name]), x, keys_of(len(x)), **options)


@pytest.mark.parametrize("name", thinned(MIXTURES, "16"))
@pytest.mark.parametrize("process_name", PRIORS)
def test_density_of_a_mixture(process_name, name):
    data, process = MIXTURES[name], PROCESSES[process_name]()
    lo, hi = levels(process, 2)
    std = PRIORS[process_name] / float(process.alpha(jnp.float32(process.t_max)))
    x = data.draw(32).astype(np.float32)
    found = density(name, x, jnp.float32(lo), jnp.float32(hi), jnp.float32(std))
    # the flow keeps p_sigma(x)·|dx|: from the prior instead of p_hi it makes p_lo(x)·prior(z)/p_hi(z)
    x = x.astype(np.float64)
    z = transported(data, x, lo, hi)
    np.testing.assert_allclose(found.latent, z, rtol=1e-4, atol=1e-3 * hi)
    exact = log_density(data, x, lo) + normal_log_density(z, std) - log_density(data, z, hi)
    np.testing.assert_allclose(found.log_prob, exact, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.log_prob, log_density(data, x, 0.0), rtol=0, atol=6e-3)


@pytest.mark.parametrize("process", [VP(), SubVP(), FlowMatching(), DDPM(linear_betas())], ids=repr)
def test_prior_of_a_process_is_normal_in_its_own_coordinates(process):
    # log p(x_t) = log p(x) - d·log(alpha)
    t = jnp.float32(0.8 * process.t_max)
    x_t, alpha = np.linspace(-2.0, 2.0, 12).reshape(4, 3), float(process.alpha(t))
    found = likelihood.process_prior(process, std=1.3)(jnp.asarray(x_t / alpha, jnp.float32), process.nsr(t))
    np.testing.assert_allclose(found, normal_log_density(x_t, 1.3) + 3 * np.log(alpha), rtol=1e-4)


def test_prior_of_noise_alone():
    x = np.linspace(-90.0, 90.0, 12).reshape(4, 3)
    found = likelihood.noise_prior(jnp.asarray(x, jnp.float32), 50.0)
    np.testing.assert_allclose(found, normal_log_density(x, 50.0), rtol=1e-6)
    exploding = likelihood.process_prior(VE(), std=50.0)(jnp.asarray(x, jnp.float32), 50.0)
    np.testing.assert_allclose(found, exploding, rtol=1e-6)


LO, HI = 0.01, 50.0
COVARIANCE = np.array([[0.5, 0.3, -0.1, 0.0], [0.3, 0.4, 0.1, 0.1], [-0.1, 0.1, 0.3, 0.15], [0.0, 0.1, 0.15, 0.2]])
VALUES, VECTORS = np.linalg.eigh(COVARIANCE)
# the integral of C(C + sigma²)⁻¹, the Jacobian of the denoiser of N(0, C), over log sigma from LO to HI
INTEGRAL = VECTORS * (0.5 * np.log((1 + VALUES / LO**2) / (1 + VALUES / HI**2))) @ VECTORS.T
PROBES = {
    "exact": likelihood.exact_trace(),
    "rademacher": likelihood.hutchinson(),
    "rademacher_3": likelihood.hutchinson(3),
    "gaussian": likelihood.hutchinson(1, jax.random.normal),
}


@functools.cache
def estimate(name):
    """The LogProb of 8192 examples at 0 of data N(0, C): all that differs between traces is their probes."""

    def denoise(x, sigma):
        values, vectors = jnp.asarray(VALUES, x.dtype), jnp.asarray(VECTORS, x.dtype)
        return ((x @ vectors) * (values / (values + sigma**2))) @ vectors.T

    run = jax.jit(lambda x, keys: log_prob(denoise, x, keys, lo=LO, hi=HI, trace=PROBES[name]))
    return jax.device_get(run(jnp.zeros((8192, 4)), keys_of(8192)))


def captured(found):
    """The integral of the trace that a log-density at 0 was made of."""
    return 4 * np.log(HI / LO) + normal_log_density(np.zeros((1, 4)), HI) - found.log_prob


@pytest.mark.slow
def test_exact_trace():
    np.testing.assert_allclose(captured(estimate("exact")), np.trace(INTEGRAL), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", thinned(list(PROBES)[1:], "rademacher_3"))
def test_an_example_has_the_probes_of_its_key_all_along(name):
    probes = np.asarray(jax.vmap(PROBES[name])(keys_of(8192), jnp.zeros((8192, 4))), np.float64)
    expected = np.einsum("bki,ij,bkj->b", probes, INTEGRAL, probes)
    np.testing.assert_allclose(captured(estimate(name)), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", thinned(list(PROBES)[1:], "rademacher_3"))
def test_hutchinsons_mean_and_variance(name):
    off = INTEGRAL - np.diag(np.diag(INTEGRAL))
    variance = 2 * np.sum((INTEGRAL if name == "gaussian" else off) ** 2) / (3 if name == "rademacher_3" else 1)
    values = captured(estimate(name))
    assert abs(np.mean(values) - np.trace(INTEGRAL)) < 4 * np.sqrt(variance / len(values))
    assert np.var(values) == pytest.approx(variance, rel=0.1)


@jax.jit
def of_a_gaussian(x, s, lo, hi, tolerance):
    """log_prob under N(0, s²), and its derivatives by x and by s."""

    def total(x, s):
        def denoise(x, sigma):
            return x * (s**2 / (s**2 + sigma**2))

        options = dict(lo=lo, hi=hi, rtol=tolerance, atol=tolerance, trace=likelihood.exact_trace())
        found = log_prob(denoise, x, keys_of(len(x)), **options)
        return jnp.sum(found.log_prob), found

    (_, found), slopes = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(x, s)
    return found, slopes


def exact_of_a_gaussian(x, s, lo, hi):
    """(log p, its derivative by x, the sum of those by s): the flow scales by √((s² + hi²)/(s² + lo²))."""
    scale = np.sqrt((s**2 + hi**2) / (s**2 + lo**2))
    relative = s / (s**2 + hi**2) - s / (s**2 + lo**2)  # d log(scale)/ds
    by_s = np.sum(relative * (x.shape[1] - np.sum((x * scale / hi) ** 2, axis=1)))
    return normal_log_density(x * scale, hi) + x.shape[1] * np.log(scale), -x * (scale / hi) ** 2, by_s


@pytest.mark.slow
def test_value_and_gradients_to_the_tolerance():
    before = of_a_gaussian._cache_size()
    with precision(64):
        x = gaussian(0.0, 0.5, 2).draw(3)
        errors = []
        for lo, hi, tolerance in ((0.01, 50.0, 1e-4), (0.002, 80.0, 1e-7), (0.05, 20.0, 1e-10)):
            found, (by_x, by_s) = of_a_gaussian(x, 0.5, lo, hi, tolerance)
            exact = exact_of_a_gaussian(x, 0.5, lo, hi)
            assert found.log_prob.dtype == found.latent.dtype == np.float64
            for value, wanted in zip((found.log_prob, by_x, by_s), exact):
                np.testing.assert_allclose(value, wanted, rtol=100 * tolerance, atol=100 * tolerance)
            errors.append(np.max(np.abs(found.log_prob - exact[0])))
        assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert of_a_gaussian._cache_size() == before + 1  # one executable for all levels and tolerances


@functools.partial(jax.jit, static_argnames="max_steps")
def there_and_back(x, keys, lo=LO, hi=HI, max_steps=4096):
    options = dict(lo=lo, hi=hi, max_steps=max_steps)
    found = log_prob(exact_denoiser(SIXTEEN), x, keys, **options)
    latent = encode(exact_denoiser(SIXTEEN), x, **options)
    return found, latent, decode(exact_denoiser(SIXTEEN), latent, **options)


@pytest.mark.slow
def test_decode_is_the_inverse_of_encode():
    x = jnp.asarray(SIXTEEN.draw(8), jnp.float32)
    found, latent, back = there_and_back(x, keys_of(8))
    assert back.dtype == found.log_prob.dtype == np.float32
    np.testing.assert_allclose(back, x, rtol=0, atol=3e-4)
    np.testing.assert_allclose(latent, found.latent, rtol=1e-4, atol=1e-4 * HI)
    np.testing.assert_allclose(latent, transported(SIXTEEN, np.asarray(x, np.float64), LO, HI), rtol=1e-4, atol=5e-3)


@pytest.mark.slow
def test_an_example_does_not_depend_on_its_neighbors():
    x, keys = jnp.asarray(SIXTEEN.draw(8), jnp.float32), keys_of(8)
    whole, others = there_and_back(x, keys), there_and_back(x.at[1:].multiply(4.0), keys.at[1:].set(keys_of(7, seed=1)))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(others)):
        np.testing.assert_array_equal(a[0], b[0])
    assert np.any(others[0].steps[1:] != whole[0].steps[1:])


@pytest.mark.slow
def test_steps_and_what_needs_too_many():
    x, keys = jnp.asarray(SIXTEEN.draw(8), jnp.float32), keys_of(8)
    found = there_and_back(x, keys)[0]
    assert np.all((found.steps > 10) & (found.steps < 60))
    few, latent, back = there_and_back(x, keys, max_steps=10)
    np.testing.assert_array_equal(few.steps, 10)
    assert np.all(np.isnan(few.log_prob)) and np.all(np.isnan(latent)) and np.all(np.isnan(back))


@pytest.mark.slow
def test_conditions_are_mapped_with_the_examples():
    def of_class(label):
        return lambda x, sigma: label + (x - label) * 0.25 / (0.25 + sigma**2)

    x, labels = jnp.asarray([[0.3], [0.3], [-0.8]]), jnp.asarray([0.0, 1.0, -1.0])

    def one(x, key, label):
        return log_prob(of_class(label), x[None], key[None], lo=LO, hi=HI).log_prob[0]

    found = jax.jit(jax.vmap(one))(x, keys_of(3), labels)
    # N(label, ¼ + LO²), the prior at the wrong mean by label/HI
    np.testing.assert_allclose(found, normal_log_density(x - labels[:, None], np.sqrt(0.25 + LO**2)), atol=0.03)
    with pytest.raises(ValueError, match=r"shape \(3, 1\) for a batch of one of shape \(1, 1\).*put jax.vmap around"):
        log_prob(of_class(labels[:, None]), x, keys_of(3), lo=LO, hi=HI)


def test_uniform_integers_have_their_own_number_of_bits():
    # uniform on [-1, 1]: log p = -log 2 in each dimension
    for levels_, bits in ((256, 8.0), (2, 1.0), (32, 5.0)):
        found = bits_per_dim(jnp.full(3, -math.prod((32, 32, 3)) * np.log(2.0)), (32, 32, 3), levels_)
        assert np.all(found == bits), levels_


def test_bits_are_the_entropy_of_the_integers():
    # of the density that is constant over each integer's cell in the scaling of the data pipeline
    from diffax import data

    p = np.array([0.1, 0.2, 0.3, 0.4])
    raw = np.repeat(np.arange(4), 1000 * p.astype(int) + (1000 * p).round().astype(int)).astype(np.uint8)[:, None]
    dataset = data.Dataset([dict(x0=value, label=0) for value in raw], (1,), 0, 4)
    batch = next(data.batches(dataset, batch_size=len(raw), seed=0, dequantize=True))
    cell = np.floor((batch["x0"] + 1) * 2).astype(int)
    log_p = np.log(p[cell[:, 0]] * 4 / 2)
    assert np.mean(bits_per_dim(log_p, (1,), 4)) == pytest.approx(-np.sum(p * np.log2(p)), rel=1e-6)


BETAS = linear_betas()
STD = 0.5


@functools.cache
def bounds():
    """(x0 [64], eps [64, 1000], Bounds by variance) of data N(0, ¼) under Ho et al.'s chain and the exact denoiser."""
    with precision(64):
        keys, x0 = keys_of(64), gaussian(0.0, STD).draw(64)
        noise_keys = jax.vmap(jax.random.split)(keys)[:, 0]
        of_step = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        each = jax.vmap(lambda key: jax.vmap(lambda key: jax.random.normal(key, (1,)))(of_step(key, jnp.arange(1000))))
        eps = np.asarray(each(noise_keys))[..., 0]
        run = jax.jit(lambda v: vlb(exact_denoiser(gaussian(0.0, STD)), DDPM(BETAS), x0, keys, variance=v))
        return x0[:, 0], eps, {v: jax.device_get(run(v)) for v in (0.0, 0.5, 1.0)}


def chain(variance):
    """Of each reverse step: (a, b, weight, constant), a term being weight·(a·x0 + b·eps)² + constant.

    In the symbols of arXiv:2006.11239, Eq. 6-7 and Sec. 3.2; the first is L_0, -log of the decoder.
    """
    alpha_bar = np.cumprod(1 - BETAS)
    before = np.append(1.0, alpha_bar[:-1])
    # x0 - E[x0 | x_t], with x_t = √alpha_bar·x0 + √(1 - alpha_bar)·eps
    gain = np.sqrt(alpha_bar) * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)
    a, b = 1 - gain * np.sqrt(alpha_bar), -gain * np.sqrt(1 - alpha_bar)
    with np.errstate(divide="ignore", invalid="ignore"):
        tilde = (1 - before) / (1 - alpha_bar) * BETAS
        v = np.exp(variance * np.log(BETAS) + (1 - variance) * np.log(tilde))
        weight = before * BETAS**2 / (1 - alpha_bar) ** 2 / (2 * v)  # of the mean of Eq. 7
        constant = 0.5 * (tilde / v - 1 + np.log(v / tilde))
    weight[0], constant[0] = 0.5 / BETAS[0], 0.5 * np.log(2 * np.pi * BETAS[0])
    return a, b, weight, constant


def prior_term(second_moment):
    alpha_bar = np.prod(1 - BETAS)
    return 0.5 * (alpha_bar * second_moment - alpha_bar - np.log1p(-alpha_bar))


@pytest.mark.parametrize("variance", [0.0, 0.5, 1.0])
def test_bound_is_that_of_ho_et_al_draw_by_draw(variance):
    x0, eps, found = bounds()
    a, b, weight, constant = chain(variance)
    terms = weight * (a * x0[:, None] + b * eps) ** 2 + constant
    found = found[variance]
    np.testing.assert_allclose(found.prior, prior_term(x0**2), rtol=1e-8)
    np.testing.assert_allclose(found.diffusion, np.sum(terms[:, 1:], axis=1), rtol=1e-9)
    np.testing.assert_allclose(found.reconstruction, terms[:, 0], rtol=1e-9)
    np.testing.assert_allclose(found.total, found.prior + found.diffusion + found.reconstruction, rtol=1e-12)


def test_a_learned_variance_is_that_of_the_last_step_too():
    # v = ½ as a function: the same steps as the number, and a decoder between √beta_1 and the next step's small one
    x0, eps, found = bounds()
    with precision(64):
        run = jax.jit(partial(vlb, exact_denoiser(gaussian(0.0, STD)), DDPM(BETAS)), static_argnames="variance")
        learned = jax.device_get(run(x0[:, None], keys_of(64), variance=lambda x, sigma: jnp.full_like(x, 0.5)))
    np.testing.assert_allclose(learned.diffusion, found[0.5].diffusion, rtol=1e-9)
    alpha_bar = np.cumprod(1 - BETAS)
    tilde = (1 - alpha_bar[0]) / (1 - alpha_bar[1]) * BETAS[1]
    variance = np.sqrt(BETAS[0] * tilde)
    a, b, weight, _ = (terms[0] for terms in chain(1.0))
    error2 = weight * (a * x0 + b * eps[:, 0]) ** 2 * 2 * BETAS[0]
    wanted = 0.5 * (error2 / variance + np.log(2 * np.pi * variance))
    np.testing.assert_allclose(learned.reconstruction, wanted, rtol=1e-8)


@pytest.mark.parametrize("variance, golden", [(1.0, 0.7269), (0.0, 1.1821)])
def test_bound_of_a_gaussian(variance, golden):
    # the means over x0 and eps, by what a second moment does to each term: no statistical error is left
    x0, eps, found = bounds()
    a, b, weight, _ = chain(variance)
    excess = weight * (a**2 * (x0[:, None] ** 2 - STD**2) + b**2 * (eps**2 - 1) + 2 * a * b * x0[:, None] * eps)
    found = found[variance]
    prior = np.mean(found.prior) - prior_term(np.mean(x0**2)) + prior_term(STD**2)
    diffusion = np.mean(found.diffusion - np.sum(excess[:, 1:], axis=1))
    reconstruction = np.mean(found.reconstruction - excess[:, 0])
    # closed forms: E‖x0 - D‖² = s²·nsr²/(s² + nsr²) at each level
    nsr2 = 1 / np.cumprod(1 - BETAS) - 1
    error = STD**2 * nsr2 / (STD**2 + nsr2)
    wider = variance * (np.log1p(1 / nsr2[:-1]) - np.log1p(1 / nsr2[1:]))
    steps = wider + np.exp(-wider) * (1 + (1 / nsr2[:-1] - 1 / nsr2[1:]) * error[1:]) - 1
    assert prior == pytest.approx(5.045e-6, abs=1e-8)
    assert diffusion == pytest.approx(0.5 * np.sum(steps), abs=1e-8)
    assert reconstruction == pytest.approx(0.5 * np.log(2 * np.pi * BETAS[0]) + 0.5 * error[0] / BETAS[0], abs=1e-8)
    assert prior + diffusion + reconstruction == pytest.approx(golden, abs=5e-5)
    assert golden > 0.5 * np.log(2 * np.pi * np.e * STD**2)  # the entropy, which no bound is below


@functools.cache
def monte_carlo():
    """Bounds [256] in float32, of 64 dimensions: all steps, 200 of them, and continuous time."""
    data, process = gaussian(0.0, STD, 64), DDPM(BETAS)
    x0 = jnp.asarray(data.draw(256), jnp.float32)

    def run(x0, keys):
        arguments = exact_denoiser(data), process, x0, keys
        return vlb(*arguments), vlb(*arguments, draws=200), vlb_continuous(*arguments)

    return jax.device_get(jax.jit(run)(x0, keys_of(256)))


@pytest.mark.slow
def test_subset_of_steps_and_continuous_time_are_unbiased():
    nsr2 = 1 / np.cumprod(1 - BETAS) - 1
    limit = 0.5 * np.log((1 + STD**2 / nsr2[0]) / (1 + STD**2 / nsr2[-1]))  # of ½·∫ s²/(s² + nsr²) d logsnr
    for found, exact in zip(monte_carlo(), (3.91326, 3.91326, limit)):
        per_dim = found.diffusion / 64
        assert found.diffusion.dtype == np.float32
        assert abs(np.mean(per_dim) - exact) < 4 * np.std(per_dim) / 16
        assert np.std(per_dim) / 16 < 0.05
    # in the limit the bound is the entropy, but for the prior and for the decoder's variance beta_1
    assert limit + 5.045e-6 - 3.18638 == pytest.approx(0.5 * np.log(2 * np.pi * np.e * STD**2), abs=1e-5)


def test_bound_of_an_exploding_process():
    # KL(N(x0, 80²), N(0, 80²)), and L_0 of an exact x0: half the log of 2π·sigma_min²
    x0 = jnp.asarray([[0.3, -0.4], [1.0, 0.0]])
    options = dict(steps=10, prior_std=80.0, variance=0.0)
    found = jax.jit(lambda keys: vlb(lambda x, sigma: x0, EDM(), x0, keys, **options))(keys_of(2))
    np.testing.assert_allclose(found.prior, np.array([0.25, 1.0]) / (2 * 80.0**2), rtol=1e-4)
    np.testing.assert_allclose(found.diffusion, 0.0)
    np.testing.assert_allclose(found.reconstruction, np.log(2 * np.pi * 0.002**2), rtol=1e-6)


@pytest.mark.parametrize("count", [2, 16, 256])
def test_masses_of_integers_sum_to_one(count):
    x0 = np.linspace(-1.0, 1.0, count)
    log_mass = jax.jit(likelihood.discretized(count))
    for mean, std in ((0.3, 0.1), (-1.7, 0.2), (1.0, 0.01)):
        batch = jnp.asarray(x0[:, None], jnp.float32)
        mass = np.exp(log_mass(batch, jnp.full_like(batch, mean), jnp.float32(std)))
        edges = [NormalDist(mean, std).cdf(edge) for edge in 0.5 * (x0[1:] + x0[:-1])]
        np.testing.assert_allclose(mass, np.diff([0.0, *edges, 1.0]), atol=1e-5)
        assert np.sum(mass) == pytest.approx(1.0, abs=1e-5)


def test_masses_far_from_the_mean():
    # log Phi(-a) → -a²/2 - log(a√(2π)): finite, with a slope towards the integer, in both tails
    x0 = jnp.asarray([[-1.0], [1.0], [0.0], [-1 / 255], [1.0]])

    def log_mass(estimate):
        found = likelihood.discretized(256)(x0, estimate, jnp.float32(0.01))
        return jnp.sum(found), found

    slope, found = jax.jit(jax.grad(log_mass, has_aux=True))(jnp.asarray([[1.0], [-1.0], [1.0], [-1.0], [1.0]]))
    assert np.all(np.isfinite(found))
    np.testing.assert_array_equal(np.sign(slope[:4, 0]), [-1.0, 1.0, -1.0, 1.0])
    a = 2.0 / 0.01 - (1 / 255) / 0.01
    assert float(found[0]) == pytest.approx(-(a**2) / 2 - np.log(a * np.sqrt(2 * np.pi)), rel=1e-4)


DENOISE, X, KEYS = exact_denoiser(gaussian()), jnp.ones((4, 1)), keys_of(4)
REFUSED = {
    "lo of 0.0 is not allowed, expected a finite number above 0": lambda: log_prob(DENOISE, X, KEYS, lo=0.0, hi=1.0),
    "lo of -1.0 is not allowed": lambda: encode(DENOISE, X, lo=-1.0, hi=1.0),
    "hi of 0.5 is not allowed, expected more than lo, which is 0.5": lambda: decode(DENOISE, X, lo=0.5, hi=0.5),
    "rtol of 0.0 is not allowed": lambda: log_prob(DENOISE, X, KEYS, lo=0.1, hi=1.0, rtol=0.0),
    "atol of -1.0 is not allowed": lambda: encode(DENOISE, X, lo=0.1, hi=1.0, atol=-1.0),
    "max_steps of 0 is not allowed": lambda: decode(DENOISE, X, lo=0.1, hi=1.0, max_steps=0),
    r"keys of shape \(3,\) for a batch of 4: one key an ex": lambda: log_prob(DENOISE, X, KEYS[:3], lo=0.1, hi=1.0),
    r"keys of shape \(\) for a batch of 4: one key": lambda: vlb(DENOISE, DDPM(BETAS), X, KEYS[0]),
    "n of 0 is not allowed, expected a whole number of probes": lambda: likelihood.hutchinson(0),
    "levels of 1 is not allowed, expected at least 2": lambda: bits_per_dim(X, (1,), 1),
    "levels of 0 is not allowed": lambda: likelihood.discretized(0),
    "steps=None for VP: give the number of levels": lambda: vlb(DENOISE, VP(), X, KEYS),
    "draws of 0 is not allowed": lambda: vlb_continuous(DENOISE, VP(), X, KEYS, draws=0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_meant_is_refused(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
