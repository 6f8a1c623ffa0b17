"""Networks: published sizes, identities at initialization, closed forms of the layers, independence of examples."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launcher import compiled
from networks import jitted, keys_from, normal, run, share_in_bfloat16, specs, stirred, thinned
from oracle import precision

from diffax.models import MLP, DiT, TextTransformer, UNet, check_shape, conditioning, init, initializers, layers, shapes

KEY = jax.random.key(0)


def spec(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def small(**options):
    defaults = dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4, num_classes=3)
    return UNet(**{**defaults, **options})


@functools.cache
def initial(network, shape):
    return init(network, KEY, *specs(inputs(network, shape)))


@functools.cache
def scrambled(network, shape, seed=1):
    """Parameters with nothing at zero, so that every path of the network counts."""
    return stirred(initial(network, shape), seed)


def inputs(network, shape, seed=2):
    rng = np.random.default_rng(seed)
    batch, cond = shape[0], {}
    if network.num_classes:
        cond["label"] = rng.integers(0, network.num_classes + 1, batch).astype(np.int32)
    if getattr(network, "text", None) is not None:
        text = [[1] + [2 + (3 * i + j) % 7 for j in range(i)] + [0] * (4 - i) for i in range(batch)]
        cond["text"] = np.asarray(text, np.int32)
    if getattr(network, "image", False):
        cond |= {"image": normal(seed + 1, (batch, 3, 2, 1)), "image_mask": np.arange(batch) != 1}
    for name in getattr(network, "vectors", ()):
        cond |= {name: normal(seed + 2, (batch, 5)), f"{name}_mask": np.arange(batch) != 2}
    return [normal(seed, shape), rng.uniform(0, 999, shape[:1]).astype(np.float32), cond]


PLAIN = small()
READER = TextTransformer(9, width=8, layers=1, head_dim=4)
NCSNPP = dict(residual_resampling=True, fir=True, skip_conv=True, skip_rescale=True)
NCSNPP |= dict(progressive_input=True, attend_once=True, fourier=16.0)
NETWORKS = {
    "additive": (small(num_classes=0, dropout=0.3), (3, 8, 8, 2)),
    "adaptive": (small(adaptive=True, dropout=0.3), (3, 8, 8, 1)),
    "residual": (small(residual_resampling=True, head_dim=4, dropout=0.3, out_channels=5), (3, 8, 4, 2)),
    "ncsnpp": (small(**NCSNPP, remat=True, dropout=0.3), (3, 8, 8, 1)),
    "told": (
        small(
            text=READER,
            cross_attention=(8,),
            vectors=("v",),
            image=True,
            dropout=0.3,
        ),
        (3, 8, 8, 1),
    ),
    "dit": (DiT(width=16, depth=2, heads=2, num_classes=3, dropout=0.3, frequencies=8), (3, 4, 4, 1)),
    "mlp": (MLP(features=16, blocks=2, num_classes=3, dropout=0.3), (3, 2)),
}
LONG = {"additive", "residual", "ncsnpp"}  # what they have that others have not is in other tests
every_network = pytest.mark.parametrize(
    "network, shape",
    [pytest.param(*case, id=name, marks=[pytest.mark.slow] * (name in LONG)) for name, case in NETWORKS.items()],
)


# Sizes


@pytest.mark.parametrize(
    "network, shape, published",
    [
        # arXiv:2006.11239, App. B: 35.7M for CIFAR-10, 114M for LSUN at 256; exact counts of the released checkpoints
        (UNet(dropout=0.1), (1, 32, 32, 3), 35_746_307),
        (UNet(multipliers=(1, 1, 2, 2, 4, 4)), (1, 256, 256, 3), 113_673_219),
    ],
)
def test_published_parameter_counts(network, shape, published):
    params = jax.eval_shape(network.init, KEY, *specs(inputs(network, shape)))["params"]
    assert sum(p.size for p in jax.tree.leaves(params)) == published
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}


# Identities at initialization


@every_network
def test_a_new_network_predicts_zero(network, shape):
    y = run(network, initial(network, shape), *inputs(network, shape))
    assert y.dtype == jnp.float32 and not np.any(y)
    assert y.shape == (*shape[:-1], getattr(network, "out_channels", None) or shape[-1])


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("resample", [None, layers.upsample, layers.downsample])
def test_a_new_residual_block_is_its_skip_path(adaptive, resample):
    x, condition = normal(0, (2, 4, 4, 8)), normal(1, (2, 16))
    block = layers.ResBlock(8, groups=4, adaptive=adaptive, resample=resample)
    params = init(block, KEY, spec(x.shape), spec(condition.shape))
    expected = x if resample is None else jax.jit(resample)(x)
    np.testing.assert_array_equal(jitted(block)({"params": params}, x, condition), expected)


def test_a_new_attention_block_is_the_identity():
    x = normal(0, (2, 4, 4, 8))
    block = layers.AttentionBlock(groups=4)
    np.testing.assert_array_equal(jitted(block)({"params": init(block, KEY, spec(x.shape))}, x), x)


# Initial values


@pytest.mark.slow
def test_initial_values_are_the_same_by_every_route():
    network, shape = small(adaptive=True, multipliers=(1,)), (1, 4, 4, 1)
    params = init(network, KEY, *specs(inputs(network, shape)))
    arrays = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), specs(inputs(network, shape)))
    jitted = jax.jit(network.init)(KEY, *arrays)["params"]
    lazy = network.lazy_init(KEY, *specs(inputs(network, shape)))["params"]
    assert jax.tree.structure(params) == jax.tree.structure(jitted) == jax.tree.structure(lazy)
    jax.tree.map(np.testing.assert_array_equal, params, jitted)
    jax.tree.map(np.testing.assert_array_equal, params, lazy)


def test_initial_values_depend_on_key_and_layer():
    args = specs(inputs(PLAIN, (1, 8, 8, 1)))
    one, two = (init(PLAIN, jax.random.key(seed), *args) for seed in (0, 1))
    kernels = [
        one["middle_0"]["conv_0"]["kernel"],
        one["middle_1"]["conv_0"]["kernel"],
        two["middle_0"]["conv_0"]["kernel"],
    ]
    assert kernels[0].shape == kernels[1].shape == kernels[2].shape
    assert len({np.asarray(k).tobytes() for k in kernels}) == 3


def test_init_compiles_nothing_for_new_parameter_shapes():
    init(PLAIN, KEY, *specs(inputs(PLAIN, (1, 8, 8, 1))))
    other = small(channels=20, groups=5)
    assert compiled(init, other, KEY, *specs(inputs(other, (1, 8, 8, 1)))) == []
    assert compiled(jax.jit(lambda x: x + 1), np.zeros(3))  # something is counted


@pytest.mark.parametrize("shape", [(300, 200), (3, 3, 40, 60)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_fan_avg_uniform_has_glorot_bounds(shape, scale):
    w = np.asarray(initializers.fan_avg_uniform(scale)(KEY, shape))
    n = np.prod(shape[:-2]) * (shape[-2] + shape[-1]) / 2
    assert w.dtype == np.float32 and abs(w).max() <= np.sqrt(3 * scale / n)
    # the variance of U(-a, a) is a^2/3, that of its square 4a^4/45: five standard errors
    assert abs(w.var() - scale / n) < 5 * np.sqrt(4 / 5 / w.size) * scale / n
    assert abs(w.mean()) < 5 * np.sqrt(scale / n / w.size)


def test_normal_initializer_moments():
    w = np.asarray(initializers.normal(0.3)(KEY, (400, 500)))
    assert abs(w.std() - 0.3) < 5 * 0.3 / np.sqrt(2 * w.size) and abs(w.mean()) < 5 * 0.3 / np.sqrt(w.size)


def test_host_initializers_under_vmap():
    keys = jax.random.split(KEY, 3)
    initializer = initializers.normal(1.0)
    stacked = jax.vmap(lambda key: initializer(key, (2, 5)))(keys)
    np.testing.assert_array_equal(stacked, np.stack([initializer(key, (2, 5)) for key in keys]))


# Closed forms


def test_sinusoidal_embedding_formula():
    c, dim = np.array([0.0, 1.0, 37.5, 999.0]), 10
    rates = 10_000.0 ** (-np.arange(5) / 4)
    expected = np.concatenate([np.sin(c[:, None] * rates), np.cos(c[:, None] * rates)], axis=1)
    embedded = jax.jit(conditioning.sinusoidal, static_argnums=1)(c.astype(np.float32), dim)
    np.testing.assert_allclose(embedded, expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 12), (2, 5, 12), (2, 3, 4, 12), (2, 2, 3, 2, 12)])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_group_norm_against_float64(shape, offset):
    x = np.random.default_rng(0).standard_normal(shape) * 3 + offset
    x = x.astype(np.float32)
    scale, bias = np.linspace(0.5, 2, 12), np.linspace(-1, 1, 12)
    grouped = x.astype(np.float64).reshape(2, -1, 3, 4)
    mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    expected = ((grouped - mean) / np.sqrt(var + 1e-6)).reshape(shape) * scale + bias
    y = layers.group_norm(x, scale.astype(np.float32), bias.astype(np.float32), 3)
    np.testing.assert_allclose(y, expected, atol=1e-5 * (1 + offset / 10))


def test_derivatives_of_group_norm_are_those_of_its_definition():
    x, direction, cotangent = (normal(i, (2, 3, 3, 8)) for i in range(3))
    scale, bias = normal(3, (2, 8)), normal(4, (8,))

    eps, deps = np.float32(0.1), np.float32(0.5)

    def definition(x, scale, bias, groups, eps):
        grouped = x.reshape(2, 9, groups, -1)
        mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
        y = ((grouped - mean) / jnp.sqrt(var + eps)).reshape(x.shape)
        return y * scale[:, None, None] + bias

    def derivatives(norm):
        def value(x, scale, bias, eps):
            return jnp.sum(jnp.sin(norm(x, scale, bias, 2, eps)) * cotangent)

        def curvature(x, scale, bias, eps):  # as score matching has it, with a gradient of its own
            gradient = functools.partial(jax.grad(value), scale=scale, bias=bias, eps=eps)
            return jnp.vdot(direction, jax.jvp(gradient, (x,), (direction,))[1])

        def all_of(*args):
            forward = jax.jvp(value, args, (direction, scale, bias, deps))[1]
            return forward, jax.grad(value, (0, 1, 2, 3))(*args), jax.grad(curvature, (0, 1, 2, 3))(*args)

        return jax.jit(all_of)(x, scale, bias, eps)

    for ours, expected in zip(*(jax.tree.leaves(derivatives(norm)) for norm in (layers.group_norm, definition))):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_integers_scale_and_shift_a_group_norm():
    @jax.jit
    def slopes(x):
        loss = lambda x, scale, bias: jnp.sum(layers.group_norm(x, scale, bias, 4) ** 3)  # noqa: E731
        pairs = (2, jnp.zeros(8, int)), (jnp.full(8, 2.0), jnp.zeros(8))
        return [jax.grad(loss)(x, *pair) for pair in pairs]

    np.testing.assert_array_equal(*slopes(normal(0, (2, 3, 3, 8))))


def test_group_norm_of_a_constant_is_the_bias():
    x, scale, bias = np.full((2, 4, 4, 8), 1e4, np.float32), np.ones(8, np.float32), np.arange(8, dtype=np.float32)
    np.testing.assert_allclose(layers.group_norm(x, scale, bias, 2), np.broadcast_to(bias, x.shape), atol=2e-3)


def test_adaptive_group_norm_scales_and_shifts_the_plain_one():
    x, s, b = normal(0, (2, 3, 3, 8)), normal(1, (2, 8)), normal(2, (2, 8))
    params = {"scale": normal(3, (8,)), "bias": normal(4, (8,))}
    modulations = None, np.concatenate([s, b], axis=-1)
    norm = layers.GroupNorm(groups=4)
    plain, adaptive = jax.jit(lambda x: [norm.apply({"params": params}, x, m) for m in modulations])(x)
    np.testing.assert_allclose(adaptive, np.asarray(plain) * (1 + s[:, None, None]) + b[:, None, None], atol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (5, 3), (2, 4, 3), (2, 4, 5, 3)], ids=str)
def test_a_dense_layer_is_one_product_whatever_the_axes(shape):
    layer, x, kernel = layers.dense(6, dtype=jnp.float32, name="any"), normal(0, shape), normal(1, (3, 6))
    bias, above = np.arange(6, dtype=np.float32), normal(2, (*shape[:-1], 6))

    @jax.jit
    def both(kernel, above):
        y, back = jax.vjp(lambda kernel: layer.apply({"params": {"kernel": kernel, "bias": bias}}, x), kernel)
        return y, back(above)[0]

    y, down = both(kernel, above)
    np.testing.assert_allclose(y, x @ kernel + bias, rtol=1e-5, atol=1e-5)
    expected = np.tensordot(x, above, axes=(tuple(range(x.ndim - 1)),) * 2)
    np.testing.assert_allclose(down, expected, rtol=1e-5, atol=1e-5)
    # each product sums over one axis, in the forward and in the backward pass
    program = str(jax.make_jaxpr(both)(kernel, above))
    assert re.findall(r"dimension_numbers=\(\(\[(.*?)\]", program) == ["1", "0"]


def test_attention_against_explicit_softmax():
    x = normal(0, (2, 3, 4, 8))
    block = layers.AttentionBlock(groups=4, head_dim=4)
    params = jax.tree.map(lambda p: normal(p.size, p.shape), init(block, KEY, spec(x.shape)))
    normed = lambda x: layers.group_norm(x, params["norm"]["scale"], params["norm"]["bias"], 4)  # noqa: E731
    h, y = jax.jit(lambda x: (normed(x), block.apply({"params": params}, x)))(x)
    qkv = np.asarray(h, np.float64) @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    q, k, v = np.moveaxis(qkv.reshape(2, 12, 3, 2, 4), 2, 0)
    weights = np.exp(np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(4))
    weights /= weights.sum(-1, keepdims=True)
    h = np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 3, 4, 8)
    expected = x + h @ params["project"]["kernel"] + params["project"]["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_attention_block_commutes_with_permutations_of_positions():
    x = normal(0, (2, 12, 8))
    block = layers.AttentionBlock(groups=4)
    params = jax.tree.map(lambda p: normal(p.size, p.shape), init(block, KEY, spec(x.shape)))
    order = np.random.default_rng(0).permutation(12)
    y, permuted = (np.asarray(jitted(block)({"params": params}, a)) for a in (x, x[:, order]))
    np.testing.assert_allclose(permuted, y[:, order], rtol=1e-4, atol=1e-4)


def test_a_patch_is_a_position_with_more_channels():
    network, (height, width) = small(patch=2, multipliers=(1,), attention=(), num_classes=0), (4, 6)
    x, c_noise, _ = inputs(network, (2, height, width, 3))
    cells = np.stack([[x[b, i : i + 2, j : j + 2].ravel() for i in (0, 2) for j in (0, 2, 4)] for b in range(2)])
    params = scrambled(network, x.shape)
    y = run(network, params, x, c_noise)
    z = run(network.clone(patch=1), params, cells.reshape(2, 2, 3, 12), c_noise)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_array_equal(y[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(2, -1), z[:, i, j])


def test_resampling_closed_forms():
    x = normal(0, (2, 3, 5, 4))
    wide = jax.jit(layers.upsample)(x)
    np.testing.assert_array_equal(wide, np.repeat(np.repeat(x, 2, axis=1), 2, axis=2))
    np.testing.assert_allclose(jax.jit(layers.downsample)(wide), x, rtol=1e-6)


# One key per example


@every_network
def test_examples_do_not_depend_on_their_neighbors(network, shape):
    params, args = scrambled(network, shape), inputs(network, shape)
    seeds = np.arange(shape[0])
    whole = run(network, params, *args, keys=keys_from(seeds))
    for i in range(shape[0]):
        *others, same = jax.tree.map(lambda a: a[np.full(len(a), i)], [*args, seeds])  # noqa: B023
        np.testing.assert_allclose(run(network, params, *others, keys=keys_from(same))[i], whole[i], rtol=1e-5)


@pytest.mark.parametrize("name", thinned(("residual", "dit", "mlp"), "dit", "mlp"))
def test_an_example_alone_is_as_in_a_batch(name):
    network, shape = NETWORKS[name]
    params, args = scrambled(network, shape), inputs(network, shape)
    seeds = np.arange(shape[0])
    alone = run(network, params, *jax.tree.map(lambda a: a[1:2], args), keys=keys_from(seeds[1:2]))
    np.testing.assert_allclose(alone[0], run(network, params, *args, keys=keys_from(seeds))[1], rtol=1e-4, atol=1e-4)


@every_network
def test_dropout_follows_its_key(network, shape):
    params, args = scrambled(network, shape), inputs(network, shape)
    keys = [keys_from(np.arange(shape[0]) + seed) for seed in (0, 0, 10)]
    one, again, other, none = (run(network, params, *args, keys=k) for k in (*keys, None))
    np.testing.assert_array_equal(one, again)
    assert all(np.abs(one[i] - other[i]).max() > 1e-3 for i in range(shape[0]))
    assert all(np.abs(one[i] - none[i]).max() > 1e-3 for i in range(shape[0]))


def test_dropout_rate_and_mean():
    ones, keys = np.ones((4, 100, 100), np.float32), keys_from(np.arange(4))
    both = jax.jit(lambda x, keys: [layers.dropout(x, keys, 0.3, layer) for layer in (7, 8)])
    y, other = map(np.asarray, both(ones, keys))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.7)}
    # five standard errors of a binomial share
    assert np.all(abs((y == 0).mean((1, 2)) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 10_000))
    assert np.all(abs(((y == 0) & (other == 0)).mean((1, 2)) - 0.09) < 5 * np.sqrt(0.09 * 0.91 / 10_000))
    np.testing.assert_array_equal(layers.dropout(ones, None, 0.3, 7), ones)


# Classes


def test_the_null_class_is_a_row_of_its_own_and_gets_its_own_gradient():
    network, shape = small(multipliers=(1,), attention=()), (2, 4, 4, 1)
    params = scrambled(network, shape)
    x, c, _ = inputs(network, shape)

    def loss(classes, label):
        told = {**params, "conditioning": {**params["conditioning"], "classes": classes}}
        return jnp.sum(network.apply({"params": told}, x, c, {"label": label}) ** 2)

    gradient = jax.jit(jax.grad(loss))(params["conditioning"]["classes"], np.array([1, 3]))
    np.testing.assert_array_equal(np.any(np.asarray(gradient) != 0, axis=1), [False, True, False, True])


@pytest.mark.parametrize("n", [1024, 1025])
def test_a_lookup_is_the_rows_bit_for_bit_and_its_gradient_their_sum(n):
    rng = np.random.default_rng(0)
    table, weight, index = rng.standard_normal((n, 3)), rng.standard_normal((2, 4, 3)), rng.integers(0, n, (2, 4))
    index[0] = [0, n - 1, -1, n]
    there = (index >= 0) & (index < n)
    table, weight, index = table.astype(np.float32), weight.astype(np.float32), index.astype(np.int32)

    @jax.jit
    def told(table):
        found, pulled = jax.vjp(lambda table: layers.lookup(table, index), table)
        return found, pulled(jnp.asarray(weight))[0]

    with jax.numpy_dtype_promotion("strict"):
        found, gradient = map(np.asarray, told(table))
    np.testing.assert_array_equal(found[there], table[index[there]])
    assert np.isnan(found[~there]).all()
    expected = np.zeros((n, 3))
    np.add.at(expected, index[there], weight[there])
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    # GPU and TPU round what a product takes, the gradient's too, unless they are told not to
    program = str(jax.make_jaxpr(told)(table))
    assert program.count("dot_general") * 2 == program.count("Precision.HIGHEST") == (4 if n <= 1024 else 0)


def test_a_label_out_of_range_gives_nan_in_its_row_alone():
    network, shape = NETWORKS["adaptive"]
    x, c, _ = inputs(network, shape)
    y = run(network, scrambled(network, shape), x, c, {"label": np.array([4, 0, -1])})
    np.testing.assert_array_equal(np.isnan(y).all((1, 2, 3)), [True, False, True])
    assert np.isfinite(y[1]).all()


@pytest.mark.parametrize("network, shape", [(small(), (2, 8, 8, 1)), (MLP(num_classes=3), (2, 2))])
def test_a_missing_or_unknown_condition_is_an_error(network, shape):
    with pytest.raises(ValueError, match=r"needs the condition 'label': pass cond=dict\(label=...\) \(num_classes is"):
        jax.eval_shape(network.init, KEY, spec(shape), spec(shape[:1]))
    plain = network.clone(num_classes=0)
    label = spec(shape[:1], jnp.int32)
    with pytest.raises(ValueError, match="does not know the condition 'label', only none: leave it out"):
        jax.eval_shape(plain.init, KEY, spec(shape), spec(shape[:1]), {"label": label})
    with pytest.raises(ValueError, match="does not know the condition 'text', only label"):
        jax.eval_shape(network.init, KEY, spec(shape), spec(shape[:1]), {"label": label, "text": label})


# Shapes


@pytest.mark.parametrize(
    "options, shape, message",
    [
        (dict(), (8, 7, 1), "8x7 is not divisible by 2"),
        (dict(multipliers=(1, 2, 2, 2)), (28, 28, 1), "28x28 is not divisible by 8"),
        (dict(multipliers=()), (8, 8, 1), "leaves no level: give at least one"),
        (dict(patch=0), (8, 8, 1), "patch=0 is not allowed: expected at least 1"),
        (dict(patch=3), (12, 10, 1), "12x10 is not divisible by 6, .* with 2 multipliers and patch=3"),
        (dict(attention=(8, 5)), (8, 6, 1), "attention: 5 is the size of no level: images of 8x6 have levels of 8, 4"),
        (dict(attention=(16,), patch=2), (16, 8, 1), "attention: 16 is the size of no level: .* have levels of 8, 4"),
        (dict(cross_attention=(16,), text=READER), (8, 8, 1), "cross_attention: 16 is the size of no level"),
        (dict(cross_attention=(8,)), (8, 8, 1), r"cross_attention=\(8,\) needs text: set text to a TextTransformer"),
        (dict(channels=10), (8, 8, 1), "channels 10 x multiplier 1 is not divisible by groups=4"),
        (
            dict(channels=6, multipliers=(2,), attention=()),
            (8, 8, 1),
            "channels 6 x multiplier 1 is not divisible by groups=4",
        ),
        (dict(head_dim=3), (8, 8, 1), "channels 8 x multiplier 1 is not divisible by head_dim=3"),
        (dict(head_dim=0), (8, 8, 1), "head_dim=0 is not allowed: expected at least 1"),
        (dict(input_frequencies=(7, 200)), (8, 8, 1), "input_frequencies: 200 is not allowed: expected 0 to 16"),
        (dict(fir=True), (8, 8, 1), "fir=True is for residual blocks that resample: set residual_resampling=True"),
        (dict(skip_conv=True), (8, 8, 1), "skip_conv=True is for residual blocks"),
    ],
)
def test_impossible_shapes_are_refused_before_tracing(options, shape, message):
    network = small(num_classes=0, **options)
    with pytest.raises(ValueError, match=message):
        check_shape(network, shape)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, KEY, spec((1, *shape)), spec((1,)))


def test_check_shape_accepts_what_the_network_takes():
    check_shape(small(), (8, 4, 3))
    check_shape(small(), (9, 6, 8, 3))


# Precision and memory


@pytest.mark.parametrize("name", thinned(("adaptive", "residual", "ncsnpp", "dit", "mlp"), "adaptive", "dit", "mlp"))
def test_bfloat16_compute_keeps_float32_parameters_and_stays_near(name):
    network, shape = NETWORKS[name]
    half = network.clone(dtype=jnp.bfloat16)
    params = scrambled(network, shape)
    assert {p.dtype for p in jax.tree.leaves(init(half, KEY, *specs(inputs(half, shape))))} == {jnp.dtype("float32")}
    y, y_half = (run(n, params, *inputs(network, shape)) for n in (network, half))
    assert y_half.dtype == jnp.float32
    # bfloat16 keeps 8 bits, and some dozen roundings add up
    assert np.linalg.norm(y_half - y) < 0.1 * np.linalg.norm(y)
    assert np.any(y_half != y)
    assert share_in_bfloat16(half, params, *inputs(network, shape)) > 0.5


@pytest.mark.slow
def test_remat_gives_the_same_output_and_gradients():
    network, shape = small(adaptive=True, multipliers=(1,), dropout=0.3), (2, 4, 4, 1)
    params, args = scrambled(network, shape), inputs(network, shape)
    keys = jax.random.split(KEY, 2)

    def loss(network):
        mean_square = lambda p: jnp.mean(network.apply({"params": p}, *args, dropout_keys=keys) ** 2)  # noqa: E731
        return jax.jit(jax.value_and_grad(mean_square))

    value, gradient = loss(network)(params)
    value_again, gradient_again = loss(network.clone(remat=True))(params)
    np.testing.assert_allclose(value_again, value, rtol=1e-5)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), gradient_again, gradient)


@pytest.mark.slow
def test_forward_and_reverse_mode_agree():
    network, shape = small(adaptive=True, multipliers=(1,)), (2, 4, 4, 1)
    params, args = scrambled(network, shape), inputs(network, shape)
    direction = jax.tree.map(lambda p: normal(p.size, p.shape), params)

    @jax.jit
    def both(params):
        loss = lambda p: jnp.mean(network.apply({"params": p}, *args) ** 2)  # noqa: E731
        forward = jax.jvp(loss, (params,), (direction,))[1]
        return forward, sum(jax.tree.leaves(jax.tree.map(jnp.vdot, jax.grad(loss)(params), direction)))

    forward, backward = both(params)
    np.testing.assert_allclose(forward, backward, rtol=1e-4)


def test_any_linen_module_can_be_initialized():
    module = nn.Dense(3)
    params = init(module, KEY, spec((2, 5)))
    jax.tree.map(np.testing.assert_allclose, params, module.init(KEY, jnp.zeros((2, 5)))["params"])


class DataDependent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", lambda key: 1 / x.std(0))


class NumPyDraws(nn.Module):
    @nn.compact
    def __call__(self, x):
        rotation = lambda key: np.linalg.qr(np.asarray(jax.random.normal(key, (5, 5))))[0]  # noqa: E731
        return x @ self.param("rotation", rotation)


def test_parameters_that_hang_on_the_data_are_refused():
    with pytest.raises(ValueError, match="parameters of DataDependent depend on its inputs"):
        init(DataDependent(), KEY, spec((2, 5)))


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        options = dict(variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        layers = nn.scan(lambda module, x, _: (nn.Dense(5)(x), None), **options)
        return layers(self, x, None)[0]


def test_parameters_under_a_scan_do_not_hang_on_the_data():
    x = np.zeros((2, 5), np.float32)
    with precision(32):
        params, expected = init(Scanned(), KEY, spec(x.shape)), jax.jit(Scanned().init)(KEY, x)["params"]
    shapes = jax.eval_shape(lambda: init(Scanned(), KEY, spec(x.shape)))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    # one by one or in a fused loop: the same draws, up to a rounding on some processors
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), params, expected)


class Told(nn.Module):
    sizes: tuple

    @nn.compact
    def __call__(self, x):
        traced.append(self.sizes)
        for size in self.sizes:
            x = nn.Dense(size, use_bias=False, kernel_init=initializers.normal())(x)
        return x


traced = []


@pytest.mark.parametrize("module", [Told((3, 2)), Told([3, 2]), Scanned(), NumPyDraws()], ids=repr)
def test_shapes_are_those_of_the_parameters(module):
    of_key, of_nothing = (shapes(module, key, spec((2, 5))) for key in (KEY, jax.eval_shape(lambda: KEY)))
    params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), init(module, KEY, spec((2, 5))))
    assert of_key == of_nothing == params


def test_shapes_and_parameters_need_the_network_traced_once():
    """And anew in another precision, or for a module that is equal, which may have 1.0 where this one has 1."""
    module = Told((7,))
    del traced[:]
    for _ in range(2):
        shapes(module, KEY, spec((2, 5)))
        init(module, KEY, spec((2, 5)))
    assert traced == [(7,)]
    with precision(64):
        init(module, KEY, spec((2, 5)))
    init(Told((7,)), KEY, spec((2, 5)))
    assert traced == [(7,)] * 3


def test_initializers_may_compute_in_numpy():
    rotation = init(NumPyDraws(), KEY, spec((2, 5)))["rotation"]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(5), atol=1e-5)
    np.testing.assert_array_equal(rotation, NumPyDraws().init(KEY, jnp.zeros((2, 5)))["params"]["rotation"])
