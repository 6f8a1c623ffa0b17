"""Networks of the landmark systems: their sizes by an independent count, and the layers that NCSN++ is made of."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import normal

from diffax import config as configs
from diffax.models import UNet, conditioning, fir, init, layers

KEY = jax.random.key(0)
EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"


def network_of(experiment):
    """The options of the network that an experiment names."""
    options = dict(configs.load(str(EXPERIMENTS / f"{experiment}.py"))["network"])
    assert options.pop("name") == "UNet"
    return options


def spec(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def compiled(function):
    """As one program, which is made sooner than one for each operation, with results of NumPy."""
    program = jax.jit(function)
    return lambda *args: jax.device_get(program(*args))


# Sizes


def count(size, *, channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), num_classes=0, **options):
    """The parameters of a UNet from the papers' descriptions of its layers, summed apart from the network."""
    on = options.get
    emb = 4 * channels

    def res(i, o, resized=False):
        skip = i != o or (resized and on("skip_conv", False))
        dense = (emb + 1) * o * (2 if on("adaptive") else 1)
        return 2 * i + (9 * i + 1) * o + dense + 2 * o + (9 * o + 1) * o + (i + 1) * o * skip

    def attend(c, here=True):
        return (2 * c + 4 * (c + 1) * c) * here

    at = [size // 2**level in attention for level in range(len(multipliers))]
    widths, image = [channels * m for m in multipliers], 3
    total = (2 if on("fourier") else 1) * channels * emb + emb + (emb + 1) * emb + channels * bool(on("fourier"))
    total += (num_classes + 1) * emb * bool(num_classes)  # with the row of the null class
    total += (9 * 3 + 1) * channels
    skips, h = [channels], channels
    for level, width in enumerate(widths):
        if level:
            total += res(h, h, True) if on("residual_resampling") else (9 * h + 1) * h
            total += (9 * image + 1) * h * bool(on("progressive_input"))
            image = h
            skips.append(h)
        for _ in range(blocks):
            total, h = total + res(h, width) + attend(width, at[level]), width
            skips.append(h)
    total += 2 * res(h, h) + attend(h)
    for level, width in reversed(list(enumerate(widths))):
        for i in range(blocks + 1):
            total, h = total + res(h + skips.pop(), width), width
            total += attend(width, at[level] and (i == blocks or not on("attend_once")))
        if level:
            total += res(h, h, True) if on("residual_resampling") else (9 * h + 1) * h
    return total + 2 * h + (9 * h + 1) * (on("out_channels") or 3)


@pytest.mark.parametrize(
    "experiment, size, expected, more",
    [
        pytest.param("cifar10_ddpm", 32, 35_746_307, {}, marks=pytest.mark.slow),  # quick in test_models
        # the network of arXiv:2011.13456's released code
        ("cifar10_vp", 32, 61_804_419, {}),
        # no exact count that we know of was printed: the layers of the paper, summed, and the 128 fixed Fourier rates
        pytest.param("cifar10_ncsnpp", 32, 62_758_915, {}, marks=pytest.mark.slow),
        # that of arXiv:2206.00364, 55.7M, less the layer that tells it the augmentation, 9 numbers to 128
        pytest.param("cifar10_edm", 32, 55_733_891 - 9 * 128, {}, marks=pytest.mark.slow),
        # arXiv:2105.05233, 296M with its learned variance, and a row for the null class
        ("imagenet64_adm", 64, 295_904_454 + 4 * 192, dict(out_channels=6, num_classes=1000)),
    ],
    ids=["DDPM", "DDPM++", "NCSN++", "EDM", "ADM"],
)
def test_parameter_counts(experiment, size, expected, more):
    options = network_of(experiment) | more
    network = UNet(**options)
    cond = {"label": spec((1,), jnp.int32)} if network.num_classes else {}
    params = jax.eval_shape(network.init, KEY, spec((1, size, size, 3)), spec((1,)), cond)["params"]
    assert sum(p.size for p in jax.tree.leaves(params)) == expected == count(size, **options)


# Resampling


def filtered(x, pad, stride, taps=(1 / 8, 3 / 8, 3 / 8, 1 / 8)):
    """The 4x4 filter of outer products at every `stride`-th place of the padded image, in float64."""
    x = np.pad(np.asarray(x, np.float64), [(0, 0), pad, pad, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (4, 4), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwcij,i,j->bhwc", windows, taps, taps)


def test_fir_resampling_is_the_convolution():
    x = normal(0, (2, 6, 8, 3))
    down, up, blurred = compiled(lambda x: (fir.downsample(x), fir.upsample(x), fir.blur(x)))(x)
    np.testing.assert_allclose(down, filtered(x, (1, 1), 2), atol=1e-6)
    np.testing.assert_allclose(blurred, filtered(x, (2, 2), 1), atol=1e-6)
    stuffed = np.zeros((2, 12, 16, 3))
    stuffed[:, ::2, ::2] = x
    # four times the filter, since three of four pixels are zeros
    np.testing.assert_allclose(up, 4 * filtered(stuffed, (2, 1), 1), atol=1e-6)


def test_fir_resampling_keeps_constants_and_stays_in_place():
    # pixel i of n lies at (i + 1/2)/n of the side, before and after
    where = lambda n: (np.arange(n, dtype=np.float32) + 0.5) / n  # noqa: E731
    x = np.stack([np.ones((8, 8)), np.tile(where(8)[:, None], 8)])[..., None].astype(np.float32)
    down, up, blurred = compiled(lambda x: (fir.downsample(x), fir.upsample(x), fir.blur(x)))(x)
    for constant in (down[0], up[0]):
        np.testing.assert_allclose(constant[1:-1, 1:-1], 1.0, rtol=1e-6)
    np.testing.assert_allclose(down[0, 0, 1:-1], 7 / 8, rtol=1e-6)  # one zero beyond the border
    np.testing.assert_allclose(down[1, 1:-1, 1, 0], where(4)[1:-1], rtol=1e-6)
    np.testing.assert_allclose(up[1, 1:-1, 1, 0], where(16)[1:-1], rtol=1e-6)
    # of the blurred image, a convolution of stride 2 is centered on 1, 3, ...
    np.testing.assert_allclose(blurred[1, 1::2, 4, 0][1:-1], where(4)[1:-1], rtol=1e-6)


def test_fir_upsampling_is_the_transpose_of_downsampling():
    z = normal(1, (2, 3, 4, 3))
    transpose = lambda z: jax.linear_transpose(fir.downsample, spec((2, 6, 8, 3)))(z)[0]  # noqa: E731
    up, transposed = compiled(lambda z: (fir.upsample(z), transpose(z)))(z)
    np.testing.assert_allclose(up, 4 * transposed, atol=1e-6)


# Skip paths


def test_rescaled_skips_keep_the_variance():
    x, h = normal(0, (100_000,)), normal(1, (100_000,))
    assert abs(layers.join(x, h, True).var() - 1) < 5 * np.sqrt(2 / x.size)
    np.testing.assert_array_equal(layers.join(x, h, False), x + h)


@pytest.mark.parametrize(
    "block",
    [layers.ResBlock(8, groups=4, resample=fir.downsample, skip_conv=True), layers.AttentionBlock(groups=4)],
    ids=["residual", "attention"],
)
def test_a_block_with_rescaled_skips_is_the_plain_one_over_the_root_of_two(block):
    x = normal(0, (2, 4, 4, 8))
    args = (x, normal(1, (2, 16))) if isinstance(block, layers.ResBlock) else (x,)
    params = jax.tree.map(lambda p: normal(p.size, p.shape), init(block, KEY, *args))
    assert ("skip" in params) == isinstance(block, layers.ResBlock)
    both = (block, block.clone(skip_rescale=True))
    plain, rescaled = compiled(lambda: [b.apply({"params": params}, *args) for b in both])()
    np.testing.assert_allclose(rescaled, plain / np.sqrt(2), rtol=1e-5)


@pytest.mark.slow
def test_the_path_of_a_new_network_is_that_of_the_paper():
    """In a new network a residual block is its skip path over sqrt(2), so every other layer can be checked by hand."""
    smaller = dict(channels=8, groups=4, multipliers=(1, 1, 1), attention=(), fourier=1.0, blocks=1)
    network = UNet(**network_of("cifar10_ncsnpp") | smaller)
    x, c = normal(0, (2, 8, 8, 3)), np.float32([0.5, -1.0])
    params = init(network, KEY, x, c)
    captured = compiled(functools.partial(network.apply, capture_intermediates=True))
    inner = captured({"params": params}, x, c)[1]["intermediates"]
    found = lambda name: np.asarray(inner[name]["__call__"][0], np.float64)  # noqa: E731
    kernel = lambda *names: functools.reduce(lambda tree, name: tree[name], (*names, "kernel"), params)  # noqa: E731

    image = x
    for level in (1, 2):
        # features: behind the filter, then through the convolution of the skip path
        before = found(f"down_{level - 1}_0")
        down = filtered(before, (1, 1), 2) @ kernel(f"down_{level}", "skip") / np.sqrt(2)
        np.testing.assert_allclose(found(f"down_{level}"), down, atol=1e-5)
        # the image, and below the first level what it has become: behind the filter, by a strided convolution
        blurred = filtered(image, (2, 2), 1)
        windows = np.lib.stride_tricks.sliding_window_view(blurred, (3, 3), axis=(1, 2))[:, ::2, ::2]
        shrunk = np.einsum("bhwcij,ijco->bhwo", windows, kernel(f"image_{level}"))
        np.testing.assert_allclose(found(f"image_{level}"), shrunk, atol=1e-5)
        image = (found(f"down_{level}") + shrunk) / np.sqrt(2)
        np.testing.assert_allclose(found(f"down_{level}_0"), image / np.sqrt(2), atol=1e-5)
        # the way up
        above = found(f"up_{level}_1")
        stuffed = np.zeros((2, 2 * above.shape[1], 2 * above.shape[2], 8))
        stuffed[:, ::2, ::2] = above
        up = 4 * filtered(stuffed, (2, 1), 1) @ kernel(f"up_{level}", "skip") / np.sqrt(2)
        np.testing.assert_allclose(found(f"up_{level}"), up, atol=1e-5)


# Noise levels


def test_fourier_features_formula():
    c = np.array([-4.6, 0.0, 0.1, 3.9])
    module = conditioning.FourierFeatures(3000, scale=16.0)
    params = init(module, KEY, spec(c.shape))
    rates = np.asarray(params["rates"])
    # five standard errors of a deviation and of a mean
    assert abs(rates.std() - 16) < 5 * 16 / np.sqrt(2 * 3000) and abs(rates.mean()) < 5 * 16 / np.sqrt(3000)
    angles = 2 * np.pi * c.astype(np.float32)[:, None].astype(np.float64) * rates
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    # an angle of thousands has a float32 error of 1e-3
    np.testing.assert_allclose(compiled(module.apply)({"params": params}, c), expected, atol=1e-3)


def test_fourier_rates_are_never_trained():
    module = conditioning.Conditioning(8, 16, fourier=1.0)
    c = np.float32([0.3, -0.2])
    params = init(module, KEY, c, {})
    gradient = compiled(jax.grad(lambda p: jnp.sum(module.apply({"params": p}, c, {}) ** 2)))(params)
    assert not np.any(gradient["fourier"]["rates"]) and np.any(gradient["dense_0"]["kernel"])
    assert params["dense_0"]["kernel"].shape == (16, 16)  # sines and cosines, 8 of each


def test_input_frequencies_resolve_the_integers():
    # of 17 levels in [-1, 1], an eighth apart: one period is two levels long, the other one
    x = np.linspace(-1.0, 1.0, 17, dtype=np.float32).reshape(1, 1, 17, 1)
    found, shifted = compiled(lambda *both: [layers.with_frequencies(x, (3, 4)) for x in both])(x, x + 1 / 32)
    np.testing.assert_array_equal(found[..., :1], x)
    signs = np.where(np.arange(17) % 2, -1.0, 1.0)
    for channel, wanted in enumerate((np.zeros(17), signs, np.zeros(17), np.ones(17)), 1):
        np.testing.assert_allclose(found[0, 0, :, channel], wanted, atol=1e-5)
    angle = np.pi / 4  # a quarter of a level, by the half-period of one level and by its whole
    np.testing.assert_allclose(shifted[0, 0, 0, 1:], [np.sin(angle), np.cos(angle), 1.0, 0.0], atol=1e-5)
    network = UNet(channels=8, groups=4, multipliers=(1,), attention=(), input_frequencies=(3, 4))
    kernel = jax.eval_shape(network.init, KEY, spec((1, 4, 4, 3)), spec((1,)))["params"]["conv_in"]["kernel"]
    assert kernel.shape == (3, 3, 3 * 5, 8)
