"""A step on one vector of parameters is the step on many arrays; a checkpoint does not tell them apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launcher import DIGITS, TINY, TOY, configured
from networks import normal

from diffax import build
from diffax.build.objects import _ELEMENTWISE
from diffax.loop import flat, training
from diffax.train import init_state, train_step


def experiment(*options):
    return build.experiment(configured(TOY, (*TINY, *options)))


AVERAGED = ("ema.decays=(0.9,0.99)", "optimizer.clip=0.5")


@functools.cache
def initial_state():
    return training.initial_state(experiment(*AVERAGED))


def trained(route):
    """(the state as a checkpoint holds it, its losses, the run) after three steps."""
    told = experiment(f"train.parallel={route}", *AVERAGED)
    run = training.place(told, training.state_shapes(told))
    state, losses = run.place(initial_state()), []
    for (batch, keys), _ in zip(run.batches(0), range(3)):
        state, metrics = run.step(state, batch, keys)
        losses.append(float(np.ravel(metrics["loss"])[0]))
    return run.whole(state), losses, run


trained_on_a_vector = functools.cache(trained)


def arrays(state):
    return [np.asarray(a) for a in jax.tree.leaves(state)]


@pytest.mark.parametrize("route", ["mesh", "pmap"])
def test_a_step_on_a_vector_is_the_step_on_arrays(route, monkeypatch):
    joined, losses, run = trained_on_a_vector(route)
    monkeypatch.setattr(flat, "SMALL", 0)
    apart, expected, other = trained(route)
    assert len(jax.tree.leaves(run.taken)) < len(jax.tree.leaves(other.taken))
    assert run.target == other.target
    assert jax.tree.structure(joined) == jax.tree.structure(apart)
    assert jax.tree.map(lambda a: a.sharding, joined) == jax.tree.map(lambda a: a.sharding, apart)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for a, b in zip(arrays(joined), arrays(apart), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_joined_and_split_again_a_state_is_itself_and_a_copy():
    state, _, run = trained_on_a_vector("mesh")
    before = [a.copy() for a in arrays(state)]
    vector = run.place(state)
    again = run.whole(vector)
    batch, keys = next(run.batches(3))
    jax.block_until_ready(run.step(vector, batch, keys))
    for kept in (state, again):
        for a, b in zip(before, arrays(kept), strict=True):
            np.testing.assert_array_equal(a, b)
    layout = flat.layout(experiment(*AVERAGED), jax.eval_shape(lambda: state))
    vectors = jax.device_put(layout.join(jax.device_get(state)))  # that a step which donates would overwrite
    for array in jax.tree.leaves(layout.split(vectors).params):
        assert not np.shares_memory(array, np.asarray(vectors.params))


@pytest.mark.parametrize("name", sorted(_ELEMENTWISE))
def test_optimizers_that_are_joined_treat_every_number_alike(name):
    spec = dict(name=name, learning_rate=0.1, warmup=0, decay_steps=0, decay_after=0, unit_weights=False, clip=0.3)
    tx = build.optimizer({"optimizer": spec})
    params = {"a": normal(0, (3, 4)), "b": {"bias": normal(1, (5,)), "kernel": normal(2, (2, 2, 3))}}
    vector = np.concatenate([np.ravel(a) for a in jax.tree.leaves(params)])
    told = experiment()._replace(config={"optimizer": spec, "train": {"parallel": "mesh"}})

    def loss(params, batch, keys):
        return sum(jnp.sum(jnp.sin(a * batch["x0"].sum())) for a in jax.tree.leaves(params)) * jnp.ones(len(keys))

    layout = flat.layout(told, jax.eval_shape(lambda: init_state(params, tx, {})))

    def after(params, loss, batches):
        def step(state, batch):
            return train_step(state, batch, jax.random.split(jax.random.key(0), 2), loss_fn=loss, tx=tx, ema={})

        return jax.lax.scan(step, init_state(params, tx, {}), batches)[0]

    both = jax.jit(lambda a, b, batches: (after(a, loss, batches), after(b, layout.loss(loss), batches)))
    state, joined = both(params, vector, {"x0": normal(0, (3, 2, 2))})
    assert jax.tree.structure(layout.join(state)) == jax.tree.structure(joined)
    for a, b in zip(arrays(state), arrays(layout.split(joined)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        ("optimizer.name=adamw",),
        ("optimizer.name=lamb",),
        ("optimizer.name=muon",),
        ("train.parallel=fsdp",),
        ("optimizer.mu_dtype=bfloat16",),
        ("network.features=256",),  # 256 x 256 is 2^16
    ],
)
def test_arrays_stay_apart(options):
    told = experiment(*options)
    assert flat.layout(told, training.state_shapes(told)) is None


def test_arrays_stay_apart_on_accelerators(monkeypatch):
    told = experiment()
    shapes = training.state_shapes(told)
    assert flat.layout(told, shapes)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert flat.layout(told, shapes) is None


def test_arrays_of_several_types_or_one_alone_stay_apart():
    told = experiment()
    one = jax.ShapeDtypeStruct((3,), jnp.float32)
    for params in ({"a": one, "b": one.update(dtype=jnp.bfloat16)}, one):
        state = jax.eval_shape(lambda params: init_state(params, build.optimizer(told.config), {}), params)
        assert flat.layout(told, state) is None


def test_the_digits_experiment_trains_on_a_vector():
    told = build.experiment(configured(DIGITS, ()))
    state = training.state_shapes(told)
    assert [a.shape for a in jax.tree.leaves(flat.layout(told, state).shapes(state).params)] == [(173_113,)]
