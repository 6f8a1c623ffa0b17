"""Guidance: functions of denoisers, held to the formula, the interval, and the answers of tilted Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle import GUIDANCES, exact_denoiser, gaussian, keys_of, precision, strict  # noqa: F401

from diffax import cfg, init_noise, samplers
from diffax.guidance import batched_cfg

COND, UNCOND = exact_denoiser(gaussian(0.8, 0.3)), exact_denoiser(gaussian(0.0, 0.6))
SIGMA = jnp.asarray([0.1, 0.3, 0.5, 3.0, 3.5])
X = jnp.linspace(-1.0, 1.0, 5)[:, None]


@pytest.mark.parametrize("make", [cfg, lambda cond, uncond, scale: GUIDED["batched"](cond, uncond, scale)])
def test_scale_moves_along_the_line(make):
    # arXiv:2207.12598, Eq. 6
    cond, uncond = COND(X, SIGMA), UNCOND(X, SIGMA)
    for scale in (0.0, 1.0, 2.5, -1.0):
        expected = np.asarray(uncond) + scale * np.asarray(cond - uncond)
        np.testing.assert_allclose(make(COND, UNCOND, scale)(X, SIGMA), expected, rtol=1e-5, atol=1e-6)


def of_flags(cond, uncond):
    """One denoiser of the two, told by a flag which to be."""
    return lambda x, sigma, flag: jnp.where(flag[:, None] == 1, cond(x, sigma), uncond(x, sigma))


GUIDED = {
    "batched": lambda cond, uncond, scale, **interval: batched_cfg(
        of_flags(cond, uncond), jnp.ones(5, jnp.int32), jnp.zeros(5, jnp.int32), scale, **interval
    ),
    "twice": cfg,
}


@pytest.mark.parametrize("make", GUIDED.values(), ids=GUIDED)
def test_interval_is_open_below_and_closed_above(make):
    # arXiv:2404.07724, Eq. 4: guided where lo < sigma <= hi, the conditional denoiser elsewhere
    found = make(COND, UNCOND, 3.0, sigma_lo=0.3, sigma_hi=3.0)(X, SIGMA)
    everywhere, cond = cfg(COND, UNCOND, 3.0)(X, SIGMA), COND(X, SIGMA)
    for i, inside in enumerate((False, False, True, True, False)):
        np.testing.assert_allclose(found[i], (everywhere if inside else cond)[i], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", GUIDED.values(), ids=GUIDED)
def test_scale_may_differ_by_example(make):
    scales = jnp.asarray([0.0, 1.0, 2.0, 3.0, 4.0])
    found = make(COND, UNCOND, scales)(X, SIGMA)
    for i, scale in enumerate(scales):
        np.testing.assert_allclose(found[i], cfg(COND, UNCOND, scale)(X, SIGMA)[i], rtol=1e-6, atol=1e-7)


def test_conditions_may_be_any_tree():
    seen = []

    def denoise(x, sigma, condition):
        seen.append((x.shape, sigma.shape))
        return condition["shift"][:, None] * condition["label"][:, None].astype(x.dtype)

    cond = {"shift": jnp.full(5, 2.0), "label": jnp.arange(5)}
    uncond = {"shift": jnp.full(5, 1.0), "label": jnp.full(5, 10)}
    found = batched_cfg(denoise, cond, uncond, 3.0)(X, 0.7)
    np.testing.assert_allclose(found[:, 0], 10.0 + 3.0 * (2.0 * np.arange(5) - 10.0))
    assert seen == [((10, 1), (10,))]  # one call, twice the batch, one level an example


@pytest.mark.parametrize("name", GUIDANCES)
def test_guiding_a_denoiser_by_itself_changes_nothing(name):
    x, sigma = jax.random.normal(jax.random.key(0), (5, 2, 3, 1)), jnp.linspace(0.1, 5.0, 5)
    denoise = exact_denoiser(gaussian(0.2, 0.5, dim=6))
    np.testing.assert_allclose(GUIDANCES[name](denoise, denoise)(x, sigma), denoise(x, sigma), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GUIDANCES)
def test_one_level_for_all_is_the_same_as_one_each(name):
    guided = jax.jit(GUIDANCES[name](COND, UNCOND))
    np.testing.assert_allclose(guided(X, 0.5), guided(X, jnp.full(5, 0.5)), rtol=1e-6)


def test_guided_gaussians_are_a_gaussian():
    # of equal widths: score + (w - 1)·(score - score_0) is that of the mean m + (w - 1)·(m - m_0), exactly
    with precision(64):
        x, sigma = jnp.linspace(-2.0, 2.0, 9)[:, None], jnp.geomspace(0.01, 50.0, 9)
        guided = cfg(exact_denoiser(gaussian(0.8, 0.5)), exact_denoiser(gaussian(0.2, 0.5)), 2.5)
        expected = exact_denoiser(gaussian(0.8 + 1.5 * 0.6, 0.5))(x, sigma)
        np.testing.assert_allclose(guided(x, sigma), expected, rtol=1e-12, atol=1e-12)


@jax.jit
def every_guided_sample(x, keys):
    return {
        name: samplers.ddim(make(COND, UNCOND), x, samplers.karras(6, 0.01, 10.0), keys, eta=0.5)
        for name, make in GUIDANCES.items()
    }


def test_sample_i_depends_on_its_key_only_on_any_number_of_devices():
    x, keys = init_noise(keys_of(16, seed=1), (1,), 10.0), keys_of(16)
    whole, some = every_guided_sample(x, keys), every_guided_sample(x[5:8], keys[5:8])
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    eight = every_guided_sample(*jax.device_put((x, keys), NamedSharding(mesh, P("batch"))))
    for name in GUIDANCES:
        np.testing.assert_allclose(some[name], whole[name][5:8], rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(eight[name], whole[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("make", GUIDED.values(), ids=GUIDED)
def test_sweeping_does_not_recompile(make):
    traced, found = [], set()

    def cond(x, sigma):
        traced.append(1)
        return COND(x, sigma)

    @jax.jit
    def sample(scale, sigma_lo, sigma_hi):
        guided = make(cond, UNCOND, scale, sigma_lo=sigma_lo, sigma_hi=sigma_hi)
        return samplers.ddim(guided, 10.0 * X, samplers.karras(6, 0.01, 10.0), keys_of(5))

    for arguments in ((1.0, 0.0, 99.0), (3.0, 0.0, 99.0), (3.0, 0.3, 99.0), (3.0, 0.3, 3.0)):
        found.add(float(sample(*arguments)[0, 0]))
        assert len(traced) == 1  # the scan traces its body once
    assert len(found) == 4


def test_vmap_and_gradients():
    def mean(scale, sigma_lo):
        return jnp.mean(cfg(COND, UNCOND, scale, sigma_lo=sigma_lo)(X, SIGMA))

    scales, lows = jnp.asarray([1.0, 3.0]), jnp.asarray([0.0, 0.4])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(mean)))(scales, lows)
    gap = np.asarray(COND(X, SIGMA) - UNCOND(X, SIGMA))[:, 0]
    np.testing.assert_allclose(slopes, [gap.mean(), gap[2:].sum() / 5], rtol=1e-5)
    np.testing.assert_allclose(values[1], mean(scales[1], lows[1]), rtol=1e-5)
