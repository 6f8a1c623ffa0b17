"""One training step on 1, 2, 4 and 8 devices: over a mesh, sharded or under pmap, with one result."""

import functools
import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec
from perceptron import (
    CLASSES,
    NULLS,
    PROCESS,
    VELOCITY,
    examples,
    linear_batch,
    linear_gradient,
    linear_loss,
    linear_params,
    perceptron_loss,
    perceptron_params,
)

from diffax import parallel
from diffax.averages import ema_decay
from diffax.train import diffusion_loss, example_keys, global_norm, init_state, optimizer, train_step

BATCH, STEPS, RATE = 16, 20, 1e-3
MIN_SIZE = 64  # small enough that the perceptron's matrices are sharded


class Task(NamedTuple):
    """A step, a new state for it (donation ends each), and the shape of its data."""

    step: object
    fresh: object
    shape: tuple


@functools.cache
def task(name):
    """A training task by the name of its network; Adam with its default epsilon, clipping, an average, no dropout."""
    params, loss_fn, shape = {"perceptron": _perceptron, "unet": _unet}[name]()  # params() makes them
    tx, ema = optimizer(optax.adam(RATE), 1.0), {"0.9": ema_decay(0.9)}
    step = partial(train_step, loss_fn=loss_fn, tx=tx, ema=ema)
    return Task(step, jax.jit(lambda: init_state(params(), tx, ema)), shape)


def _perceptron():
    return perceptron_params, perceptron_loss(), (4,)


def _unet():
    from diffax.models import UNet, initializers

    network = UNet(out_channels=1, channels=8, multipliers=(1,), blocks=1, attention=(), num_classes=CLASSES, groups=4)
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 8, 1), (1,))]
    label = {"label": jax.ShapeDtypeStruct((1,), jnp.int32)}
    params = initializers.init(network, jax.random.key(0), *given, label)
    rng = np.random.default_rng(0)
    # off the zeros that it starts from, so that every parameter has a gradient from the first step on
    params = jax.tree.map(lambda a: np.asarray(a) + 0.1 * rng.standard_normal(a.shape).astype(np.float32), params)

    def apply(params, x_in, c_noise, cond, dropout_keys):
        return network.apply({"params": params}, x_in, c_noise, cond)

    return lambda: params, diffusion_loss(apply, PROCESS, VELOCITY, nulls=NULLS, drop=0.2), (8, 8, 1)


# Each route places a state on n devices and takes a step there: (task, devices) -> (step, state, gather)


def single(task, devices):
    return jax.jit(task.step), task.fresh(), lambda state: state


def mesh(task, devices, shardings=parallel.replicated, **options):
    state, m = task.fresh(), parallel.mesh(devices)
    placed = shardings(state, m)
    step = parallel.data_parallel(task.step, m, placed, **options)
    return step, jax.tree.map(jax.device_put, state, placed), lambda state: state


def fsdp(task, devices, min_size=MIN_SIZE, **options):
    return mesh(task, devices, partial(parallel.fsdp, min_size=min_size), **options)


def fsdp_of_two(task, devices, **options):
    """For least squares, whose arrays of 2 and 6 numbers are split over two devices, and over no more."""
    return fsdp(task, devices[:2], min_size=1, **options)


def pmap(task, devices):
    step = parallel.pmapped(task.step, devices)
    return step, parallel.replicate(task.fresh(), devices), parallel.unreplicate


ROUTES = [mesh, fsdp, pmap]


def run(task, route, count):
    """The state after the steps, gathered on the host, and the losses."""
    step, state, gather = route(task, jax.devices()[:count])
    losses = []
    for i in range(STEPS):
        batch = examples(BATCH, task.shape, seed=i)
        state, metrics = step(state, batch, example_keys(jax.random.key(0), i, 0, BATCH))
        losses.append(metrics["loss"])
    return jax.device_get(gather(state)), np.array(losses, np.float64)


@functools.cache
def reference(name):
    return run(task(name), single, 1)


def assert_agree(found, expected):
    """Every parameter p to |p - q| ≤ 1e-4·|q| + a thousandth of one of Adam's steps.

    Adam divides a gradient by its own size, and so makes of a rounding error in a gradient near zero a good part of a
    step of length RATE: the second term is for those. A step taken wrongly, or one too few, is off by RATE.
    """
    for (path, p), q in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-3 * RATE, err_msg=jax.tree_util.keystr(path))


EVERY = [(route, count) for route in ROUTES for count in (1, 2, 4, 8)]
LONGER = {(route, count) for route in (fsdp, pmap) for count in (1, 2, 4)}


@pytest.mark.parametrize(
    ("route", "count"), [pytest.param(*case, marks=[pytest.mark.slow] * (case in LONGER)) for case in EVERY]
)
def test_twenty_steps_are_the_same_on_any_number_of_devices(route, count):
    (state, losses), (expected, expected_losses) = run(task("perceptron"), route, count), reference("perceptron")
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)
    assert_agree((state.params, state.ema_params), (expected.params, expected.ema_params))
    assert int(state.step) == STEPS


@pytest.mark.slow
def test_twenty_steps_of_a_sharded_unet_are_the_same():
    unet = task("unet")
    split = [not s.is_fully_replicated for s in jax.tree.leaves(parallel.fsdp(unet.fresh(), parallel.mesh(), MIN_SIZE))]
    assert sum(split) > len(split) / 4  # kernels are, most biases are too small
    (state, losses), (expected, expected_losses) = run(unet, fsdp, 8), reference("unet")
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert_agree(_without_key_bias(state.params), _without_key_bias(expected.params))


def _without_key_bias(params):
    """Softmax does not see a bias of the keys: its gradient is zero but for rounding, and Adam's step a coin's toss."""
    bias = params["middle_0_attention"]["qkv"]["bias"]
    query, _, value = np.split(bias, 3)
    attention = params["middle_0_attention"] | {"qkv": params["middle_0_attention"]["qkv"] | {"bias": (query, value)}}
    return params | {"middle_0_attention": attention}


@functools.cache
def descent():
    """Least squares by gradient descent of rate 1."""
    tx, ema = optimizer(optax.sgd(1.0)), {"0.9": ema_decay(0.9)}
    step = partial(train_step, loss_fn=linear_loss, tx=tx, ema=ema)
    return Task(step, jax.jit(lambda: init_state(linear_params(), tx, ema)), ())


# Gradients, by plain gradient descent: no factor of N can hide behind Adam's division


def shard_mapped(step, devices, **options):
    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    mapped = partial(step, axis_name=parallel.AXIS)
    specs = dict(in_specs=(whole, split, split), out_specs=(whole, whole))
    return jax.jit(jax.shard_map(mapped, mesh=parallel.mesh(devices), **specs, **options))


DOWNHILL = optax.sgd(1.0)


@jax.jit
def start():
    return init_state(linear_params(), DOWNHILL, {})


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("route", ["mesh", "fsdp", "pmap", "shard_map", "shard_map unchecked"])
def test_gradients_are_those_of_the_mean(route, accumulate):
    devices = jax.devices()[: 2 if route == "fsdp" else 4]  # two can split its arrays
    step = partial(train_step, loss_fn=linear_loss, tx=DOWNHILL, ema={}, accumulate=accumulate)
    state, gather, m = start(), lambda state: state, parallel.mesh(devices)
    if route == "pmap":
        step, state = parallel.pmapped(step, devices), parallel.replicate(state, devices)
        gather = parallel.unreplicate
    elif route.startswith("shard_map"):
        step = shard_mapped(step, devices, **({"check_vma": False} if "unchecked" in route else {}))
    else:
        shardings = parallel.fsdp(state, m, 1) if route == "fsdp" else None
        assert shardings is None or not any(s.is_fully_replicated for s in jax.tree.leaves(shardings.params))
        step = parallel.data_parallel(step, m, shardings)
        state = state if shardings is None else jax.tree.map(jax.device_put, state, shardings)
    batch = linear_batch()
    state, metrics = step(state, batch, jax.random.split(jax.random.key(0), 8))
    before, after = jax.device_get((start().params, gather(state).params))
    loss, w, b = linear_gradient(*(before[k].astype(np.float64) for k in ("w", "b")), batch)
    np.testing.assert_allclose(before["w"] - after["w"], w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(before["b"] - after["b"], b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt((w**2).sum() + (b**2).sum()), rtol=1e-6)


@pytest.mark.parametrize("route", [mesh, fsdp_of_two, pmap])
def test_a_bad_example_on_one_device_holds_back_all(route):
    step, state, gather = route(descent(), jax.devices()[:4])
    batch = linear_batch(poison=np.array([1] * 7 + [np.nan], np.float32))
    state, metrics = step(state, batch, jax.random.split(jax.random.key(0), 8))
    assert int(metrics["nonfinite_total"]) == 1
    np.testing.assert_array_equal(gather(state).params["w"], linear_params()["w"])
    if route is pmap:  # every device's copy
        np.testing.assert_array_equal(state.params["w"], np.broadcast_to(linear_params()["w"], (4, 3, 2)))


# Placement


def test_the_norm_gathers_nothing_that_fsdp_splits():
    m = parallel.mesh()
    tree = {
        "split": np.ones((256, 256), np.float32),
        "large": np.ones((640, 256), np.float32),
        "small": np.ones((255, 257), np.float32),
        "bias": np.ones(8, np.float32),
    }
    shardings = parallel.fsdp(tree, m)
    assert [s.is_fully_replicated for s in jax.tree.leaves(shardings)] == [True, False, True, False]
    program = jax.jit(global_norm, in_shardings=(shardings,)).lower(tree).compile()
    assert "all-reduce" in program.as_text() and not re.search("all-gather|all-to-all", program.as_text())
    assert float(program(jax.device_put(tree, shardings))) == pytest.approx(sum(a.size for a in tree.values()) ** 0.5)


def test_fsdp_splits_what_is_large_along_its_longest_axis():
    m = parallel.mesh()
    tree = dict(
        wide=np.zeros((16, 64)), tall=np.zeros((64, 16)), conv=np.zeros((3, 3, 24, 8)), odd=np.zeros((33, 31)),
        longest_does_not_divide=np.zeros((65, 16)), small=np.zeros((8, 4)), scalar=np.zeros(()), empty=np.zeros((0, 8)),
    )  # fmt: skip
    specs = {k: s.spec for k, s in parallel.fsdp(tree, m, MIN_SIZE).items()}
    whole, axis = PartitionSpec(), parallel.AXIS
    assert specs == dict(
        wide=PartitionSpec(None, axis), tall=PartitionSpec(axis, None), conv=PartitionSpec(None, None, axis, None),
        odd=whole, longest_does_not_divide=PartitionSpec(None, axis), small=whole, scalar=whole, empty=whole,
    )  # fmt: skip
    default = parallel.fsdp(dict(under=np.zeros(2**16 - 8), at=np.zeros(2**16)), m)
    assert default["under"].spec == whole and default["at"].spec == PartitionSpec(axis)


def test_fsdp_state_stays_sharded():
    step, state, _ = fsdp(task("perceptron"), jax.devices())
    placed = jax.tree.map(lambda a: a.sharding, state)
    for i in range(2):
        state, _ = step(state, examples(BATCH), example_keys(jax.random.key(0), i, 0, BATCH))
    assert jax.tree.map(lambda a: a.sharding, state) == placed
    adam = state.opt_state.inner[1][0]
    for tree in (state.params, state.ema_params["0.9"], adam.mu, adam.nu):
        # width 32 over 8 devices; a bias of 32 values is below MIN_SIZE and whole
        shards = {k: {s.data.shape for s in a.addressable_shards} for k, a in tree.items()}
        assert shards == dict(inner={(4, 4)}, level={(32,)}, bias={(32,)}, classes={(4, 4)}, outer={(4, 4)})
    assert state.step.sharding.is_fully_replicated


def test_data_parallel_keeps_the_state_whole_and_splits_the_batch():
    m = parallel.mesh()
    placed = parallel.replicated(task("perceptron").fresh(), m)
    assert {s.spec for s in jax.tree.leaves(placed)} == {PartitionSpec()}
    seen = []

    def spy(state, batch, keys):
        jax.debug.inspect_array_sharding(batch["x0"], callback=seen.append)
        return state, {"n": jnp.sum(batch["x0"])}

    state, _ = parallel.data_parallel(spy, m)(
        {"a": np.zeros(8, np.float32)}, examples(BATCH), jax.random.split(jax.random.key(0), 16)
    )
    assert state["a"].sharding.is_fully_replicated and len(state["a"].devices()) == 8
    assert seen[0].shard_shape((BATCH, 4)) == (2, 4)


@pytest.mark.parametrize("route", [mesh, fsdp_of_two, pmap])
def test_the_state_is_donated(route):
    step, first, _ = route(descent(), jax.devices(), **({} if route is pmap else {"donate": True}))
    keys, batch = jax.random.split(jax.random.key(0), 8), jax.device_put(linear_batch())
    second, _ = step(first, batch, keys)
    third, _ = step(second, batch, keys)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((first, second)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((third, batch, keys)))


@pytest.mark.parametrize("route", [mesh, fsdp_of_two])
def test_a_cpu_keeps_the_old_state(route):
    step, first, _ = route(descent(), jax.devices())
    step(first, linear_batch(), jax.random.split(jax.random.key(0), 8))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(first))


@pytest.mark.parametrize("route", [mesh, fsdp_of_two])
def test_donated_memory_is_used_again(route):
    step, state, _ = route(descent(), jax.devices(), donate=True)
    compiled = step.lower(state, linear_batch(), jax.random.split(jax.random.key(0), 8)).compile()
    state_bytes = sum(a.addressable_shards[0].data.nbytes for a in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes >= state_bytes


def test_replicas_are_copies_and_nobody_elses():
    devices = jax.devices()[:4]
    tree = dict(a=jax.device_put(np.arange(6, dtype=np.float32).reshape(2, 3)), step=jnp.int32(5))
    copies = parallel.replicate(tree, devices)
    assert copies["a"].shape == (4, 2, 3) and copies["step"].shape == (4,) and copies["step"].dtype == jnp.int32
    shards = copies["a"].addressable_shards
    assert [s.device for s in shards] == devices
    assert len({s.data.unsafe_buffer_pointer() for s in shards} | {tree["a"].unsafe_buffer_pointer()}) == 5
    for k, a in parallel.unreplicate(copies).items():
        np.testing.assert_array_equal(a, tree[k])


def test_pmap_refuses_a_batch_that_devices_cannot_share():
    step, state, _ = pmap(task("perceptron"), jax.devices())
    with pytest.raises(ValueError, match=r"batch_size 12 .* 8 devices"):
        step(state, examples(12), jax.random.split(jax.random.key(0), 12))


@pytest.mark.parametrize(
    "batch_size, devices, accumulate, words",
    [
        (10, 4, 1, ["batch_size 10", "4 devices", "multiple of 4"]),
        (4, 8, 1, ["batch_size 4", "8 devices", "multiple of 8"]),
        (16, 8, 4, ["batch_size 16", "8 devices", "4 slices", "multiple of 32"]),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(batch_size, devices, accumulate, words):
    with pytest.raises(ValueError) as error:
        parallel.check_batch(batch_size, devices, accumulate)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_batch_that_divides_is_taken():
    for devices in (1, 2, 4, 8):
        for accumulate in (1, 2, 4):
            parallel.check_batch(32, devices, accumulate)


def test_mesh_is_one_axis_of_all_devices():
    m = parallel.mesh()
    assert isinstance(m, Mesh) and m.axis_names == (parallel.AXIS,) and list(m.devices) == jax.devices()
    assert m.axis_types == (jax.sharding.AxisType.Auto,)
    assert list(parallel.mesh(jax.devices()[2:4]).devices) == jax.devices()[2:4]
