"""Exact answers for data whose distribution is known, and the lists over which every property is tested.

Data is a mixture of isotropic Gaussians (one component is a Gaussian), of `diffax.conformance`. Its posterior means
E[x0 | x_t] and E[eps | x_t] have closed forms, so the perfect network of every parameterization can be written down
without the library's own algebra. A new process, prediction, sampler, guidance, weight or time sampler gets all of its
tests by one more line in its list.
"""

import contextlib
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import posterior_mean  # noqa: F401

from diffax import guidance, losses, prediction, samplers
from diffax.conformance import Mixture, exact_denoiser, gaussian, posterior  # noqa: F401
from diffax.process import (
    DDPM,
    EDM,
    VE,
    VP,
    Cosine,
    FlowMatching,
    Process,
    Shifted,
    SubVP,
    cosine_betas,
    expand,
    learned_schedule,
    linear_betas,
    pytree,
    zero_terminal_snr,
)


@pytree
class Trigonometric(Process):
    """A user's process: two formulas and where it stops; nsr = scale·tan(½πt). All else is the library's default."""

    scale: float = 1.0

    @property
    def t_min(self):
        return 1e-3

    @property
    def t_max(self):
        return 0.999

    def alpha(self, t):
        return jnp.cos(0.5 * jnp.pi * t)

    def sigma(self, t):
        return self.scale * jnp.sin(0.5 * jnp.pi * t)


# Factories: a table of DDPM takes the precision that is in force when it is made.
PROCESSES = {
    "vp": VP,
    "subvp": SubVP,
    "ve": VE,
    "edm": EDM,
    "cosine": Cosine,
    "flow": FlowMatching,
    "ddpm": lambda: DDPM(linear_betas()),
    "ddpm_cosine": lambda: DDPM(cosine_betas()),
    "ddpm_zero_snr": lambda: DDPM(zero_terminal_snr(linear_betas())),
    "shifted_flow": lambda: Shifted(FlowMatching(), 2.0),
    "shifted_ddpm": lambda: Shifted(DDPM(linear_betas()), 2.0),
    "learned": lambda: learned_schedule(3, -10.0, 6.0, steepness=20.0),
    "trigonometric": lambda: Trigonometric(1.3),
}


class Exact(NamedTuple):
    """All that an exact network's output can be made of; every field broadcasts against x_t."""

    x0: jax.Array  # E[x0 | x_t]
    eps: jax.Array  # E[eps | x_t]
    x_t: jax.Array
    alpha: jax.Array
    sigma: jax.Array
    d_alpha: jax.Array  # alpha'(t), in reverse mode: the library's own is forward
    d_sigma: jax.Array


class Case(NamedTuple):
    """A parameterization: how the library makes it, and its exact network by the paper's own definition."""

    make: Callable[..., prediction.Prediction]
    output: Callable[[Exact], jax.Array]


def _edm_output(e, sigma_data=0.5):
    # arXiv:2206.00364, Eq. 7 solved for F, with Table 1's scalings
    x, level = e.x_t / e.alpha, e.sigma / e.alpha
    c_skip = sigma_data**2 / (level**2 + sigma_data**2)
    c_out = level * sigma_data / jnp.sqrt(level**2 + sigma_data**2)
    return (e.x0 - c_skip * x) / c_out


PREDICTIONS = {
    "x0": Case(prediction.x0, lambda e: e.x0),
    "eps": Case(prediction.eps, lambda e: e.eps),
    "v": Case(prediction.v, lambda e: e.alpha * e.eps - e.sigma * e.x0),
    "velocity": Case(prediction.velocity, lambda e: e.d_alpha * e.x0 + e.d_sigma * e.eps),
    "score": Case(prediction.score, lambda e: -e.eps / e.sigma),
    "edm": Case(prediction.edm, _edm_output),
    "eps_unit_variance": Case(partial(prediction.eps, c_in=prediction.unit_variance), lambda e: e.eps),
}


class Sampling(NamedTuple):
    """A sampler, how many noises it draws a step, the same in NumPy, and its order on the probability-flow ODE."""

    run: Callable
    draws: int
    reference: Callable
    order: int | None = None


def _sampling(name, draws=0, converges=None, like=None, **options):
    """The sampler of this name and its reference of the same name, or of the name `like` with options of its own."""
    reference_name, reference_options = like or (name, options)
    run, same = getattr(samplers, name), getattr(reference, reference_name)
    return Sampling(partial(run, **options), draws, partial(same, **reference_options), converges)


_CHURN = dict(s_min=0.05, s_max=20.0, s_noise=1.003)  # churn both at its cap, where gamma·(2 + gamma) is 1, and below
SAMPLERS = {
    "euler": _sampling("euler", converges=1),
    "euler_churn": _sampling("euler", draws=1, churn=3.0, **_CHURN),
    "ddim": _sampling("ddim", converges=1),
    "ddim_half": _sampling("ddim", draws=1, eta=0.5),
    "ddim_full": _sampling("ddim", draws=1, eta=1.0),
    "euler_ancestral": _sampling("euler_ancestral", draws=1, like=("ddim", dict(eta=1.0))),
    "ancestral_small": _sampling("ancestral", draws=1),
    "ancestral_large": _sampling("ancestral", draws=1, variance=1.0),
    "euler_maruyama": _sampling("euler_maruyama", draws=1, like=("predictor_corrector", dict(corrections=0))),
    "predictor_corrector": _sampling("predictor_corrector", draws=2),
    "heun": _sampling("heun", converges=2),
    "heun_churn": _sampling("heun", draws=1, churn=20.0, **_CHURN),
    "restart": _sampling("restart", draws=1, times=2),
    "dpm2": _sampling("dpm2", converges=2),
    "dpm2_churn": _sampling("dpm2", draws=1, churn=3.0, **_CHURN),
    "dpmpp_2s": _sampling("dpmpp_2s", converges=2),
    "dpmpp_2m": _sampling("dpmpp_2m", converges=2, like=("dpmpp_2m_sde", dict(eta=0.0))),
    "dpmpp_3m": _sampling("dpmpp_3m", converges=3, like=("dpmpp_3m_sde", dict(eta=0.0))),
    "dpmpp_sde": _sampling("dpmpp_sde", draws=2),
    "dpmpp_2m_sde": _sampling("dpmpp_2m_sde", draws=1),
    "dpmpp_3m_sde": _sampling("dpmpp_3m_sde", draws=1, eta=0.6),
    "lms": _sampling("lms", converges=4, like=("adams", dict(order=4, of_log=False))),
    "deis_1": _sampling("deis", converges=1, like=("adams", dict(order=1, of_log=True)), order=1),
    "deis": _sampling("deis", converges=3, like=("adams", dict(order=3, of_log=True))),
    "unip_2": _sampling("unipc", converges=2, order=2, corrector=False, bh=1),
    "unipc_2": _sampling("unipc", converges=3, order=2),
    "unipc": _sampling("unipc", converges=4, order=3),
}

GUIDANCES = {
    "cfg": lambda cond, uncond: guidance.cfg(cond, uncond, 3.0),
    "cfg_interval": lambda cond, uncond: guidance.cfg(cond, uncond, 3.0, sigma_lo=0.3, sigma_hi=3.0),
    "cfg_rescaled": lambda cond, uncond: guidance.cfg(cond, uncond, 3.0, rescale=0.7),
    "batched_cfg": lambda cond, uncond: _batched_cfg(cond, uncond, 3.0),
    "cfg_pp": lambda cond, uncond: guidance.cfg_pp(cond, uncond, 0.6, samplers.karras(6, 0.01, 10.0)),
    "apg": lambda cond, uncond: guidance.apg(cond, uncond, 3.0, eta=0.5, norm_threshold=0.4),
    "classifier": lambda cond, uncond: guidance.classifier_guidance(uncond, _implicit_classifier(cond, uncond), 3.0),
    "static_threshold": lambda cond, uncond: guidance.static_threshold(guidance.cfg(cond, uncond, 3.0), -3.0, 3.0),
    "dynamic_threshold": lambda cond, uncond: guidance.dynamic_threshold(guidance.cfg(cond, uncond, 3.0), limit=3.0),
}

# name -> (weight, the weight of the squared error of x0 that it stands for: of nsr and the rate at which -logsnr
# passes the whole of its span, -(t_max - t_min)·d logsnr/dt; None where it rests on what is predicted)
WEIGHTS = {
    "unit": (losses.unit, None),
    "eps": (losses.eps, lambda nsr, rate: nsr**-2.0),
    "x0": (losses.x0, lambda nsr, rate: np.ones_like(nsr)),
    "v": (losses.v, lambda nsr, rate: 1.0 + nsr**-2.0),
    "soft_min_snr": (losses.soft_min_snr, lambda nsr, rate: 4.0 * nsr**-2.0 / (nsr**-2.0 + 4.0)),
    "elbo": (losses.elbo, lambda nsr, rate: 0.5 * rate * nsr**-2.0),
    "min_snr": (losses.min_snr, lambda nsr, rate: np.minimum(nsr**-2.0, 5.0)),
    "p2": (partial(losses.p2, k=0.7, gamma=0.5), lambda nsr, rate: nsr**-2.0 / np.sqrt(0.7 + nsr**-2.0)),
    "edm": (losses.edm, lambda nsr, rate: (nsr**2 + 0.5**2) / (nsr * 0.5) ** 2),
    "sigmoid": (partial(losses.sigmoid, bias=-1.0), lambda nsr, rate: 0.5 * rate / (nsr**2 + np.e)),
}

# name -> (time sampler, its distribution function of the share (t - t_min)/(t_max - t_min) and of nsr(t))
TIMES = {
    "uniform": (losses.uniform, lambda share, nsr: share),
    "stratified": (losses.stratified, lambda share, nsr: share),
    "lognormal": (losses.lognormal, lambda share, nsr: _normal_cdf((np.log(nsr) + 1.2) / 1.2)),
    "lognormal, stratified": (
        partial(losses.lognormal, 0.5, 0.8, stratified=True),
        lambda share, nsr: _normal_cdf((np.log(nsr) - 0.5) / 0.8),
    ),
    "logit_normal": (losses.logit_normal, lambda share, nsr: _normal_cdf(np.log(share / (1 - share)))),
    "logit_normal, stratified": (
        partial(losses.logit_normal, stratified=True),
        lambda share, nsr: _normal_cdf(np.log(share / (1 - share))),
    ),
    "discrete": (partial(losses.discrete, 100), lambda share, nsr: share * 0.99 + 0.005),  # the middle of each stair
}


def _batched_cfg(cond, uncond, scale):
    def either(x, sigma, is_cond):
        return jnp.where(expand(is_cond, x), cond(x, sigma), uncond(x, sigma))

    def denoise(x, sigma):
        yes = jnp.ones(len(x), bool)
        return guidance.batched_cfg(either, yes, ~yes, scale)(x, sigma)

    return denoise


def _implicit_classifier(cond, uncond):
    """log p(y | x, sigma), but for a constant, with the gradient (cond - uncond)/sigma² that Bayes' rule asks for."""

    def log_prob(x, sigma):
        uphill = jax.lax.stop_gradient(cond(x, sigma) - uncond(x, sigma)) / expand(sigma**2, x)
        return jnp.sum(uphill * x, axis=tuple(range(1, x.ndim)))

    return log_prob


def _normal_cdf(z):
    return np.asarray([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])


MIXTURE = Mixture(
    weights=np.array([0.5, 0.3, 0.2]),
    means=np.array([[0.8, -0.3], [-0.6, 0.5], [0.1, 0.9]]),
    stds=np.array([0.25, 0.1, 0.4]),
)


def told_t(process, t):
    """c_noise of the exact networks: they are told t itself."""
    return t


def with_slopes(process, x0, eps, x_t, t):
    """All that an exact network's output can be made of, or the truth that it estimates."""
    slopes = (jax.grad(lambda t, f=f: jnp.sum(f(t)))(t) for f in (process.alpha, process.sigma))
    return Exact(x0, eps, x_t, *(expand(c, x_t) for c in (process.alpha(t), process.sigma(t), *slopes)))


def exact_network(data, process, name):
    """(apply, prediction): the network that minimizes the expected loss of PREDICTIONS[name], by its definition."""
    return network_of(data, process, PREDICTIONS[name])


def network_of(data, process, case):
    """The same of a parameterization that need not be in the list."""
    row = case.make(c_noise=told_t)

    def apply(x_in, t):
        x_t = x_in / expand(row.c_in(process, t), x_in)
        x0, eps = posterior(data, x_t, process.alpha(t), process.sigma(t))
        return case.output(with_slopes(process, x0, eps, x_t, t))

    return apply, row


@pytest.fixture(autouse=True)
def strict():
    """For every test of a file that imports this: no implicit promotion of types."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@contextlib.contextmanager
def precision(bits):
    """Computes in floats of 64 bits; or in those of 32, with the rounding of programs optimized as training steps."""
    if bits == 64:
        with jax.enable_x64(True):
            yield
    else:
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", False)
        try:
            yield
        finally:
            jax.config.update("jax_disable_most_optimizations", before)


def keys_of(n, seed=0):
    """One key an example, [n]."""
    return jax.random.split(jax.random.key(seed), n)


def levels(process, n):
    """n times of a process, evenly spaced in log nsr from t_min to t_max: float64 on the host."""
    lo, hi = (float(process.nsr(jnp.asarray(t, jnp.result_type(float)))) for t in (process.t_min, process.t_max))
    return np.geomspace(lo, hi, n)


def noises(keys, n, shape):
    """The noises 0 … n-1 of every example, [n, batch, *shape]: its key, folded with the number."""
    each = jax.vmap(lambda i: jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(keys))
    return np.asarray(each(jnp.arange(n)), np.float64)
