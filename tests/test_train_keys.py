"""The loss of a training batch: labels that are dropped, and keys that are used once and belong to one example."""

from functools import partial

import jax
import numpy as np
import pytest
from oracle import keys_of
from perceptron import CLASSES, NULLS, PROCESS, VELOCITY, examples, perceptron, perceptron_params

from diffax.losses import uniform
from diffax.train import diffusion_loss, example_keys

N = 4096


@partial(jax.jit, static_argnames="told")
def overheard(batch, keys, drop=0.0, told=True):
    """The losses, and what the network and the time sampler were given."""
    heard = {}

    def network(params, x_in, c_noise, cond, dropout_keys):
        heard.update(x_in=x_in, cond=cond, dropout_keys=dropout_keys)
        return x_in

    def sample_time(process, keys):
        heard.update(time_keys=keys, t=uniform()(process, keys))
        return heard["t"]

    options = dict(sample_time=sample_time, nulls=NULLS if told else None, drop=drop)
    return diffusion_loss(network, PROCESS, VELOCITY, **options)(None, batch, keys), heard


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.5, 1.0])
def test_labels_are_dropped_with_their_probability(drop):
    batch = examples(N)
    _, heard = overheard(batch, keys_of(N), drop)
    label = np.asarray(heard["cond"]["label"])
    dropped = label == CLASSES
    assert label.dtype == np.int32
    np.testing.assert_array_equal(label[~dropped], batch["label"][~dropped])
    std = np.sqrt(N * drop * (1 - drop))
    assert abs(dropped.sum() - N * drop) <= 4 * std
    if 0 < drop < 1:  # whether a label is dropped tells nothing of the time, nor of the class
        for other in (heard["t"], batch["label"]):
            assert abs(np.corrcoef(dropped, other)[0, 1]) < 4 / np.sqrt(N)


def test_each_example_has_its_own_luck():
    batch, keys = examples(N), keys_of(N)
    losses, heard = overheard(batch, keys, 0.5)
    order = np.random.default_rng(1).integers(0, N, N)
    some, heard_some = overheard(jax.tree.map(lambda a: a[order], batch), keys[order], 0.5)
    np.testing.assert_array_equal(heard_some["cond"]["label"], heard["cond"]["label"][order])
    np.testing.assert_allclose(some, losses[order], rtol=1e-6)


def test_without_conditions_there_are_none():
    batch, keys = examples(N), keys_of(N)
    losses, _ = overheard(batch, keys, 0.5)
    del batch["label"]
    unlabeled, heard = overheard(batch, keys, told=False)
    assert heard["cond"] == {}
    np.testing.assert_allclose(unlabeled, losses, rtol=1e-6)  # this network does not listen to it


def test_dropout_noise_time_and_labels_have_keys_of_their_own():
    keys = keys_of(N)
    batch = dict(x0=np.zeros((N, 4), np.float32), label=np.zeros(N, np.int32))
    _, heard = overheard(batch, keys, 0.5)
    used = np.concatenate(
        [jax.random.key_data(heard[k]) for k in ("dropout_keys", "time_keys")] + [jax.random.key_data(keys)]
    )
    assert len(np.unique(used, axis=0)) == 3 * N
    # with x0 = 0 the input is t·eps: the noise is not what a dropout key would draw
    noise = np.asarray(heard["x_in"] / heard["t"][:, None])
    drawn = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (4,)))(heard["dropout_keys"]))
    assert abs(np.corrcoef(noise.ravel(), drawn.ravel())[0, 1]) < 4 / np.sqrt(noise.size)
    assert abs(noise.std() - 1) < 4 / np.sqrt(2 * noise.size)


def test_no_key_is_used_twice():
    def network(params, x_in, c_noise, cond, dropout_keys):
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (4,)))(dropout_keys)
        return perceptron(params, x_in * kept, c_noise, cond)

    loss_fn = diffusion_loss(network, PROCESS, VELOCITY, nulls=NULLS, drop=0.5)
    with jax.debug_key_reuse(True):
        losses = jax.jit(loss_fn)(perceptron_params(), examples(8), keys_of(8))
    assert np.isfinite(losses).all()


def test_example_keys_do_not_depend_on_the_hosts():
    key = jax.random.key(7)
    whole = jax.random.key_data(example_keys(key, 5, 0, 24))
    for hosts in (1, 2, 3, 4, 8):
        count = 24 // hosts
        parts = [jax.random.key_data(example_keys(key, 5, host * count, count)) for host in range(hosts)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    jitted = jax.jit(lambda step, first: jax.random.key_data(example_keys(key, step, first, 12)))
    np.testing.assert_array_equal(jitted(5, 12), whole[12:])
    steps = np.concatenate([jax.random.key_data(example_keys(key, step, 0, 24)) for step in range(10)])
    assert len(np.unique(steps, axis=0)) == 10 * 24
