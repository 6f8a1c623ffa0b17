"""Muon against the singular value decomposition, on all shapes of kernels."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from launcher import ROOT
from networks import normal

from diffax import build
from diffax import config as configs
from diffax.models import DiT, UNet, init
from diffax.optimizers import muon, newton_schulz

RATE, BETA = 0.01, 0.9
MUON = muon(RATE, beta=BETA)


@partial(jax.jit, static_argnums=0)
def stepped(tx, params, gradients):
    """The parameters after these gradients, stacked, one after the other."""

    def step(carry, gradient):
        params, state = carry
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), gradients)[0][0]


def moved(gradients, params=None, tx=MUON):
    """The sum of the updates of these gradients, one after the other."""
    start = jax.tree.map(np.zeros_like, gradients[0]) if params is None else jax.device_get(params)
    end = stepped(tx, start, jax.tree.map(lambda *each: np.stack(each), *gradients))
    return jax.tree.map(lambda a, b: np.asarray(a) - b, end, start)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 3, 2, 5)])
def test_a_kernel_moves_along_the_orthogonal_factor_of_its_gradient(shape):
    gradient = normal(0, shape)
    update = moved([{"kernel": gradient}])["kernel"].reshape(-1, shape[-1])
    u, s, vt = np.linalg.svd(gradient.reshape(-1, shape[-1]), full_matrices=False)
    assert s[-1] > 0.05 * s[0]
    values = -u.T @ update @ vt.T / (RATE * 0.2 * np.sqrt(max(update.shape)))
    np.testing.assert_allclose(values - np.diag(np.diag(values)), 0.0, atol=2e-3)
    # five Newton-Schulz steps with the quintic 3.4445, -4.7750, 2.0315 bring singular values to about 1
    assert 0.65 < np.diag(values).min() and np.diag(values).max() < 1.25
    assert not np.allclose(s / s.mean(), np.diag(values), atol=0.2)


def test_newton_schulz_is_its_iteration_down_to_small_singular_values():
    rng = np.random.default_rng(0)
    (u, _), (v, _) = (np.linalg.qr(rng.standard_normal((2, n, 6))) for n in (54, 6))
    given = u * np.geomspace(1.0, [1e-3, 1e-7], 6).T[:, None] @ v.swapaxes(1, 2)
    given[1, :, 3:] = 0.0  # of a kernel some of whose inputs are never there
    x = given / np.linalg.norm(given, axis=(1, 2), keepdims=True)
    for _ in range(5):
        gram = x.swapaxes(1, 2) @ x
        x = 3.4445 * x - 4.7750 * x @ gram + 2.0315 * x @ gram @ gram
    np.testing.assert_allclose(jax.jit(newton_schulz)(given.astype(np.float32)), x, atol=2e-3)


def test_momentum_with_nesterovs_step():
    first, second = (normal(i, (5, 4)) for i in range(2))
    both = moved([{"kernel": first}, {"kernel": second}])["kernel"]
    # the mean of two gradients, looked ahead once more, with the bias corrections of arXiv:1412.6980
    mean = (1 - BETA) * (BETA * first + second)
    ahead = BETA * mean / (1 - BETA**3) + (1 - BETA) * second / (1 - BETA**2)
    alone = moved([{"kernel": first}])["kernel"] + moved([{"kernel": ahead}])["kernel"]
    np.testing.assert_allclose(both, alone, atol=3e-5)


@pytest.mark.parametrize("shape", [(6, 4), (2, 2, 3, 5)], ids=["dense", "convolution"])
def test_layers_of_a_scan_are_matrices_each(shape):
    stacked = normal(0, (2, *shape))
    update = moved([{"blocks": {"wide": {"kernel": stacked}}}])["blocks"]["wide"]["kernel"]
    apart = moved([[{"kernel": layer} for layer in stacked]])
    np.testing.assert_allclose(update, [layer["kernel"] for layer in apart], atol=1e-6)


@pytest.mark.parametrize(
    ("module", "shape", "options"),
    [
        ("query", (8, 2, 4), {}),  # nn.MultiHeadDotProductAttention
        ("conv", (3, 8, 4), {}),  # one axis of places
        ("conv", (2, 3, 3, 8, 4), {}),  # three of them, or a scan under another name
        ("blocks", (8, 4), {}),  # no scan
        ("blocks", (2, 8, 2, 4), {}),
        ("blocks", (2, 8, 4), {"scanned": ("layers",)}),
    ],
)
def test_a_kernel_whose_rows_its_shape_does_not_tell_is_named(module, shape, options):
    params = {"encoder": {module: {"kernel": np.zeros(shape), "bias": np.zeros((2, 2, 2))}}}
    with pytest.raises(ValueError, match=re.escape(f"muon: encoder/{module}/kernel of shape {shape} is no kernel of")):
        muon(RATE, **options).init(params)
    told = {"encoder": {"layers": {"kernel": np.zeros((2, 8, 4))}}}
    jax.eval_shape(muon(RATE, scanned=["layers"]).init, told)


def test_what_is_no_kernel_moves_as_with_adam():
    gradients = [{"bias": normal(i, (4,)), "embedding": normal(i + 9, (5, 4))} for i in range(3)]
    those = muon(RATE, beta=BETA, rest=0.5), optax.adam(0.5 * RATE, nesterov=True)
    update, expected = (moved(gradients, tx=tx) for tx in those)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), update, expected)


def test_weight_decay_shrinks_what_the_mask_chooses():
    params = {name: np.ones(shape, np.float32) for name, shape in dict(kernel=(3, 4), bias=4, embedding=(2, 4)).items()}
    still = jax.tree.map(np.zeros_like, params)
    config = configs.load(f"{ROOT}/experiments/toy_mixture.py")
    config["optimizer"] = dict(name="muon", weight_decay=0.5, learning_rate=RATE)
    tx = build.optimizer(configs.complete(config))
    updates = jax.device_get(jax.jit(lambda still, params: tx.update(still, tx.init(params), params)[0])(still, params))
    np.testing.assert_allclose(updates["kernel"], -0.5 * RATE, rtol=1e-5)
    np.testing.assert_allclose(updates["embedding"], -0.5 * RATE, rtol=1e-5)
    assert not updates["bias"].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [UNet(channels=4, multipliers=(1,), blocks=1, attention=(8,), groups=2), DiT(width=16, depth=3, heads=2)],
    ids=["unet", "dit"],
)
def test_every_kernel_of_a_network_is_a_matrix(network):
    x, c = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    params = init(network, jax.random.key(0), x, c)
    gradients = jax.tree.map(lambda p: normal(p.size, p.shape), params)
    update = moved([gradients], params)
    for path, u in jax.tree.leaves_with_path(update):
        if path[-1].key == "kernel":
            matrices = u if u.ndim == 3 else u.reshape(1, -1, u.shape[-1])
            for matrix in matrices:
                size = np.sqrt(np.mean(matrix**2)) / (RATE * 0.2)
                assert 0.6 < size < 1.3, (jax.tree_util.keystr(path), size)
