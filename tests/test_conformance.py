"""The public suite: what is right passes it, and typical bugs do not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import thinned
from oracle import MIXTURE, PROCESSES, posterior_mean

from diffax import VP, FlowMatching, conformance, likelihood, prediction, pytree, samplers
from diffax.process import Process


def my_sampler(denoise, x, sigmas, keys, *, shrink=1.0, noise=0.0, level=0, last=True, shared=False):
    """A user's Euler sampler, or with one of its options a typical bug."""

    def step(x, now):
        s, r, i = now
        x0 = denoise(x, (s, r)[level])  # level = 1: the network is told the next level
        chosen = jnp.broadcast_to(keys[:1], keys.shape) if shared else keys
        z = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), x.shape[1:]))(chosen)
        down = jnp.sqrt(r**2 - (noise * r) ** 2 * (1 - (r / s) ** 2))
        drawn = noise * r * jnp.sqrt(1 - (r / s) ** 2)
        x = x0 + shrink * (down / s) * (x - x0) + drawn * z
        return (x if last else x + 0.05 * z), None

    return jax.lax.scan(step, x, (sigmas[:-1], sigmas[1:], jnp.arange(len(sigmas) - 1)))[0]


@pytest.mark.parametrize(
    "sampler",
    [partial(my_sampler, noise=1.0)],
    ids=["ancestral"],
)
@pytest.mark.slow
def test_a_right_sampler_holds(sampler):
    report = conformance.check(sampler, show=False)
    assert report.held, str(report)


BUGS = {
    "shrinks": (dict(shrink=0.98), "variance of Gaussian data, over its own"),
    "told the next level": (dict(level=1), "one step to 0 against the estimate there"),
    "ends with noise": (dict(last=False), "distance from data that is one point"),
    "one key for all": (dict(noise=1.0, shared=True), "change of a sample drawn alone"),
}


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.slow
def test_a_planted_bug_is_caught(bug, capsys):
    options, what = BUGS[bug]
    report = conformance.check(partial(my_sampler, **options), draws=5000)
    assert what in report.broken, str(report)
    printed = capsys.readouterr().out
    assert "NOT  " in printed and f"{len(report.broken)} of {len(report.checks)} did not hold" in printed


@pytest.mark.parametrize(
    "process_name", thinned(("vp", "edm", "flow", "ddpm_zero_snr", "trigonometric"), "edm", "flow")
)
def test_right_processes_hold(process_name):
    report = conformance.check(PROCESSES[process_name](), show=False)
    assert report.held, str(report)


@pytree
class Wrong(Process):
    """Its time() is that of another process."""

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t

    def time(self, nsr):
        return nsr / (2 + nsr)

    @property
    def t_min(self):
        return 0.01

    @property
    def t_max(self):
        return 0.99


def test_a_wrong_process_is_caught():
    report = conformance.check(Wrong(), show=False)
    assert "time(nsr(t)) against t, of the span" in report.broken
    assert "denoiser of a perfect eps network, relative" in report.broken


@pytest.mark.slow
def test_predictions():
    assert conformance.check(prediction.v(), show=False).held
    same = prediction.v()._replace(target=lambda process, t: (process.alpha(t), process.sigma(t)))  # a sign is lost
    report = conformance.check(same, show=False)
    assert "VP: alpha b - sigma a nowhere 0" in report.broken


@pytest.mark.parametrize("wrong", [VP, 3, "heun"])
def test_other_things_are_refused(wrong):
    with pytest.raises(TypeError, match="neither a sampler nor a process nor a prediction"):
        conformance.check(wrong)


@pytest.mark.slow
def test_orders_and_calls():
    for sampler, order, calls in ((samplers.euler, 1, 10), (samplers.heun, 2, 19), (samplers.dpmpp_2m, 2, 10)):
        assert conformance.order(sampler) == pytest.approx(order, abs=0.3)
        assert conformance.network_calls(sampler, 10) == calls


def test_exact_network_is_the_posterior_mean_of_its_row():
    t, x_t = np.linspace(0.1, 0.9, 5), np.random.default_rng(0).standard_normal((5, 2))
    process = FlowMatching()

    @jax.jit
    def found(t, x_t):
        apply, row = conformance.exact_network(MIXTURE, process, prediction.x0())
        return apply(row.c_in(process, t)[:, None] * x_t, t)

    expected = posterior_mean(MIXTURE, x_t / (1 - t)[:, None], t / (1 - t))
    with jax.enable_x64(True):
        np.testing.assert_allclose(found(t, x_t), expected, rtol=1e-9)


@pytest.mark.slow
def test_log_density_is_that_of_which_the_denoiser_is_the_score():
    # Tweedie: E[x0 | x] = x + sigma²·(log p_sigma)'(x)
    with jax.enable_x64(True):
        x, sigma = jax.random.normal(jax.random.key(0), (6, 2)), jnp.geomspace(0.1, 10.0, 6)
        log_p = conformance.log_density(MIXTURE)
        score = jax.grad(lambda x: jnp.sum(log_p(x, sigma)))(x)
        np.testing.assert_allclose(
            x + sigma[:, None] ** 2 * score, conformance.exact_denoiser(MIXTURE)(x, sigma), rtol=1e-9, atol=1e-12
        )
        grid = jnp.linspace(-8.0, 8.0, 4001)[:, None]
        mass = jnp.exp(conformance.log_density(conformance.gaussian(0.3, 0.5))(grid, 0.7)).sum() * 16.0 / 4000
        assert mass == pytest.approx(1.0, abs=1e-9)


EXACT = partial(likelihood.log_prob, trace=likelihood.exact_trace())


@pytest.mark.slow
def test_a_right_likelihood_holds_and_wrong_ones_do_not(capsys):
    values = {}

    def once(denoise, x, keys, *, lo, hi):
        # the flow is solved once for all of them: wrong ones differ in what they make of it
        key = (x.shape, float(x.sum()), float(lo), float(hi))
        if key not in values:
            values[key] = EXACT(denoise, x, keys, lo=lo, hi=hi)
        return values[key]

    assert conformance.check_likelihood(once).held
    assert "conformance of the log-density once" in capsys.readouterr().out
    wrong = {
        "no change of volume": lambda *a, **k: likelihood.noise_prior(once(*a, **k).latent, k["hi"]),
        "a prior too narrow": lambda *a, **k: once(*a, **k).log_prob + _narrower(once(*a, **k).latent, k["hi"]),
        "in bits": lambda *a, **k: once(*a, **k).log_prob / jnp.log(2.0),
        "the mean of the batch": lambda *a, **k: 0 * once(*a, **k).log_prob + once(*a, **k).log_prob.mean(),
        "per dimension": lambda *a, **k: once(*a, **k).log_prob / a[1].shape[1],
    }
    for name, log_prob in wrong.items():
        assert not conformance.check_likelihood(log_prob, show=False).held, name


def _narrower(latent, hi):
    return likelihood.noise_prior(latent, 0.9 * hi) - likelihood.noise_prior(latent, hi)
