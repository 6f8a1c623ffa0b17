"""Every sampler against its reference in NumPy float64: its paths, its order, and the law of what it draws."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from networks import thinned
from oracle import (
    MIXTURE,
    PROCESSES,
    SAMPLERS,
    exact_denoiser,
    gaussian,
    keys_of,
    levels,
    noises,
    precision,
    strict,  # noqa: F401
)

from diffax import VP, init_noise, samplers

DATA = gaussian(0.3, 0.5)
DRAWN = {name: case for name, case in SAMPLERS.items() if case.draws}
ORDERED = {name: case for name, case in SAMPLERS.items() if case.order}


def draws_of(case, sigmas):
    return max(1, case.draws) * (len(sigmas) - 1) + 6  # the restarts of `restart`


@functools.cache
def paths(bits, n):
    """(start, sigmas, noises, {sampler: path}) on the mixture, in floats of so many bits."""
    with precision(bits):
        sigmas, keys = samplers.karras(n), keys_of(8)
        x, z = init_noise(keys_of(8, seed=1), (2,), sigmas[0]), noises(keys, 2 * n + 6, (2,))

        def run(x, sigmas):
            denoise = exact_denoiser(MIXTURE)
            return {k: case.run(denoise, x, sigmas, keys, trajectory=True)[1].x for k, case in SAMPLERS.items()}

        return *(np.asarray(a, np.float64) for a in (x, sigmas)), z, jax.device_get(jax.jit(run)(x, sigmas))


@pytest.mark.parametrize(("bits", "n", "tolerance"), thinned([(64, 12, 1e-9), (32, 12, 2e-5)], 64))
@pytest.mark.parametrize("name", SAMPLERS)
def test_paths_equal_the_reference(name, bits, n, tolerance):
    x, sigmas, z, found = paths(bits, n)
    path = SAMPLERS[name].reference(reference.denoiser(MIXTURE), x, sigmas, z)
    if len(path) < len(found[name]):  # a grid without a level between 0 and `lo`: the restarts stand still
        found = {name: found[name][len(found[name]) - len(path) :]}
    np.testing.assert_allclose(found[name], path, rtol=tolerance, atol=tolerance)


@jax.jit
def ordered_paths(x, sigmas):
    denoise = exact_denoiser(DATA)
    return {k: case.run(denoise, x, sigmas, keys_of(2), trajectory=True)[1].x for k, case in ORDERED.items()}


@functools.cache
def errors(process_name, grid):
    """[(steps, {sampler: error})]: the largest along the path, in standard deviations of its level.

    Its end alone would not do: there the leading errors of the ways up and down cancel, by symmetry, on some grids.
    """
    rows = []
    for n in (80, 160, 320, 640):
        with precision(64):
            sigmas = getattr(samplers, grid)(n + 1, *levels(PROCESSES[process_name](), 2))[:-1]
            x = 0.3 + sigmas[0] * jnp.asarray([[1.0], [-2.0]])
            found = jax.device_get(ordered_paths(x, sigmas))
            deviation = np.sqrt(0.25 + np.asarray(sigmas)[:, None, None] ** 2)
            # the flow keeps (x - mean)/deviation
            exact = 0.3 + (np.asarray(x) - 0.3) / deviation[0] * deviation
        rows.append((n, {k: np.max(np.abs(path - exact) / deviation) for k, path in found.items()}))
    return rows


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("grid", ["uniform_logsnr", "karras"])
@pytest.mark.parametrize("process_name", ["vp", "subvp", "ve", "edm", "flow"])
def test_orders_of_convergence(process_name, grid, name):
    rows = errors(process_name, grid)
    slope = -np.polyfit(np.log([n for n, _ in rows]), np.log([row[name] for _, row in rows]), 1)[0]
    assert slope == pytest.approx(ORDERED[name].order, abs=0.3)


@functools.cache
def drawn(n):
    """(sigmas, {sampler: samples [200_000]}) of n steps on Gaussian data."""
    count = 200_000
    sigmas = samplers.karras(n, 0.01, 40.0)

    @jax.jit
    def run(keys):
        x = init_noise(jax.vmap(lambda key: jax.random.fold_in(key, 2**31 - 1))(keys), (1,), sigmas[0])
        return {k: case.run(exact_denoiser(DATA), x, sigmas, keys) for k, case in DRAWN.items()}

    with precision(32):
        found = jax.device_get(run(keys_of(count, seed=n)))
    return np.asarray(sigmas, np.float64), {k: x[:, 0].astype(np.float64) for k, x in found.items()}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("n", [10, *(pytest.param(n, marks=pytest.mark.slow) for n in (20, 50, 100))])
def test_the_law_of_what_is_drawn(n, name):
    sigmas, found = drawn(n)
    mean, variance = reference.law(
        DRAWN[name].reference, reference.denoiser(DATA), sigmas, draws_of(DRAWN[name], sigmas)
    )
    x = found[name]
    assert abs(np.mean(x) - mean) < 4.5 * np.sqrt(variance / len(x))
    assert abs(np.var(x) - variance) < 4.5 * variance * np.sqrt(2 / len(x))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("process_name", ["ve", "ddpm_zero_snr"])  # the least and the most noise
def test_the_law_tends_to_that_of_the_data(process_name, name):
    # the error is of first order at worst: what is left of it when that part is taken out
    case, found = SAMPLERS[name], []
    for n in (150, 300):
        with precision(64):
            sigmas = np.asarray(samplers.karras(n, *levels(PROCESSES[process_name](), 2)))
        found.append(reference.law(case.reference, reference.denoiser(DATA), sigmas, draws_of(case, sigmas)))
    mean, variance = 2 * np.asarray(found[1]) - np.asarray(found[0])
    assert mean == pytest.approx(0.3, abs=0.005)
    # Langevin's steps, of a size that does not depend on n, keep an error of the order of snr²
    assert variance == pytest.approx(0.25, rel=0.05 if name == "predictor_corrector" else 0.02)


def recursion(sigmas, drawn_variance, shrink, data_variance=0.25):
    """The variance after the last step: x' = x0 + shrink·(x - x0) + noise, with x0 the exact posterior mean."""
    variance = sigmas[0] ** 2
    for s, r in itertools.pairwise(sigmas):
        new = drawn_variance(s, r)
        weight = shrink(s, r, new)
        pull = data_variance / (data_variance + s**2)
        variance = (pull + weight * (1 - pull)) ** 2 * variance + new
    return variance


def beta_tilde(s, r):
    # arXiv:2006.11239, Eq. 7 over alpha-bar_{t-1}, with alpha-bar = 1/(1 + sigma²)
    before, now = 1 / (1 + r**2), 1 / (1 + s**2)
    return (1 - before) / (1 - now) * (1 - now / before) / before


def beta(s, r):
    before, now = 1 / (1 + r**2), 1 / (1 + s**2)
    return (1 - now / before) / before if r > 0 else 0.0


def by_eta(eta):
    return lambda s, r: eta**2 * beta_tilde(s, r), lambda s, r, new: np.sqrt(r**2 - new) / s


def posterior_shrink(s, r, new):
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
    with precision(64):
        sigmas = np.asarray(samplers.karras(60, *levels(PROCESSES[process_name](), 2)))
    _, found = reference.law(SAMPLERS[name].reference, reference.denoiser(DATA), sigmas, len(sigmas) - 1)
    assert found == pytest.approx(recursion(sigmas, *CLOSED[name]), rel=1e-8)


def test_small_and_large_variance_of_twenty_steps():
    # of the VP SDE, evenly spaced in t: by the closed form and, within four standard errors, as sampled
    sigmas, n = np.asarray(samplers.uniform_time(VP(), 21), np.float64), 1 << 15
    x = init_noise(keys_of(n), (1,), float(sigmas[0]))
    run = jax.jit(lambda v: samplers.ancestral(exact_denoiser(DATA), x, sigmas, keys_of(n, seed=1), variance=v))
    for variance, name, golden in ((0.0, "ancestral_small", 0.6131), (1.0, "ancestral_large", 1.1841)):
        assert recursion(sigmas, *CLOSED[name]) / 0.25 == pytest.approx(golden, abs=1e-4)
        assert np.var(run(variance)) / 0.25 == pytest.approx(golden, rel=4 * np.sqrt(2 / n))


def test_variance_between_small_and_large():
    # arXiv:2102.09672, Eq. 15: exp(v·log beta + (1 - v)·log beta-tilde)
    with precision(64):
        s, r = 1.7, 0.6
        keys = keys_of(4)
        sigmas = jnp.asarray([s, r, 0.0])

        def run(v):
            zero = jnp.zeros((4, 1))
            return samplers.ancestral(lambda x, _: 0.0 * x, zero, sigmas, keys, variance=v, trajectory=True)[1].x[1]

        found = [run(v) for v in (0.0, 0.3, 1.0)]
        z = noises(keys, 1, (1,))[0]
    for v, value in zip((0.0, 0.3, 1.0), found):
        np.testing.assert_allclose(value, np.sqrt(beta(s, r) ** v * beta_tilde(s, r) ** (1 - v)) * z, rtol=1e-12)


SAME = {
    "dpmpp_sde": (dict(eta=0.0), "dpmpp_2s"),
    "dpmpp_2m_sde": (dict(eta=0.0), "dpmpp_2m"),
    "dpmpp_3m_sde": (dict(eta=0.0), "dpmpp_3m"),
    "restart": (dict(times=0), "heun"),
    "deis": (dict(order=1), "ddim"),
    "unipc": (dict(order=2, corrector=False), "dpmpp_2m"),
}


def test_samplers_that_are_others_with_an_option_left_out():
    sigmas, keys = np.append(np.geomspace(50.0, 0.01, 9), 0.0), keys_of(3)

    @jax.jit
    def run(x):
        denoise = exact_denoiser(MIXTURE)
        plain = {name: getattr(samplers, name)(denoise, x, sigmas, keys) for name in {b for _, b in SAME.values()}}
        special = {a: getattr(samplers, a)(denoise, x, sigmas, keys, **options) for a, (options, _) in SAME.items()}
        # and restarts between levels that the grid does not reach stand still
        return plain, special, samplers.restart(denoise, x, sigmas, keys, lo=1e-3)

    with precision(64):
        plain, special, still = run(50.0 * jax.random.normal(jax.random.key(0), (3, 2)))
    for name, (_, other) in SAME.items():
        np.testing.assert_allclose(special[name], plain[other], rtol=1e-10, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(still, plain["heun"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *a: samplers.lms(*a, order=5), "order=5 is not allowed: give an integer from 1 to 4"),
        (lambda *a: samplers.deis(*a, order=0), "order=0 is not allowed: give an integer from 1 to 4"),
        (lambda *a: samplers.unipc(*a, order=2.0), "order=2.0 is not allowed: give an integer from 1 to 3"),
        (lambda *a: samplers.unipc(*a, bh=3), "bh=3 is not allowed: give 1"),
        (lambda *a: samplers.restart(*a, times=-1), "times=-1 is not allowed: give an integer, 0 or more"),
        (lambda *a: samplers.restart(*a, steps=0), "steps=0 is not allowed: give an integer, 1 or more"),
        (lambda *a: samplers.predictor_corrector(*a, corrections=-1), "corrections=-1 is not allowed"),
        (lambda *a: samplers.predictor_corrector(*a, snr=-0.1), "snr=-0.1: a ratio is not negative"),
        (lambda *a: samplers.ddim(*a, eta=1.5), r"eta=1.5: it is a share of the noise; give a number in \[0, 1\]"),
        (lambda *a: samplers.euler_ancestral(*a, eta=-0.1), "eta=-0.1: it is a share"),
        (lambda *a: samplers.ddim(*a, eta=jnp.nan), "eta=nan: it is a share"),
        (lambda *a: samplers.ancestral(*a, variance=2.0), "variance=2.0: 0 is the small one"),
        (lambda *a: samplers.dpmpp_sde(*a, eta=-1.0), "eta=-1.0: the strength of the noise is not negative"),
        (lambda *a: samplers.dpmpp_2m_sde(*a, eta=jnp.inf), "eta=inf: the strength"),
        (lambda *a: samplers.dpmpp_3m_sde(*a, eta=-1.0), "eta=-1.0: the strength"),
        (lambda *a: samplers.heun(*a, churn=-1.0), "churn=-1.0: noise is added, not removed"),
        (lambda *a: samplers.euler(*a, s_noise=-1.0), "s_noise=-1.0: a standard deviation is not negative"),
        (lambda *a: samplers.dpm2(*a, s_min=2.0, s_max=1.0), "s_min=2.0, s_max=1.0: no level lies between them"),
        (lambda *a: samplers.restart(*a, lo=-1.0), "lo=-1.0, hi=0.3: levels are positive and finite"),
        (lambda *a: samplers.restart(*a, rho=0.0), "rho=0.0: give a positive number"),
    ],
)
def test_illegal_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(exact_denoiser(DATA), jnp.ones((2, 1)), samplers.karras(3), keys_of(2))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([2.0, 1.0], "sigmas must end in 0, got 1.0: append 0"),
        ([1.0, 2.0, 0.0], "sigmas must be finite and decrease, got 1.0 then 2.0 at step 0"),
        ([2.0, np.nan, 0.0], "sigmas must be finite and decrease, got 2.0 then nan at step 0"),
        ([np.inf, 1.0, 0.0], "sigmas must be finite and decrease, got inf then 1.0 at step 0"),
        ([0.0], "sigmas must be a vector of at least 2 levels, got shape (1,)"),
        (3.0, "sigmas must be a vector of at least 2 levels, got shape ()"),
    ],
)
def test_every_sampler_refuses_grids_that_it_cannot_follow(name, sigmas, message):
    def unused(x, sigma):
        raise AssertionError("the network was run")

    with pytest.raises(ValueError, match=re.escape(message)):
        SAMPLERS[name].run(unused, jnp.ones((2, 1)), np.asarray(sigmas), keys_of(2))
