"""The training step against steps written out by hand; its averages, schedules, skips and keys."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle import keys_of, precision
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

from diffax.averages import ema_decay
from diffax.train import (
    TrainState,
    clip_norm,
    diffusion_loss,
    example_keys,
    global_norm,
    init_state,
    optimizer,
    schedule,
    skip_nonfinite,
    train_step,
)


def train(batches, loss_fn, params, tx, ema, accumulate=1):
    """The state and the metrics [steps] of a plain run, a step a batch: one program."""

    def step(state, given):
        i, batch = given
        keys = example_keys(jax.random.key(0), i, 0, len(batch["x0"]))
        return train_step(state, batch, keys, loss_fn=loss_fn, tx=tx, ema=ema, accumulate=accumulate)

    given = np.arange(len(batches), dtype=np.int32), jax.tree.map(lambda *a: np.stack(a), *batches)
    run = jax.jit(lambda params, given: jax.lax.scan(step, init_state(params, tx, ema), given))
    return jax.device_get(run(params, given))


def assert_bitwise(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


# The step against NumPy


def by_hand(steps, clip, decays, rate):
    """Gradient, clipping, Adam (arXiv:1412.6980, Algorithm 1) and moving averages in NumPy's float64."""
    theta = [np.asarray(linear_params()[k], np.float64) for k in ("w", "b")]
    means = {name: list(theta) for name in decays}
    m, v = [0.0, 0.0], [0.0, 0.0]
    rows = []
    for i in range(steps):
        loss, *g = linear_gradient(*theta, linear_batch(seed=i, dtype=np.float64))
        norm = np.sqrt(sum((a**2).sum() for a in g))
        rows.append((loss, norm))
        g = [a * min(1.0, clip / norm) for a in g]
        m = [0.9 * old + 0.1 * a for old, a in zip(m, g)]
        v = [0.999 * old + 0.001 * a**2 for old, a in zip(v, g)]
        hat = [(a / (1 - 0.9 ** (i + 1)), b / (1 - 0.999 ** (i + 1))) for a, b in zip(m, v)]
        theta = [t - rate(i) * a / (np.sqrt(b) + 1e-8) for t, (a, b) in zip(theta, hat)]
        for name, decay in decays.items():
            d = min(decay, (1 + i) / (10 + i))
            means[name] = [d * old + (1 - d) * t for old, t in zip(means[name], theta)]
    return theta, means, rows


@pytest.mark.parametrize("bits, rtol", [(32, 1e-5), (64, 5e-7)])
def test_step_is_the_one_written_by_hand(bits, rtol):
    # in 64 bits what is left is the decays', the learning rate's and Adam's own float32 scalars
    decays, clip, steps = {"fast": 0.3, "slow": 0.999}, 2.0, 20

    def rate(i):
        return 0.05 * i / 5 if i < 5 else 0.05 * 0.5 * (1 + np.cos(np.pi * (i - 5) / 25))

    theta, means, rows = by_hand(steps, clip, decays, rate)
    norms = np.array([norm for _, norm in rows])
    assert (norms > clip).any() and (norms < clip).any()  # clipping is at work, but not always
    with precision(bits):
        dtype = np.dtype(f"float{bits}")
        tx = optimizer(optax.adam(schedule(0.05, warmup=5, decay_steps=30)), clip)
        ema = {name: ema_decay(decay) for name, decay in decays.items()}
        batches = [linear_batch(seed=i, dtype=dtype) for i in range(steps)]
        state, metrics = train(batches, linear_loss, linear_params(dtype), tx, ema)
        np.testing.assert_allclose(np.stack([metrics["loss"], metrics["grad_norm"]], 1), rows, rtol=20 * rtol)
        assert int(state.step) == steps
        assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.ema_params))} == {dtype}
        for expected, found in [(theta, state.params), *((means[k], state.ema_params[k]) for k in decays)]:
            np.testing.assert_allclose(found["w"], expected[0], rtol=rtol, atol=rtol)
            np.testing.assert_allclose(found["b"], expected[1], rtol=rtol, atol=rtol)


BATCHES = [examples(16, seed=i) for i in range(10)]
# plain gradient descent, so that the rounding of gradients is not amplified
DESCENT = dict(tx=optimizer(optax.sgd(0.1), 1.0), ema={"a": ema_decay(0.9), "b": ema_decay(0.5, warmup=False)})


@functools.cache
def descent():
    """Ten steps of the perceptron; here implicit promotion of types is an error."""
    with jax.numpy_dtype_promotion("strict"):
        return train(BATCHES, perceptron_loss(), perceptron_params(), **DESCENT)


def test_accumulation_is_the_whole_batch():
    with jax.numpy_dtype_promotion("strict"):
        whole, whole_rows = descent()
        for accumulate in (2, 4):
            parts, rows = train(BATCHES, perceptron_loss(), perceptron_params(), **DESCENT, accumulate=accumulate)
            for found, expected in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(rows["loss"], whole_rows["loss"], rtol=1e-6)
            np.testing.assert_allclose(rows["grad_norm"], whole_rows["grad_norm"], rtol=1e-5)


def test_accumulation_refuses_unequal_slices():
    with pytest.raises(ValueError, match=r"batch of 16 .* accumulate=3"):
        train(BATCHES[:1], perceptron_loss(), perceptron_params(), optax.sgd(0.1), {}, accumulate=3)


# Moving averages, schedules, clipping


def test_averages_on_a_linear_path():
    """θ_n = θ_0 + n·s: with decay d the average lags by s·d(1 - d^n)/(1 - d), in warm-up by exactly s·n/10."""
    start, slope, rate = np.float32([1.0, -2.0, 0.25]), np.float32([3.0, 0.5, -1.0]), 0.125
    decays = {"0": 0.0, "0.5": 0.5, "0.9": 0.9, "0.999": 0.999}
    ema = {k: ema_decay(d, warmup=False) for k, d in decays.items()} | {"warm": ema_decay(0.9999)}

    def linear(params, batch, keys):
        return jnp.full(keys.shape, params @ slope)

    state, _ = train(4 * BATCHES, linear, start, optax.sgd(rate), ema)
    s, n = -rate * slope, 40
    end = start + n * s
    np.testing.assert_allclose(state.params, end, rtol=1e-6)
    for name, d in decays.items():
        np.testing.assert_allclose(state.ema_params[name], end - s * d * (1 - d**n) / (1 - d), rtol=1e-5)
    # the lag e obeys e' = d_n (e + s), d_n = (1 + n)/(10 + n); s·n/10 solves it
    np.testing.assert_allclose(state.ema_params["warm"], end - s * n / 10, rtol=1e-5)


def test_ema_decay_warms_up_to_its_value():
    n = np.array([0, 1, 9, 90, 8980, 8990, 9000, 10**6, 2**30], np.int32)
    found = np.asarray(jax.jit(ema_decay(0.999))(n))
    np.testing.assert_allclose(found, np.minimum(0.999, (1 + n.astype(float)) / (10 + n)), rtol=1e-7)
    assert found[0] == np.float32(0.1) and found[-1] == np.float32(0.999)
    assert float(ema_decay(0.999, warmup=False)(0)) == np.float32(0.999)


@pytest.mark.parametrize(
    "options, expected",
    [
        ((0, 0), {0: 1, 1: 1, 10**6: 1}),
        ((10, 0), {0: 0, 1: 0.1, 5: 0.5, 10: 1, 11: 1, 10**6: 1}),
        ((0, 100), {0: 1, 25: 0.5 + 0.5**1.5, 50: 0.5, 100: 0, 10**6: 0}),
        ((10, 110), {0: 0, 5: 0.5, 10: 1, 35: 0.5 + 0.5**1.5, 60: 0.5, 85: 0.5 - 0.5**1.5, 110: 0, 111: 0}),
        ((0, 0, 100), {0: 1, 99: 1, 100: 1, 400: 0.5, 10**6: 0.01}),
        ((10, 0, 100), {0: 0, 5: 0.5, 10: 1, 100: 1, 400: 0.5, 900: 1 / 3}),
        ((40, 0, 10), {0: 0, 5: 0.125, 20: 0.5**1.5, 40: 0.5, 90: 1 / 3}),
    ],
)
def test_schedule(options, expected):
    found = jax.jit(jax.vmap(schedule(2e-4, *options)))(np.array([*expected], np.int32))
    np.testing.assert_allclose(found, 2e-4 * np.array([*expected.values()]), rtol=1e-5, atol=1e-10)


def test_a_rate_falls_in_one_way():
    with pytest.raises(ValueError, match="decay_steps=5 and decay_after=7: a rate falls in one way; give one"):
        schedule(1.0, 0, 5, 7)


@pytest.mark.parametrize("clip", [1e-3, 0.5, 1e3, float("inf")])
def test_clipping_keeps_the_direction(clip):
    params = jax.device_get(linear_params())
    _, w, b = linear_gradient(*(params[k].astype(np.float64) for k in ("w", "b")), linear_batch())
    norm = np.sqrt((w**2).sum() + (b**2).sum())
    state, metrics = train([linear_batch()], linear_loss, params, optimizer(optax.sgd(1.0), clip), {})
    moved = jax.tree.map(lambda old, new: old - new, params, state.params)
    for found, gradient in ((moved["w"], w), (moved["b"], b)):
        np.testing.assert_allclose(found, gradient * min(1.0, clip / norm), rtol=1e-4, atol=5e-7)
    np.testing.assert_allclose(metrics["grad_norm"], [norm], rtol=1e-5)  # what is measured is what came in


# Gradients that are not finite


@functools.cache
def guarded(accumulate):
    """(step, first state) of least squares by Adam; a step's results come to the host."""
    tx, ema = optimizer(optax.adam(schedule(0.1, 5)), 1.0), {"a": ema_decay(0.9)}
    step = partial(train_step, loss_fn=linear_loss, tx=tx, ema=ema, accumulate=accumulate)
    jitted = jax.jit(lambda state, batch: step(state, batch, keys_of(8)))
    return lambda *args: jax.device_get(jitted(*args)), init_state(linear_params(), tx, ema)


@pytest.mark.parametrize("bad, accumulate", [(np.nan, 1), (np.inf, 1), (-np.inf, 4)])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, accumulate):
    step, state = guarded(accumulate)
    good = linear_batch(poison=np.ones(8, np.float32))
    one_bad = linear_batch(poison=np.array([1] * 7 + [bad], np.float32))  # a single example is enough
    for _ in range(3):
        state, metrics = step(state, good)
    assert (metrics["nonfinite_in_a_row"], metrics["nonfinite_total"]) == (0, 0)

    after = state
    for n in range(1, 31):
        after, metrics = step(after, one_bad)
        assert (metrics["nonfinite_in_a_row"], metrics["nonfinite_total"]) == (n, n)
        assert not np.isfinite(metrics["grad_norm"])
        assert_bitwise((after.params, after.opt_state.inner), (state.params, state.opt_state.inner))
    assert int(after.step) == 33
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))

    resumed, metrics = step(after, good)
    assert (metrics["nonfinite_in_a_row"], metrics["nonfinite_total"]) == (0, 30)
    never, _ = step(state, good)
    assert_bitwise((resumed.params, resumed.opt_state.inner), (never.params, never.opt_state.inner))
    _, metrics = step(resumed, one_bad)
    assert (metrics["nonfinite_in_a_row"], metrics["nonfinite_total"]) == (1, 31)


def test_one_bad_leaf_holds_back_all():
    tx = skip_nonfinite(optax.adam(0.1))
    params = linear_params()
    grads = dict(w=np.ones((3, 2), np.float32), b=np.float32([1.0, np.nan]))
    start = jax.jit(tx.init)(params)
    updates, state = jax.jit(tx.update)(grads, start, params)
    assert_bitwise(updates, jax.tree.map(np.zeros_like, grads))
    assert_bitwise(state.inner, start.inner)


@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-6), (jnp.bfloat16, 1e-6), (np.float64, 1e-12)])
def test_the_norm_is_over_arrays_of_every_size(dtype, rtol):
    sizes = [(), (1,), (3, 5), (2**16 - 1,), (2**8, 2**8), (2**16 + 1,)]  # joined are those below 2**16
    with jax.enable_x64(dtype == np.float64):
        tree = {str(shape): np.asarray(np.random.default_rng(0).normal(1, 1, shape), dtype) for shape in sizes}
        each = jax.jit(lambda tree: [global_norm(tree), {name: global_norm({name: a}) for name, a in tree.items()}])
        norm, alone = jax.device_get(each(tree))
        assert norm.dtype == (np.float64 if dtype == np.float64 else np.float32) and norm.shape == ()
        exact = {name: np.linalg.norm(np.asarray(a, np.float64).ravel()) for name, a in tree.items()}
        assert alone == pytest.approx(exact, rel=rtol)
        assert float(norm) == pytest.approx(np.linalg.norm(list(exact.values())), rel=rtol)


def test_the_norm_is_over_numbers_of_every_kind():
    @jax.jit
    def norms():
        mixed = [jnp.full(3, 2.0, jnp.float8_e4m3fn), jnp.full(2, 2.0, jnp.bfloat16), np.full(4, 2.0), 2.0]
        return global_norm({}), global_norm(mixed)

    nothing, norm = map(float, norms())
    assert nothing == 0 and norm == pytest.approx(40**0.5)


def test_small_arrays_share_one_sum():
    # each shape's would be three or four programs more to compile
    small, large = [np.ones((i, 3)) for i in range(1, 20)], [np.ones(2**16), np.ones((2, 2**16))]
    assert str(jax.make_jaxpr(global_norm)(small)).count("reduce_sum") == 1
    assert str(jax.make_jaxpr(global_norm)(small + large)).count("reduce_sum") == 3


def test_clipping_is_of_what_comes_to_it():
    cases = [(clip_norm(1.0), 1.0), (clip_norm(7.0), 5.0)]
    for scale, norm in ((0.1, 0.5), (3.0, 1.0)):  # not of the gradient that the chain was given
        cases.append((optax.chain(optax.scale(scale), clip_norm(1.0)), norm))
    clipped = jax.jit(lambda grads: [tx.update(grads, tx.init(grads))[0] for tx, _ in cases])
    for found, (_, norm) in zip(clipped(dict(w=np.float32([3.0, 4.0]))), cases, strict=True):
        assert np.linalg.norm(found["w"]) == pytest.approx(norm)


def test_an_optimizer_without_skipping_measures_no_skips():
    _, rows = train(BATCHES[:1], perceptron_loss(), perceptron_params(), optax.sgd(0.1), {})
    assert set(rows) == {"loss", "grad_norm"}


# The state


def test_state_holds_arrays_only():
    tx = optimizer(optax.adam(schedule(0.1, 5)), 1.0)
    state = init_state(linear_params(), tx, {"0.9": ema_decay(0.9), "0.99": ema_decay(0.99)})
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert state.step.dtype == jnp.int32 and state.step.shape == ()
    assert set(state.ema_params) == {"0.9", "0.99"}
    for copy in state.ema_params.values():
        assert_bitwise(copy, state.params)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)  # a buffer held twice could not be donated

    through = jax.jit(lambda state: state)(state)
    assert isinstance(through, TrainState) and jax.tree.structure(through) == jax.tree.structure(state)
    assert_bitwise(through, state)
    doubled = jax.tree.map(lambda a: 2 * np.asarray(a), state)
    assert isinstance(doubled, TrainState)
    np.testing.assert_array_equal(doubled.params["w"], 2 * np.asarray(state.params["w"]))
    rebuilt = jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(state))
    assert_bitwise(rebuilt, state)
    shapes = jax.eval_shape(lambda: init_state(linear_params(), tx, {"0.9": ema_decay(0.9), "0.99": ema_decay(0.99)}))
    assert jax.tree.structure(shapes) == jax.tree.structure(state)


# Networks of other kinds


def test_an_nnx_network_takes_the_same_step():
    nnx = pytest.importorskip("flax.nnx")

    class Perceptron(nnx.Module):
        def __init__(self, features, width, rngs):
            self.inner = nnx.Linear(features, width, rngs=rngs)
            self.level = nnx.Param(jnp.zeros((width,)))
            self.classes = nnx.Embed(CLASSES + 1, width, rngs=rngs)
            self.outer = nnx.Linear(width, features, use_bias=False, rngs=rngs)

        def __call__(self, x_in, c_noise, cond):
            return self.outer(
                jnp.tanh(self.inner(x_in) + c_noise[:, None] / 1000.0 * self.level[...] + self.classes(cond["label"]))
            )

    plain = perceptron_params()
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Perceptron(4, 32, nnx.Rngs(0))))
    values = dict(inner=dict(kernel=plain["inner"], bias=plain["bias"]), level=plain["level"])
    values |= dict(classes=dict(embedding=plain["classes"]), outer=dict(kernel=plain["outer"]))
    nnx.replace_by_pure_dict(params, values)

    def network(params, x_in, c_noise, cond, dropout_keys):
        return nnx.merge(graphdef, params)(x_in, c_noise, cond)

    loss_fn = diffusion_loss(network, PROCESS, VELOCITY, nulls=NULLS, drop=0.2)
    (state, rows), (expected, expected_rows) = train(BATCHES, loss_fn, params, **DESCENT), descent()
    np.testing.assert_allclose(rows["loss"], expected_rows["loss"], rtol=1e-5)
    for found, plain in ((state.params, expected.params), (state.ema_params["a"], expected.ema_params["a"])):
        found = nnx.to_pure_dict(found)
        np.testing.assert_allclose(found["inner"]["kernel"], plain["inner"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["classes"]["embedding"], plain["classes"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["outer"]["kernel"], plain["outer"], rtol=1e-4, atol=1e-6)
