"""Diffusion transformers: published sizes, a second implementation, identities, scanned layers, refusals."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer_reference as reference
from jax.sharding import NamedSharding, PartitionSpec
from networks import answer, jitted, keys_from, run, share_in_bfloat16, specs, stirred

from diffax import build, parallel
from diffax.models import DiT, MMDiT, TextEmbeddings, TextTransformer, check_tokens, init, layers, transformer
from diffax.models.patches import patchify, unpatchify
from diffax.train import decayed

KEY = jax.random.key(0)
SHAPE = (2, 4, 6, 3)
POLICY = jax.checkpoint_policies.dots_saveable
TOKENS = TextTransformer(vocabulary=7, width=12, layers=1, head_dim=4)
EMBEDDINGS = TextEmbeddings(width=12)


def small(**options):
    return DiT(**{**dict(width=16, depth=3, heads=2, num_classes=3, frequencies=8), **options})


def joint(**options):
    return MMDiT(**{**dict(width=16, depth=3, heads=2, text=EMBEDDINGS, frequencies=8), **options})


NETWORKS = {
    "plain": small(num_classes=0),
    "rotary": small(rotary=True, qk_norm=True, swiglu=True, registers=2, vectors=("pose",), out_channels=5),
    "skips": small(long_skips=True, patch=1, depth=5),
    "cross": small(text=TOKENS, cross_attention=True, qk_norm=True, rotary=True, num_classes=0),
    "joint": joint(rotary=True, swiglu=True, registers=2, num_classes=3),
    "joint_plain": joint(text=TOKENS, qk_norm=False, depth=1),
}
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def inputs(network, shape=SHAPE, seed=2):
    """x, c_noise and all conditions; the second example's text is shorter."""
    rng = np.random.default_rng(seed)
    cond = {name: rng.standard_normal((shape[0], 5)).astype(np.float32) for name in network.vectors}
    if network.num_classes:
        cond["label"] = rng.integers(0, network.num_classes + 1, shape[0])
    if isinstance(network.text, TextTransformer):
        cond["text"] = rng.integers(1, 7, (shape[0], 4)) * ~np.tri(shape[0], 4, 1, dtype=bool)[:, ::-1]
        cond["text"][0] = [1, 2, 3, 4]
    elif network.text is not None:
        cond["text"] = rng.standard_normal((shape[0], 4, 6)).astype(np.float32)
        cond["text_mask"] = np.arange(4) < 4 - np.arange(shape[0])[:, None] % 4
    x = rng.standard_normal(shape).astype(np.float32)
    return x, rng.uniform(0, 9, shape[:1]).astype(np.float32), cond


@functools.cache
def initial(network):
    return init(network, KEY, *specs(inputs(network)))


@functools.cache
def scrambled(network):
    """Parameters with nothing at zero, so that every path of the network counts."""
    return stirred(initial(network))


# Sizes

SIZES = dict(S=(384, 12, 6), B=(768, 12, 12), L=(1024, 24, 16), XL=(1152, 28, 16))


def count(width, depth, patch, channels=4, out=8, classes=1000, frequencies=256):
    """Parameters of the paper's network, term by term: weights and biases of every linear map."""
    patches = patch**2 * channels * width + width
    noise_level = (frequencies * width + width) + (width * width + width)
    labels = (classes + 1) * width
    attention = (3 * width * width + 3 * width) + (width * width + width)
    perceptron = (4 * width * width + 4 * width) + (4 * width * width + width)
    modulation = 6 * width * width + 6 * width
    last = (2 * width * width + 2 * width) + (patch**2 * out * width + patch**2 * out)
    return patches + noise_level + labels + depth * (attention + perceptron + modulation) + last


@pytest.mark.parametrize("size, patch", [*itertools.product(SIZES, (2,)), ("B", 4), ("XL", 8)])
def test_published_parameter_counts(size, patch):
    width, depth, heads = SIZES[size]
    network = DiT(8, patch, width, depth, heads, num_classes=1000)
    args = specs((np.zeros((1, 32, 32, 4), np.float32), np.zeros(1, np.float32), {"label": np.zeros(1, np.int32)}))
    leaves = jax.tree.leaves(jax.eval_shape(network.init, KEY, *args))
    total = sum(p.size for p in leaves)
    assert total == count(width, depth, patch)
    assert {p.dtype for p in leaves} == {jnp.dtype("float32")}
    # arXiv:2212.09748, Table 4 (millions): it counts the embedding of places too, which has no gradient
    published = {("S", 2): 33, ("B", 2): 130, ("B", 4): 130, ("L", 2): 458, ("XL", 2): 675}
    if (size, patch) in published:
        assert abs((total + (32 // patch) ** 2 * width) / 1e6 - published[size, patch]) < 1
    if (size, patch) == ("XL", 2):
        assert total == 674_834_720 and total + 256 * 1152 == 675_129_632  # the released checkpoint's


def test_swiglu_has_about_as_many_parameters():
    h = jax.ShapeDtypeStruct((1, 1, 384), jnp.float32)
    sizes = []
    for gated in (False, True):
        params = jax.eval_shape(transformer.Perceptron(gated).init, KEY, h)
        sizes.append(sum(p.size for p in jax.tree.leaves(params)))
    assert abs(sizes[1] / sizes[0] - 1) < 0.005


# A second implementation


@every_network
def test_the_network_is_that_of_the_formulas(network):
    x, c, cond = inputs(network)
    params = scrambled(network)
    y = run(network, params, x, c, cond)
    text = None
    if network.text is not None:
        text = jitted(network.text)({"params": params["text"]}, cond["text"], cond.get("text_mask"))
        text = [np.asarray(a, bool if a.dtype == bool else np.float64) for a in text]
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    for i in range(len(x)):
        said = None if text is None else [a[i] for a in text]
        vectors = {name: cond[name][i] for name in network.vectors}
        label = cond["label"][i] if network.num_classes else None
        expected = reference.dit(
            wide, network, x[i].astype(np.float64), c[i], label, said, vectors, joint=isinstance(network, MMDiT)
        )
        assert y[i].shape == expected.shape
        np.testing.assert_allclose(y[i], expected, atol=1e-4 * abs(expected).max())


def test_patches_come_row_by_row():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    squares = np.asarray(jax.jit(patchify, static_argnums=1)(x, 2))
    np.testing.assert_array_equal(squares[1].reshape(6, 12), reference.patches(x[1], 2))
    np.testing.assert_array_equal(jax.jit(unpatchify, static_argnums=1)(squares, 2), x)


def test_places_are_sines_of_each_axis():
    np.testing.assert_allclose(transformer.places(3, 5, 16), reference.grid_places(3, 5, 16), atol=1e-6)


def test_rotated_products_depend_on_the_difference_of_places():
    rng = np.random.default_rng(0)
    q, k = (rng.standard_normal(8).astype(np.float32) for _ in range(2))
    angles = transformer.axial_angles(5, 7, 8)
    everywhere = jax.jit(lambda a: transformer.rotate(jnp.broadcast_to(a, (1, 35, 1, 8)), angles))
    turned_q, turned_k = (np.asarray(everywhere(a)).reshape(5, 7, 8) for a in (q, k))
    product = turned_q[1, 2] @ turned_k[3, 5]
    for dy, dx in ((1, 1), (-1, 1), (1, -2)):
        np.testing.assert_allclose(turned_q[1 + dy, 2 + dx] @ turned_k[3 + dy, 5 + dx], product, rtol=1e-4)
    assert abs(turned_q[1, 2] @ turned_k[2, 5] - product) > 1e-2
    np.testing.assert_allclose(turned_q[0, 0], q)


# Identities


@every_network
def test_a_new_network_predicts_zero(network):
    args = inputs(network)
    y = run(network, initial(network), *args)
    assert y.dtype == jnp.float32 and y.shape == (*SHAPE[:-1], network.out_channels or SHAPE[-1]) and not np.any(y)


def test_a_new_block_is_the_identity():
    h, c, layer = inputs(small())[0].reshape(2, -1, 8), np.ones((2, 4), np.float32), np.int32(0)
    block = transformer.Block(heads=2)
    params = init(block, KEY, *specs((h, layer)), None, specs(c), None, None, None)
    y, _ = jax.jit(block.apply)({"params": params}, h, layer, None, c, None, None, None)
    np.testing.assert_array_equal(y, h)


@functools.cache
def value_and_gradient(network):
    """Of the mean square of y; the parameters and inputs are those of the same network without `remat`."""
    plain = network.clone(remat=False, policy=None)
    args = inputs(plain)
    loss = lambda p: jnp.mean(network.apply({"params": p}, *args) ** 2)  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(scrambled(plain))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cross", "joint"])
def test_every_parameter_of_every_layer_counts(name):
    for path, g in jax.tree.leaves_with_path(value_and_gradient(NETWORKS[name])[1]):
        name = jax.tree_util.keystr(path)
        if "_null" in name or "classes" in name or "['embedding']" in name:  # rows that these examples do not ask for
            continue
        rows = g.reshape(len(g), -1) if "blocks" in name else g.reshape(1, -1)
        assert np.all(np.abs(rows).max(-1) > 0), name


@pytest.mark.slow
def test_remat_gives_the_same_gradients():
    network = NETWORKS["cross"].clone(remat=True, policy=POLICY)
    (value, expected), (again, found) = value_and_gradient(NETWORKS["cross"]), value_and_gradient(network)
    np.testing.assert_allclose(again, value, rtol=1e-5)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), expected, found)


@pytest.mark.parametrize("name, blocks", [("skips", 3), ("joint", 2)])
def test_remat_is_of_every_block(name, blocks):
    network = NETWORKS[name].clone(remat=True)
    program = jax.make_jaxpr(network.apply)({"params": scrambled(NETWORKS[name])}, *inputs(network))
    bodies = [e.params["jaxpr"].jaxpr.eqns if e.primitive.name == "scan" else [e] for e in program.eqns]
    names = [e.primitive.name for e in itertools.chain(*bodies)]
    assert sum("remat" in name or "checkpoint" in name for name in names) == blocks


def test_cross_attention_starts_at_nothing():
    network = NETWORKS["cross"]
    params, args = scrambled(network), inputs(network)
    zeroed = jax.tree.map(lambda a: a, params)
    zeroed["blocks"]["text_project"] = jax.tree.map(np.zeros_like, params["blocks"]["text_project"])
    plain = {k: v for k, v in zeroed["blocks"].items() if not k.startswith("text")}
    y = run(network.clone(cross_attention=False), {**zeroed, "blocks": plain}, *args)
    np.testing.assert_allclose(run(network, zeroed, *args), y, atol=1e-5)
    assert np.abs(run(network, params, *args) - y).max() > 1e-2
    assert not np.any(np.asarray(initial(network)["blocks"]["text_project"]["kernel"]))


# Conditions


@pytest.mark.parametrize("name", ["cross", "joint"])
def test_padding_is_never_read(name):
    network = NETWORKS[name]
    params, (x, c, cond) = scrambled(network), inputs(network)
    mask = cond["text_mask"] if "text_mask" in cond else cond["text"] != 0
    assert not mask.all() and mask[:, 0].all()
    y = run(network, params, x, c, cond)
    other = {**cond, "text": np.where(mask.reshape(*mask.shape, *[1] * (cond["text"].ndim - 2)), cond["text"], 6)}
    np.testing.assert_allclose(run(network, params, x, c, {**other, "text_mask": mask}), y, rtol=1e-5, atol=1e-5)
    other["text"][:, 0] = 5
    assert np.abs(run(network, params, x, c, {**other, "text_mask": mask}) - y).max() > 1e-3


@pytest.mark.parametrize("network", [NETWORKS["cross"], NETWORKS["joint_plain"]], ids=["DiT", "MMDiT"])
def test_without_pooled_text_nothing_reads_its_mean(network):
    """Which one linear map does otherwise; that attention alone is then heard, `test_text` shows of UNet."""

    deaf = network.clone(pooled_text=False)
    trees = initial(network), jax.eval_shape(deaf.init, KEY, *inputs(deaf))["params"]
    whole, rest = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)} for tree in trees
    )
    mean = {"['conditioning']['text']['kernel']": (12, 16), "['conditioning']['text']['bias']": (16,)}
    assert whole == {**rest, **mean} and len(whole) == len(rest) + 2


@pytest.mark.parametrize("network", [NETWORKS["cross"], NETWORKS["joint"].clone(dropout=0.3)], ids=["DiT", "MMDiT"])
def test_examples_do_not_depend_on_their_neighbors(network):
    params, args = scrambled(network), inputs(network)

    def answer(args, *seeds):
        return run(network, params, *args, keys=keys_from(np.array(seeds)) if network.dropout else None)

    whole = answer(args, 0, 1)
    for i in range(2):
        twice = jax.tree.map(lambda a: np.stack([a[i], a[i]]), args)  # noqa: B023
        np.testing.assert_allclose(answer(twice, i, i)[i], whole[i], rtol=1e-5, atol=1e-6)
    if network.dropout:
        other = answer(args, 9, 1)
        np.testing.assert_array_equal(other[1], whole[1])
        assert np.abs(other[0] - whole[0]).max() > 1e-3


def test_a_label_out_of_range_gives_nan_in_its_row_alone():
    network = NETWORKS["joint"]
    x, c, cond = inputs(network)
    y = run(network, scrambled(network), x, c, {**cond, "label": np.array([4, 3])})
    assert np.isnan(y[0]).all() and np.isfinite(y[1]).all()


@pytest.mark.parametrize("network", [small(text=TOKENS), joint(num_classes=3)], ids=["DiT", "MMDiT"])
def test_a_missing_or_unknown_condition_is_an_error(network):
    x, c, cond = inputs(network)
    for name in ("label", "text"):
        rest = {k: v for k, v in cond.items() if k != name}
        with pytest.raises(ValueError, match=f"needs the condition '{name}': pass cond=dict"):
            jax.eval_shape(network.init, KEY, x, c, rest)
    with pytest.raises(ValueError, match="does not know the condition 'pose', only label, text: leave it out"):
        jax.eval_shape(network.init, KEY, x, c, {**cond, "pose": x})


def test_a_low_resolution_image_joins_x():
    network = small(image=True, num_classes=0)
    x, c, _ = inputs(network)
    image = np.random.default_rng(5).standard_normal((2, 2, 3, 1)).astype(np.float32)
    params = init(network, KEY, *specs((x, c, {"image": image})))
    assert params["patches"]["kernel"].shape == (2 * 2 * (3 + 1), 16)
    kernel = np.ones(params["out"]["kernel"].shape, np.float32)
    kernel[::2] = -0.5
    params["out"]["kernel"] = kernel
    y = run(network, params, x, c, {"image": image})
    assert y.shape == x.shape and np.abs(run(network, params, x, c, {"image": -image}) - y).max() > 1e-2


# Scanned layers


def equations(jaxpr):
    inner = itertools.chain.from_iterable(
        jax.tree.leaves(list(e.params.values()), is_leaf=_has_eqns) for e in jaxpr.eqns
    )
    return len(jaxpr.eqns) + sum(equations(getattr(j, "jaxpr", j)) for j in inner if _has_eqns(j))


def _has_eqns(value):
    return hasattr(getattr(value, "jaxpr", value), "eqns")


@pytest.mark.parametrize("network", [small(), small(long_skips=True), joint()], ids=["DiT", "skips", "MMDiT"])
def test_the_program_does_not_grow_with_depth(network):
    sizes = set()
    for depth in (4, 12):
        deep = network.clone(depth=depth)
        args = inputs(deep)
        sizes.add(equations(jax.make_jaxpr(deep.init_with_output)(KEY, *args).jaxpr))
    assert len(sizes) == 1 and sizes.pop() > 100


@pytest.mark.slow
def test_initial_values_are_the_same_by_every_route():
    network = small(qk_norm=True, num_classes=0)
    args = inputs(network, (1, 2, 2, 1))
    again = jax.jit(network.init)(KEY, *args)["params"]
    jax.tree.map(np.testing.assert_array_equal, init(network, KEY, *specs(args)), again)


def test_initial_values_differ_by_layer():
    kernel, width = np.asarray(initial(NETWORKS["joint"])["blocks"]["qkv"]["kernel"]), 16
    assert not np.array_equal(kernel[0], kernel[1])
    # each layer by itself is Glorot's: U(-a, a), a = sqrt(6 / (inputs + outputs))
    assert np.all(np.abs(kernel) <= np.sqrt(6 / (4 * width)))
    assert abs(kernel.std() / np.sqrt(2 / (4 * width)) - 1) < 0.05


def test_parameters_of_scanned_layers_are_drawn_without_running_them():
    calls = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, h, _):
            h = jax.pure_callback(lambda h: calls.append(1) or h, specs(h), layers.dense(5, dtype=float, name="in")(h))
            return h, None

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, h):
            options = dict(variable_axes={"params": 0}, split_rngs={"params": True}, length=4)
            return nn.scan(Counted, **options)(name="layers")(h, None)[0]

    params = init(Deep(), KEY, jax.ShapeDtypeStruct((2, 5), jnp.float32))
    assert params["layers"]["in"]["kernel"].shape == (4, 5, 5) and not calls
    jax.block_until_ready(jax.jit(Deep().apply)({"params": params}, np.ones((2, 5), np.float32)))
    assert len(calls) == 4


# Dropout, precision, memory, devices


def test_every_layer_drops_values_of_its_own():
    block, keys = transformer.Block(heads=2, dropout=0.5), keys_from(np.arange(1))
    h, c = np.zeros((1, 50, 16), np.float32), np.zeros((1, 4), np.float32)
    params = init(block, KEY, *specs((h, np.int32(0))), None, specs(c), None, None, None)
    gates = np.array(params["modulation"]["bias"])
    gates[2 * 16 : 3 * 16] = 1  # the first one
    params["modulation"]["bias"] = gates
    params["project"] = dict(kernel=np.zeros((16, 16), np.float32), bias=np.ones(16, np.float32))  # attention says 1
    apply = jax.jit(block.apply)
    masks = []
    for layer in range(2):
        out = np.asarray(apply({"params": params}, h, layer, None, c, None, None, keys)[0])
        assert set(np.unique(out)) == {0.0, 2.0}
        masks.append(out > 0)
    both = (masks[0] & masks[1]).mean()
    assert abs(both - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 800)  # five standard errors; one mask for both would give 0.5


@pytest.mark.parametrize("name", ["plain", "joint"])
def test_bfloat16_changes_the_loss_little(name):
    network = NETWORKS[name]
    params, args = scrambled(network), inputs(network)
    target = np.random.default_rng(3).standard_normal(SHAPE)
    lower = network.clone(dtype=jnp.bfloat16)
    assert share_in_bfloat16(lower, params, *args) > 0.5
    y, half = (run(n, params, *args) for n in (network, lower))
    assert half.dtype == jnp.float32 and np.any(half != y)
    assert abs(np.mean((half - target) ** 2) / np.mean((y - target) ** 2) - 1) < 0.02


def test_eight_devices_give_what_one_gives():
    network = NETWORKS["joint"]
    params, args = scrambled(network), inputs(network, (8, *SHAPE[1:]))
    split = NamedSharding(parallel.mesh(), PartitionSpec(parallel.AXIS))
    assert split.mesh.size == 8
    one = [run(network, params, *jax.tree.map(lambda a: a[i : i + 2], args)) for i in (0, 2, 4, 6)]  # noqa: B023
    every = answer(network, params, *jax.device_put(args, split))
    assert len(every.sharding.device_set) == 8
    np.testing.assert_allclose(every, np.concatenate(one), rtol=1e-5, atol=1e-5)


def test_weight_decay_is_for_kernels_of_scanned_layers_alone():
    chosen = decayed(initial(NETWORKS["skips"]))
    for path, wanted in jax.tree.leaves_with_path(chosen):
        assert wanted == (path[-1].key in ("kernel", "classes")), path


# Refusals


@pytest.mark.parametrize(
    "network, shape, message",
    [
        (small(), (4, 7, 3), "image size 4x7 is not divisible by patch=2: resize or pad the images"),
        (small(patch=0), (4, 4, 3), "patch=0 is not allowed: expected at least 1"),
        (small(heads=3), (4, 4, 3), "width=16 is not divisible by heads=3"),
        (small(rotary=True, heads=8), (4, 4, 3), "that of width=16 and heads=8 is 2: choose other heads"),
        (small(width=18), (4, 4, 3), "width=18 is not divisible by 4, as sines and cosines of two axes need"),
        (small(cross_attention=True), (4, 4, 3), "cross_attention=True needs text: set text to a TextTransformer"),
        (small(text=TOKENS, pooled_text=False), (4, 4, 3), "pooled_text=False leaves the text unheard: set cross_att"),
        (small(long_skips=True, depth=1), (4, 4, 3), "long_skips=True needs two blocks, depth is 1"),
        (small(policy=POLICY), (4, 4, 3), "policy says what remat stores: set remat=True as well"),
        (
            small(policy=True, remat=True),
            (4, 4, 3),
            "policy=True is not allowed: expected a function of jax.checkpoint",
        ),
        (joint(text=None), (4, 4, 3), "MMDiT needs text: set text to a TextTransformer or TextEmbeddings, or use DiT"),
        (joint(depth=0), (4, 4, 3), "depth=0 is not allowed: expected at least 1"),
    ],
)
def test_impossible_shapes_are_refused_before_tracing(network, shape, message):
    with pytest.raises(ValueError, match=message):
        check_tokens(network, shape)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, KEY, np.zeros((1, *shape), np.float32), np.zeros(1, np.float32))


def test_build_makes_the_network_and_refuses_data_that_do_not_fit():
    spec = dict(name="DiT", width=16, depth=2, heads=2, remat=True, policy="dots_saveable")
    network = build.make("network", spec, "network", num_classes=3, out_channels=6, out_features=6)
    assert network == small(depth=2, frequencies=256, out_channels=6, remat=True, policy=POLICY)
    with pytest.raises(ValueError, match=r"'dots' is unknown; one of checkpoint_dots, .*nothing_saveable"):
        build.make("network", {**spec, "policy": "dots"}, "network")
    assert "save_only_these_names" not in build.choices("policy")
