"""EDM2's network: magnitudes kept, directions alone of its weights, the formulas of its blocks, published sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from launcher import ROOT
from networks import jitted, keys_from, normal, run

from diffax import build, loop
from diffax import config as configs
from diffax.models import UNetEDM2, check_edm2, init, layers, magnitude
from diffax.train import init_state, normalize_weights, optimizer, train_step, unit_weights

KEY = jax.random.key(0)
SHAPE = (3, 8, 8, 1)


def small(**options):
    return UNetEDM2(**{**dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_dim=8), **options})


TOLD = small(num_classes=3, dropout=0.3)


def inputs(network, shape=SHAPE):
    cond = {"label": np.arange(shape[0], dtype=np.int32) + 1} if network.num_classes else {}  # the null among them
    return [normal(0, shape), np.linspace(-1, 1, shape[0], dtype=np.float32), cond]


def gains_at(params, value):
    """Parameters with every gain, zero at the start, at `value`, so that every path counts."""
    return jax.tree.map(lambda p: jnp.float32(value) if p.ndim == 0 else p, params)


@functools.cache
def initial(network, shape=SHAPE):
    return init(network, KEY, *inputs(network, shape))


@functools.cache
def params_of(network, shape=SHAPE):
    return gains_at(initial(network, shape), 0.5)


def weights(params):
    leaves = jax.tree.leaves_with_path(params)
    return {jax.tree_util.keystr(path): p for path, p in leaves if path[-1].key == "weight"}


def over_inputs(f, w):
    return f(np.asarray(w, np.float64), tuple(range(w.ndim - 1)))


# Magnitudes


def mean_square(x):
    return np.mean(np.square(np.asarray(x, np.float64)), -1)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_sums_and_concatenations_of_unit_magnitude_have_it(share):
    rng = np.random.default_rng(0)
    a, b = (np.linalg.qr(rng.standard_normal((64, 2)))[0].T * 8).astype(np.float32)  # orthogonal, of mean square 1
    np.testing.assert_allclose(mean_square(magnitude.mp_sum(a, b, share)), 1, rtol=1e-6)
    joined = np.asarray(magnitude.mp_concat(a, np.repeat(b, 3), share))
    np.testing.assert_allclose(mean_square(joined), 1, rtol=1e-6)
    # each counts as its share says, not as its channels do
    ratio = np.sum(joined[64:] ** 2) / np.sum(joined[:64] ** 2)
    np.testing.assert_allclose(ratio, (share / (1 - share)) ** 2, rtol=1e-6)


def test_silu_of_a_normal_variable_has_unit_magnitude():
    x, weight = np.polynomial.hermite_e.hermegauss(100)
    square = np.sum(weight * (x / (1 + np.exp(-x))) ** 2) / np.sum(weight)
    np.testing.assert_allclose(np.sqrt(square), magnitude.SILU, atol=5e-4)  # three digits, as published
    y = np.asarray(jax.jit(magnitude.mp_silu)(x.astype(np.float32)), np.float64)
    np.testing.assert_allclose(y, x / (1 + np.exp(-x)) / 0.596, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel, gain", [((), 1.0), ((3, 3), 1.0), ((3, 3), 0.3)])
def test_a_layer_keeps_the_magnitude_of_every_output(kernel, gain):
    n = 4000
    x = normal(1, (n, *kernel, 5))
    layer = magnitude.MPLayer(7, kernel)
    params = init(layer, KEY, x)
    assert jax.tree.map(jnp.shape, params) == {"weight": (*kernel, 5, 7)}
    y = np.asarray(jitted(layer)({"params": params}, x, gain), np.float64)
    y = y[:, 1, 1] if kernel else y  # the only place that sees no padding
    # the mean square of n normal variables has the standard error √(2/n)
    assert np.all(abs(np.mean(y**2, 0) / gain**2 - 1) < 5 * np.sqrt(2 / n))


def test_fourier_features_have_unit_magnitude_and_a_gaussian_kernel():
    c, n = np.asarray([-1.5, 0.0, 0.1, 0.3], np.float32), 20_000
    features = magnitude.MPFourier(n)

    @jax.jit
    def value_and_slope(params):
        y, back = jax.vjp(lambda params: features.apply({"params": params}, c), params)
        return y, back(jnp.ones_like(y))[0]

    y, slope = jax.tree.map(lambda a: np.asarray(a, np.float64), value_and_slope(init(features, KEY, c)))
    # E[2·cos(a)·cos(b)] over phases and f ~ N(0, 1) is E[cos(2πf·d)] = exp(-2π²d²), each term at most 2
    expected = np.exp(-2 * np.pi**2 * np.subtract.outer(c, c) ** 2)
    assert np.all(abs(y @ y.T / n - expected) < 5 / np.sqrt(n))
    assert len(slope) == 2 and not any(np.any(g) for g in jax.tree.leaves(slope))


def test_pixel_norm():
    x = normal(2, (2, 3, 3, 16)) * np.float32([1e-2, 1e3])[:, None, None, None]
    y = np.asarray(jax.jit(magnitude.normalize)(x))
    np.testing.assert_allclose(mean_square(y), 1, rtol=1e-3)
    np.testing.assert_allclose(y[1], x[1] / np.sqrt(np.mean(x[1] ** 2, -1, keepdims=True)), rtol=1e-5)
    value, slope = jax.jit(jax.value_and_grad(lambda x: magnitude.normalize(x).sum()))(np.zeros(4, np.float32))
    assert float(value) == 0 and np.isfinite(slope).all()


def test_a_new_network_keeps_magnitudes_from_end_to_end():
    network, shape = small(channels=32, head_dim=32, attention=()), (2, 8, 8, 3)
    variables = {"params": init(network, KEY, *inputs(network, shape))}
    is_block = lambda module, method: isinstance(module, magnitude.MPBlock) and method == "__call__"  # noqa: E731
    apply = functools.partial(network.apply, capture_intermediates=is_block, mutable="intermediates")
    _, kept = jax.jit(apply)(variables, *inputs(network, shape))
    blocks = {name: float(mean_square(y["__call__"][0]).mean()) for name, y in kept["intermediates"].items()}
    assert len(blocks) == 10
    # padding takes some, and so do averages: those of the resampling and of what the middle attends to
    assert all(0.6 < square < 1.2 for square in blocks.values()), blocks


# Weights: their directions alone


@pytest.mark.slow
def test_the_magnitude_of_weights_does_not_count():
    params, args = params_of(TOLD), inputs(TOLD)
    rng = np.random.default_rng(3)

    def rescale(path, p):
        return np.asarray(p) * rng.uniform(0.1, 10, p.shape[-1]).astype(np.float32) if path[-1].key == "weight" else p

    y = run(TOLD, params, *args)
    np.testing.assert_allclose(run(TOLD, jax.tree.map_with_path(rescale, params), *args), y, rtol=1e-3, atol=1e-4)
    assert np.abs(y).mean() > 0.1


@pytest.mark.slow
def test_forced_normalization_is_idempotent_and_changes_no_output():
    params, args = params_of(TOLD), inputs(TOLD)
    normalize = jax.jit(normalize_weights)
    once = normalize(jax.tree.map(lambda p: np.float32(3) * np.asarray(p) if p.ndim > 1 else p, params))
    for name, w in weights(once).items():
        np.testing.assert_allclose(over_inputs(np.mean, np.square(np.asarray(w))), 1, rtol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), normalize(once), once)
    np.testing.assert_allclose(run(TOLD, once, *args), run(TOLD, params, *args), rtol=1e-3, atol=1e-4)
    others = lambda tree: {str(k): p for k, p in jax.tree.leaves_with_path(tree) if k[-1].key != "weight"}  # noqa: E731
    assert len(others(params)) == 2 + 10 + 1  # Fourier features, and gains of ten blocks and of the result
    jax.tree.map(np.testing.assert_array_equal, others(once), others(params))
    with pytest.raises(
        ValueError, match="no parameter is named weight, as those that a network normalizes are: use UNetEDM2"
    ):
        unit_weights(optax.sgd(1.0)).init({"kernel": jnp.ones((3, 3))})


@pytest.mark.slow
def test_gradients_are_orthogonal_to_every_weight_and_none_is_zero():
    network, shape = small(multipliers=(2,), num_classes=3), (3, 4, 4, 1)
    params, target = params_of(network, shape), normal(5, shape)

    def loss(params):
        return jnp.mean((network.apply({"params": params}, *inputs(network, shape)) - target) ** 2)

    gradient = jax.jit(jax.grad(loss))(params)
    found = weights(gradient)
    assert len(found) == 2 + 2 + 5 * 3 + 3 + 4 * 2  # ends, told, blocks, skip convolutions, attention
    for name, w in weights(params).items():
        length = lambda a: np.sqrt(over_inputs(np.sum, np.square(np.asarray(a))))  # noqa: E731
        assert np.all(length(found[name]) > 0), name
        cosine = over_inputs(np.sum, np.asarray(found[name]) * np.asarray(w)) / (length(found[name]) * length(w))
        np.testing.assert_allclose(cosine, 0, atol=1e-4, err_msg=name)
    gains = [g for g in jax.tree.leaves(gradient) if g.ndim == 0]
    assert len(gains) == 6 and all(g != 0 for g in gains)


def test_updates_hold_weights_at_unit_magnitude_and_a_step_that_is_skipped_changes_nothing():
    params = {"weight": normal(6, (5, 3)), "gain": np.ones((), np.float32)}

    def loss_fn(params, batch, keys):
        w = magnitude.normalize(params["weight"], 0)
        return batch["x"] @ w @ jnp.asarray([1.0, -2.0, 0.5]) * params["gain"]

    tx = optimizer(unit_weights(optax.sgd(0.7)))
    step = jax.jit(functools.partial(train_step, loss_fn=loss_fn, tx=tx, ema={}))
    keys, start = keys_from(np.arange(4)), init_state(jax.jit(normalize_weights)(params), tx, {})
    after, _ = step(start, {"x": normal(7, (4, 5))}, keys)
    old, new = jax.device_get((start.params, after.params))
    np.testing.assert_allclose(mean_square(new["weight"].T), 1, rtol=1e-5)
    assert new["gain"] != 1
    assert np.all(np.abs(new["weight"] - old["weight"]).max(0) > 1e-3)
    still, metrics = step(after, {"x": np.full((4, 5), np.nan, np.float32)}, keys)
    assert int(metrics["nonfinite_total"]) == 1
    jax.tree.map(np.testing.assert_array_equal, still.params, after.params)


# Formulas


def reference(p, x, condition, features, decoder, heads, resample):
    """The block in NumPy, position by position."""
    x, condition = np.asarray(x, np.float64), np.asarray(condition, np.float64)

    def layer(name, x, gain=1.0):
        w = np.asarray(p[name]["weight"], np.float64)
        w = gain * w / np.sqrt(np.sum(w**2, axis=tuple(range(w.ndim - 1))))
        if w.ndim == 2:
            return x @ w
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        h, width = x.shape[1:3]
        return sum(padded[:, i : i + h, j : j + width] @ w[i, j] for i in range(3) for j in range(3))

    unit = lambda x: x / np.sqrt(np.mean(x**2, -1, keepdims=True))  # noqa: E731
    silu = lambda x: x / (1 + np.exp(-x)) / 0.596  # noqa: E731
    add = lambda a, b: (0.7 * a + 0.3 * b) / np.sqrt(0.7**2 + 0.3**2)  # noqa: E731
    if resample == "up":
        x = x.repeat(2, axis=1).repeat(2, axis=2)
    if resample == "down":
        x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    skip = layer("skip", x) if x.shape[-1] != features else x
    x = x if decoder else unit(skip)
    h = layer("conv_0", silu(x)) * (1 + layer("condition", condition, float(p["gain"])))[:, None, None]
    x = add(skip if decoder else x, layer("conv_1", silu(h)))
    if heads:
        parts = layer("qkv", x).reshape(len(x), -1, 3, heads, features // heads)
        q, k, v = (unit(parts[:, :, i]) for i in range(3))
        score = np.exp(np.einsum("bqhc,bkhc->bhqk", q, k) / np.sqrt(features // heads))
        found = np.einsum("bhqk,bkhc->bqhc", score / score.sum(-1, keepdims=True), v)
        x = add(x, layer("project", found.reshape(x.shape)))
    return x


@pytest.mark.parametrize(
    "decoder, inner, heads, resample",
    [(False, 6, 2, None), (False, 8, 0, "down"), (True, 6, 1, "up"), (True, 8, 2, None)],
)
def test_a_block_is_that_of_the_formulas(decoder, inner, heads, resample):
    x, condition = 2 * normal(8, (2, 4, 4, inner)), normal(9, (2, 5))
    how = {None: None, "up": layers.upsample, "down": layers.downsample}[resample]
    block = magnitude.MPBlock(8, decoder, 8 // heads if heads else 0, how)
    params = gains_at(init(block, KEY, x, condition), 0.5)
    y = jax.jit(block.apply)({"params": params}, x, condition)
    np.testing.assert_allclose(y, reference(params, x, condition, 8, decoder, heads, resample), rtol=1e-4, atol=1e-5)


def count(c, channels, classes):
    """Parameters of the full-size network: levels of 1, 2, 3, 4 times c, of which two attend; 3 blocks down, 4 up."""

    def block(inner, outer, attends=False):
        """An encoder's first convolution comes behind that of its skip path, a decoder's beside it."""
        first = 9 * (inner if decoder else outer) * outer
        skip = inner * outer if inner != outer else 0
        return first + 9 * outer**2 + 4 * c * outer + 1 + skip + attends * 4 * outer**2

    total = 2 * c + 4 * c * c + 4 * c * (classes + 1) + 9 * (channels + 1) * c + 9 * c * channels + 1
    decoder = False
    kept, last = [c], c
    for m in (1, 2, 3, 4):
        if m > 1:
            total += block(last, last)  # to half the size
            kept.append(last)
        for _ in range(3):
            total += block(last, m * c, m > 2)
            last = m * c
            kept.append(last)
    decoder = True
    total += block(last, last, True) + block(last, last)
    for m in (4, 3, 2, 1):
        for _ in range(4):
            total += block(last + kept.pop(), m * c, m > 2)
            last = m * c
        total += block(last, last) if m > 1 else 0
    assert not kept
    return total


FURTHER = [(128, 4, 124.7), (256, 4, 497.8), (320, 4, 777.5), (384, 4, 1119.3), (448, 4, 1523.2), (192, 3, 280.2)]


@pytest.mark.parametrize(
    "channels, c, millions",
    [  # arXiv:2312.02696, App. B: of latents of ImageNet at 512, and S at 64
        (192, 4, 280.2),
        *[pytest.param(*size, marks=pytest.mark.slow) for size in FURTHER],
    ],
)
def test_published_parameter_counts(channels, c, millions):
    network = UNetEDM2(channels=channels, num_classes=1000)
    label = {"label": jax.ShapeDtypeStruct((1,), jnp.int32)}
    x = jax.ShapeDtypeStruct((1, 64, 64, c), jnp.float32)
    with jax.numpy_dtype_promotion("strict"):
        params = jax.eval_shape(network.init, KEY, x, jax.ShapeDtypeStruct((1,), jnp.float32), label)["params"]
    total = sum(p.size for p in jax.tree.leaves(params))
    assert total == count(channels, c, 1000)
    assert round(total / 1e6, 1) == millions
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_a_new_network_predicts_zero():
    y = run(TOLD, initial(TOLD), *inputs(TOLD))
    assert y.dtype == jnp.float32 and y.shape == SHAPE and not np.any(y)
    two = TOLD.clone(out_channels=2)
    assert jax.eval_shape(two.init_with_output, KEY, *inputs(TOLD))[0].shape == (*SHAPE[:3], 2)


# Examples, dropout, precision, memory


@pytest.mark.slow
def test_examples_do_not_depend_on_their_neighbors():
    params, args, seeds = params_of(TOLD), inputs(TOLD), np.arange(3)
    whole = run(TOLD, params, *args, keys=keys_from(seeds))
    for i in range(3):
        *others, same = jax.tree.map(lambda a: a[np.full(3, i)], [*args, seeds])  # noqa: B023
        np.testing.assert_allclose(run(TOLD, params, *others, keys=keys_from(same))[i], whole[i], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_dropout_follows_its_key():
    params, args = params_of(TOLD), inputs(TOLD)
    keys = [keys_from(np.arange(3) + seed) for seed in (0, 0, 10)]
    one, again, other, none = (run(TOLD, params, *args, keys=k) for k in (*keys, None))
    np.testing.assert_array_equal(one, again)
    assert all(np.abs(one[i] - other[i]).max() > 1e-3 and np.abs(one[i] - none[i]).max() > 1e-3 for i in range(3))


@pytest.mark.slow
def test_bfloat16_stays_near():
    y, near = (run(n, params_of(TOLD), *inputs(TOLD)) for n in (TOLD, TOLD.clone(dtype=jnp.bfloat16)))
    assert near.dtype == jnp.float32 and np.any(near != y)
    # bfloat16 keeps 8 bits, and some dozen roundings add up
    assert np.linalg.norm(near - y) < 0.1 * np.linalg.norm(y)


@pytest.mark.slow
def test_remat_gives_the_same_output_and_gradient():
    network, shape = small(multipliers=(1,), attention=(), dropout=0.3), (2, 4, 4, 1)
    params, args, keys = params_of(network, shape), inputs(network, shape), jax.random.split(KEY, 2)

    def loss(network):
        of = lambda p: jnp.mean(network.apply({"params": p}, *args, dropout_keys=keys) ** 2)  # noqa: E731
        return jax.jit(jax.value_and_grad(of))(params)

    (value, slope), (again, slope_again) = loss(network), loss(network.clone(remat=True))
    np.testing.assert_allclose(again, value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), slope_again, slope)


# Conditions, sizes, build


def test_labels_count_and_one_out_of_range_gives_nan_in_its_row_alone():
    x, c, cond = inputs(TOLD)
    y = run(TOLD, params_of(TOLD), x, c, {"label": np.array([4, 2, -1])})
    np.testing.assert_array_equal(np.isnan(y).all((1, 2, 3)), [True, False, True])
    np.testing.assert_allclose(y[1], run(TOLD, params_of(TOLD), x, c, cond)[1], rtol=1e-5)
    other = run(TOLD, params_of(TOLD), x, c, {"label": np.array([0, 3, 0])})
    assert np.abs(other[1] - y[1]).max() > 1e-3


def test_a_missing_or_unknown_condition_is_an_error():
    x, c, label = jax.eval_shape(lambda: tuple(inputs(TOLD)))
    with pytest.raises(ValueError, match="needs the condition 'label'"):
        jax.eval_shape(TOLD.init, KEY, x, c)
    with pytest.raises(ValueError, match="does not know the condition 'label', only none: leave it out"):
        jax.eval_shape(small().init, KEY, x, c, label)
    with pytest.raises(ValueError, match="does not know the condition 'text', only label"):
        jax.eval_shape(TOLD.init, KEY, x, c, {**label, "text": label["label"]})


@pytest.mark.parametrize(
    "options, shape, message",
    [
        (dict(), (8, 7, 1), "8x7 is not divisible by 2, the downsampling of a UNetEDM2 with 2 multipliers: resize"),
        (dict(multipliers=()), (8, 8, 1), "leaves no level: give at least one"),
        (dict(attention=(16,)), (8, 8, 1), "attention: 16 is the size of no level: images of 8x8 have levels of 8, 4"),
        (dict(head_dim=0), (8, 8, 1), "head_dim=0 is not allowed: expected at least 1"),
        (dict(blocks=0), (8, 8, 1), "blocks=0 is not allowed: expected at least 1"),
        (dict(head_dim=3), (8, 8, 1), "channels 8 x multiplier 2 is not divisible by head_dim=3: choose a head_dim"),
        (dict(head_dim=16, attention=(8,)), (8, 4, 1), "channels 8 x multiplier 1 is not divisible by head_dim=16"),
    ],
)
def test_impossible_sizes_are_refused_before_tracing(options, shape, message):
    with pytest.raises(ValueError, match=message):
        check_edm2(small(**options), shape)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(small(**options).init, KEY, np.zeros((1, *shape), np.float32), np.zeros(1, np.float32))


def test_a_level_that_does_not_attend_may_have_any_width():
    check_edm2(small(head_dim=16), (8, 8, 1))


def test_unit_weights_of_a_network_without_are_refused_before_anything_is_written(tmp_path):
    config = dict(data=dict(name="fake", n=8, shape=(8, 8, 1)), process=dict(name="EDM"), prediction=dict(name="edm"))
    config |= dict(network=dict(name="UNet", channels=8, groups=4, attention=()), train=dict(batch_size=8))
    config |= dict(optimizer=dict(unit_weights=True))
    with pytest.raises(ValueError, match=r"^optimizer.unit_weights: no parameter is named weight"):
        loop.train(configs.complete(config), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_rate_that_falls_in_two_ways_is_refused():
    config = configs.load(f"{ROOT}/experiments/imagenet64_edm2.py:quick")
    config["optimizer"]["decay_steps"] = 100
    with pytest.raises(
        ValueError, match=r"^optimizer.decay_after: 35000 is not allowed beside optimizer.decay_steps, 100"
    ):
        configs.complete(config)


def test_build_makes_the_network_and_refuses_data_that_do_not_fit():
    spec = dict(name="UNetEDM2", channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_dim=8)
    assert build.make("network", spec, "network", num_classes=3, out_channels=1) == small(num_classes=3, out_channels=1)
    config = dict(data=dict(name="fake", n=8, shape=(8, 7, 1)), process=dict(name="EDM"), prediction=dict(name="edm"))
    with pytest.raises(ValueError, match=r"^network: image size 8x7 is not divisible by 2"):
        build.experiment(configs.complete(config | dict(network=spec)))
