"""The classifier of noisy data: its network, its loss, and the bridge to guidance, against exact posteriors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import normal, stirred

from diffax import DDPM, VE, VP, FlowMatching, build, classifier_guidance, linear_betas
from diffax.losses import classifier_loss
from diffax.models import Classifier, classifier, init
from diffax.prediction import class_log_prob, unit_variance

KEY = jax.random.key(0)
MEANS, STD = np.float32([-0.6, 0.1, 0.7]), 0.3  # three classes of numbers, as likely as each other
PROCESSES = {"vp": VP(), "ve": VE(), "flow": FlowMatching(), "ddpm": DDPM(linear_betas(100))}


def spec(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def scrambled(module, *args):
    """Parameters with nothing at zero, so that every path of the network counts."""
    return stirred(init(module, KEY, *args))


# The network


SMALL = Classifier(3, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_dim=4, groups=4, dropout=0.3)
X, C = normal(0, (3, 8, 8, 2)), np.float32([0.0, 400.0, 999.0])


@functools.cache
def params():
    return scrambled(SMALL, X, C)


@functools.cache
def jitted(network):
    return jax.jit(network.apply)


def run(*args, network=SMALL, keys=None):
    return jitted(network)({"params": params()}, *args, dropout_keys=keys)


def count(channels, multipliers, blocks, attention, size, classes):
    """The parameters from the description in arXiv:2105.05233 and CLIP's of the pooling, arXiv:2103.00020."""
    emb = 4 * channels

    def res(i, o):
        return 2 * i + (9 * i + 1) * o + 2 * (emb + 1) * o + 2 * o + (9 * o + 1) * o + (i + 1) * o * (i != o)

    def attend(c):
        return 2 * c + 4 * (c + 1) * c

    total, h = (channels + 1) * emb + (emb + 1) * emb + (9 * 3 + 1) * channels, channels
    for level, m in enumerate(multipliers):
        total += res(h, h) * (level > 0)
        for _ in range(blocks):
            total, h = total + res(h, channels * m) + attend(channels * m) * (size >> level in attention), channels * m
    positions = (size >> (len(multipliers) - 1)) ** 2 + 1
    pool = positions * h + 3 * (h + 1) * h + (h + 1) * classes
    return total + 2 * res(h, h) + attend(h) + 2 * h + pool


def test_parameters_of_the_published_classifier():
    specs = jax.eval_shape(Classifier(1000).init, KEY, spec((1, 64, 64, 3)), spec((1,)))["params"]
    total = sum(p.size for p in jax.tree.leaves(specs))
    # arXiv:2105.05233, App. I says 65M; the exact number is the sum of the layers that it describes
    assert total == count(128, (1, 2, 3, 4), 4, (32, 16, 8), 64, 1000) == 65_438_568


def test_a_new_classifier_knows_nothing():
    new = init(SMALL, KEY, X, C)
    assert not np.any(jitted(SMALL)({"params": new}, X, C, dropout_keys=None))


@pytest.mark.slow
def test_examples_do_not_depend_on_their_neighbors_and_dropout_follows_its_key():
    keys = jax.random.split(KEY, 3)
    whole, without = np.asarray(run(X, C, keys=keys)), np.asarray(run(X, C))
    assert whole.shape == (3, 3) and whole.dtype == jnp.float32
    for i in range(3):
        alone = [np.repeat(np.asarray(a)[i : i + 1], 3, axis=0) for a in (X, C, jax.random.key_data(keys))]
        found = run(*alone[:2], keys=jax.random.wrap_key_data(alone[2]))
        np.testing.assert_allclose(found[i], whole[i], rtol=1e-5)
    assert np.all(np.abs(without - whole).max(1) > 1e-3)
    turned = np.asarray(run(X, np.asarray(C)[::-1]))
    assert np.all(np.abs(turned - without)[::2].max(1) > 1e-3)  # it is told the noise level


@pytest.mark.slow
def test_bfloat16_and_remat_stay_near():
    y, low = np.asarray(run(X, C)), np.asarray(run(X, C, network=SMALL.clone(dtype=jnp.bfloat16, remat=True)))
    assert low.dtype == np.float32 and np.any(low != y)
    assert np.linalg.norm(low - y) < 0.1 * np.linalg.norm(y)


def test_attention_pool_against_explicit_softmax():
    x = normal(0, (2, 3, 4, 8))
    pool = classifier.AttentionPool(5, head_dim=4)
    given = scrambled(pool, x)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), given)
    pixels = np.asarray(x, np.float64).reshape(2, 12, 8)
    h = np.concatenate([pixels.mean(1, keepdims=True), pixels], axis=1) + p["positions"]
    q = (h[:, 0] @ p["query"]["kernel"] + p["query"]["bias"]).reshape(2, 2, 4)
    k, v = np.moveaxis((h @ p["key_value"]["kernel"] + p["key_value"]["bias"]).reshape(2, 13, 2, 2, 4), 2, 0)
    weights = np.exp(np.einsum("bhd,bkhd->bhk", q, k) / 2)
    found = np.einsum("bhk,bkhd->bhd", weights / weights.sum(-1, keepdims=True), v).reshape(2, 8)
    expected = found @ p["project"]["kernel"] + p["project"]["bias"]
    np.testing.assert_allclose(jitted(pool)({"params": given}, x), expected, rtol=1e-4, atol=1e-4)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="6x7 is not divisible by 2, the downsampling of a Classifier"):
        jax.eval_shape(SMALL.init, KEY, spec((1, 6, 7, 3)), spec((1,)))


def test_a_classifier_is_no_network_of_a_config():
    assert "UNet" in build.choices("network") and "Classifier" not in build.choices("network")


# The loss and the guide


def exact(process):
    """The posterior of the three classes as a network: logits of x_t [batch, 1], told t as a timestep."""
    # of times that the test draws, the timestep is undone by interpolation: no function of the library inverts it
    ts = np.linspace(process.t_min, process.t_max, 100_001, dtype=np.float32)
    steps = process.timestep(ts)

    def apply(x_in, c_noise):
        t = jnp.interp(c_noise, steps, ts)
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return -0.5 * (x_in - alpha * MEANS) ** 2 / (alpha**2 * STD**2 + sigma**2)

    return apply


def test_the_loss_of_constant_logits_is_their_cross_entropy():
    logits, label = jnp.asarray([0.3, -1.2, 2.0]), jnp.asarray([0, 2, 1, 3, -1])
    apply = lambda x_in, c_noise: jnp.broadcast_to(logits, (len(x_in), 3))  # noqa: E731
    loss = jax.jit(lambda keys: classifier_loss(apply, VP(), jnp.zeros((5, 4)), label, keys))(jax.random.split(KEY, 5))
    p = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(loss[:3], -np.log(p[np.asarray([0, 2, 1])]), rtol=1e-6)
    assert np.isnan(loss[3:]).all()  # no such class


def test_the_exact_posterior_has_the_conditional_entropy_as_loss_and_any_other_more():
    process, t, n = VP(), 0.3, 20_000
    label = np.random.default_rng(0).integers(0, 3, n, np.int32)
    x0 = (MEANS[label] + STD * normal(1, (n,)))[:, None]
    at_t = lambda process, keys: jnp.full(len(keys), t)  # noqa: E731
    network = exact(process)

    @jax.jit
    def losses(keys):  # of a classifier too unsure, of the exact one, and of one too sure
        scaled = [lambda x, c, factor=factor: factor * network(x, c) for factor in (0.7, 1.0, 1.4)]
        return [classifier_loss(apply, process, x0, label, keys, at_t) for apply in scaled]

    # H(y | x_t) by quadrature in float64; beta from 0.1 to 20
    integral = 0.1 * t + 0.5 * 19.9 * t**2
    alpha, sigma = np.exp(-0.5 * integral), np.sqrt(1 - np.exp(-integral))
    grid = np.linspace(-8, 8, 20_001)
    variance = alpha**2 * STD**2 + sigma**2
    joint = np.exp(-0.5 * (grid[:, None] - alpha * MEANS.astype(np.float64)) ** 2 / variance)
    joint /= np.sqrt(2 * np.pi * variance) * 3
    entropy = -np.sum(joint * np.log(joint / joint.sum(1, keepdims=True))) * (grid[1] - grid[0])
    unsure, found, sure = (np.asarray(a) for a in losses(jax.random.split(KEY, n)))
    assert abs(found.mean() - entropy) < 5 * found.std() / np.sqrt(n)
    assert all((a - found).mean() > 5 * (a - found).std() / np.sqrt(n) for a in (unsure, sure))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_guided_by_the_exact_posterior_the_denoiser_is_that_of_the_class(process):
    """Bayes' rule, through the bridge: the classifier lives in (x_t, t), the denoisers in (x, sigma)."""
    sigma = process.nsr(jnp.asarray([20.0, 50.0, 90.0]) if isinstance(process, DDPM) else jnp.asarray([0.2, 0.5, 0.7]))
    x = np.float32([[0.4], [-0.3], [0.9]])

    def conditional(x, sigma, mean):
        s = sigma.reshape(-1, 1)
        return mean + STD**2 / (STD**2 + s**2) * (x - mean)

    def unconditional(x, sigma):
        likelihood = -0.5 * (x - MEANS) ** 2 / (STD**2 + sigma.reshape(-1, 1) ** 2)
        return jnp.sum(jax.nn.softmax(likelihood) * conditional(x, sigma, MEANS), axis=1, keepdims=True)

    label = np.asarray([2, 0, 1])
    network = exact(process)

    @jax.jit
    def both(x, sigma):
        each, one = (class_log_prob(network, process, y) for y in (label, 2))
        return classifier_guidance(unconditional, each, 1.0)(x, sigma), each(x, sigma), one(x, sigma)

    guided, each, one = both(x, sigma)
    # where sigma is large, a float32 difference of two denoisers is multiplied by it
    expected = conditional(x, np.asarray(sigma), MEANS[label][:, None])
    np.testing.assert_allclose(guided, expected, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(one[0], each[0], rtol=1e-6)


@pytest.mark.slow
def test_the_network_guides_by_its_own_gradient():
    """guided - denoise along v is sigma^2 times the derivative of log p along v, by forward mode."""
    weights = params()
    apply = lambda x_in, c_noise: SMALL.apply({"params": weights}, x_in, c_noise)  # noqa: E731
    log_prob = class_log_prob(apply, VE(), jnp.asarray([0, 1, 2]), c_in=unit_variance)
    sigma, v = np.float32([0.1, 1.0, 10.0]), normal(3, X.shape)

    @jax.jit
    def both(x):
        guided = classifier_guidance(lambda x, sigma: 0.5 * x, log_prob, 2.0)(x, sigma)
        return jnp.sum((guided - 0.5 * x) * v, (1, 2, 3)), jax.jvp(lambda x: log_prob(x, sigma), (x,), (v,))

    moved, (value, slope) = both(X)
    np.testing.assert_allclose(moved, 2 * sigma**2 * slope, rtol=1e-3, atol=1e-5)
    # c_in = 1/sqrt(1 + sigma^2), and the timestep of VE's t = log(sigma/0.01)/log(5000)
    scaled = X / np.sqrt(1 + sigma**2)[:, None, None, None]
    logits = np.asarray(run(scaled, np.float32(999 * np.log(sigma / 0.01) / np.log(5000))), np.float64)
    expected = np.diag(logits) - np.log(np.exp(logits).sum(1))
    np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "logits, label",
    [((4,), (4,)), ((4, 3), (3,)), ((4, 2, 3), (4,))],
)
def test_shapes_that_cannot_be_meant_are_refused(logits, label):
    loss = lambda x0, label, keys: classifier_loss(lambda *_: jnp.zeros(logits), VP(), x0, label, keys)  # noqa: E731
    with pytest.raises(ValueError, match=r"logits of shape .* give \[batch, classes\] and \[batch\]"):
        jax.eval_shape(loss, spec((4, 2)), spec(label, jnp.int32), jax.random.split(KEY, 4))
