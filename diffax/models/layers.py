"""The layers that networks share: embeddings, group norm, dropout, residual and attention blocks.

Parameters and norms are float32; the rest computes in `dtype`. Examples never mix: row i of any layer's output is a
function of row i of its inputs and of dropout key i.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from diffax.models import initializers
from diffax.models.convolutions import Dtype, conv

_PRODUCT = 1024  # rows of a table that is multiplied


def join(x: Array, h: Array, rescale: bool) -> Array:
    """x + h; divided by sqrt(2) if `rescale`: independent terms of variance 1 then have a sum of variance 1."""
    return (x + h) * math.sqrt(0.5) if rescale else x + h


@partial(jax.jit, static_argnames="groups")  # traced once for each shape
def group_norm(x: Array, scale: Array, bias: Array, groups: int, eps: float = 1e-6) -> Array:
    """(x - mean) / sqrt(var + eps) * scale + bias over the positions and channels of each group; arXiv:1803.08494.

    Args:
      x: [batch, *positions, channels], any float type; the arithmetic and the result are float32.
      scale, bias: [channels], or [batch, channels] when they are conditioned.
      groups: divides channels.
    """
    positions = tuple(range(1, x.ndim - 1))
    # integers have no tangents
    scale, bias, eps = (jnp.asarray(a, jnp.result_type(a, jnp.float32)) for a in (scale, bias, eps))
    scale, bias = (jnp.expand_dims(jnp.atleast_2d(a), positions) for a in (scale, bias))
    return _group_norm(groups, x.astype(jnp.float32), scale, bias, eps)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _group_norm(groups, x, scale, bias, eps):
    d, gain = _centered(groups, x, eps)
    return d * (gain * scale) + bias


@_group_norm.defjvp
def _group_norm_jvp(groups, primals, tangents):
    """Leaves out what is zero because d has no mean: the backward pass sums over positions twice, not three times."""
    (x, scale, bias, eps), (dx, dscale, dbias, deps) = primals, tangents
    d, gain = _centered(groups, x, eps)
    dgain = -(gain**3) * (_group_mean(groups, d * dx) + deps / 2)
    slope = gain * scale
    shift = dbias - slope * _group_mean(groups, dx)
    return d * slope + bias, slope * dx + d * (dgain * scale + gain * dscale) + shift


def _centered(groups, x, eps):
    """(d, gain): x without its group's mean, and 1/sqrt(var + eps)."""
    d = x - _group_mean(groups, x)
    return d, jax.lax.rsqrt(_group_mean(groups, jnp.square(d)) + eps)


def _group_mean(groups, a):
    """The mean of each group, for all of its channels: [batch, *positions, channels] -> [batch, 1, ..., channels]."""
    # As products, the two steps between channels and groups stay out of the loops over positions. XLA would otherwise
    # fuse them into every such loop, where they cost more than the norm itself.
    positions, size = tuple(range(1, a.ndim - 1)), a.shape[-1] // groups
    members = jnp.asarray(np.repeat(np.eye(groups, dtype=np.float32), size, axis=0))  # [channels, groups]
    mean = jnp.dot(a.mean(positions), members / size, precision="highest")
    return jnp.expand_dims(jnp.dot(mean, members.T, precision="highest"), positions)


@jax.jit
def silu(x: Array) -> Array:
    """x sigmoid(x), computed in float32; arXiv:1702.03118. sigmoid(x) = (1 + tanh(x/2))/2 is the faster form on CPU."""
    half = 0.5 * x.astype(jnp.float32)
    return (half * (1 + jnp.tanh(half))).astype(x.dtype)


def dropout(x: Array, keys: Array | None, rate: float, layer: int) -> Array:
    """Zero each value with probability `rate` and divide the rest by 1 - rate; arXiv:1207.0580.

    Args:
      x: [batch, ...].
      keys: one key per example, which alone decides that example's mask; None is no dropout.
      rate: in [0, 1).
      layer: tells this call's masks from the other layers' (any 32-bit number, static).
    """
    if keys is None or rate == 0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def upsample(x: Array) -> Array:
    """Nearest neighbor, twice the size: [b, h, w, c] -> [b, 2h, 2w, c]."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def downsample(x: Array) -> Array:
    """Mean of 2x2 blocks: [b, h, w, c] -> [b, h/2, w/2, c]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def dense(features: int, *, dtype: Dtype, scale: float = 1.0, name: str) -> nn.Dense:
    """Dense layer over the last axis (a 1x1 convolution of an image); scale 0 starts it at zero."""
    init = dict(kernel_init=initializers.kernel(scale), bias_init=initializers.constant(0.0))
    return nn.Dense(features, dtype=dtype, dot_general=rows_times, name=name, **init)


def rows_times(x: Array, kernel: Array, *_: Any, **options: Any) -> Array:
    """x [..., n] times a kernel [n, m] -> [..., m], as one product of matrices, so that the kernel's gradient is one.

    Else XLA's CPU backend transposes what comes down to it, and all that this is computed from along with it: 6 % of
    the time of DDPM's CIFAR-10 step. More arguments are those of `lax.dot_general`, in whose place Flax calls it.
    """
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    rows = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def with_frequencies(x: Array, exponents: Sequence[int]) -> Array:
    """x [..., channels] and, after it, sin(2^n·pi·x) and cos(2^n·pi·x) for each n of the exponents."""
    waves = [wave(2.0**n * jnp.pi * x) for n in exponents for wave in (jnp.sin, jnp.cos)]
    return jnp.concatenate([x, *waves], axis=-1)


class GroupNorm(nn.Module):
    """`group_norm` with learned scale and bias, and with a condition's on top when `modulation` is given.

    modulation: [batch, 2 channels], (s, b): the result is norm(x) * (1 + s) + b, adaptive group norm
    (arXiv:2105.05233, section 3.1).
    """

    groups: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, modulation: Array | None = None) -> Array:
        scale = self.param("scale", initializers.constant(1.0), (x.shape[-1],))
        bias = self.param("bias", initializers.constant(0.0), (x.shape[-1],))
        if modulation is not None:
            s, b = jnp.split(modulation.astype(jnp.float32), 2, axis=-1)
            scale, bias = scale * (1 + s), bias * (1 + s) + b
        return group_norm(x, scale, bias, self.groups).astype(self.dtype)


class ResBlock(nn.Module):
    """x + conv(dropout(silu(norm(conv(silu(norm(x))) + condition)))), the last convolution zero at the start.

    Args of the module:
      features: output channels; the skip path gets a 1x1 convolution when they differ from the input's.
      adaptive: the condition scales and shifts the second norm (arXiv:2105.05233) instead of being added before it
        (arXiv:2006.11239).
      resample: `upsample` or `downsample` to change the size on both paths (BigGAN, arXiv:1809.11096), or None.
      skip_conv: where the size changes, the skip path gets its 1x1 convolution in any case.
      skip_rescale: the sum of both paths is divided by sqrt(2) (arXiv:2011.13456, App. H).
    """

    features: int
    groups: int = 32
    dropout: float = 0.0
    adaptive: bool = False
    resample: Callable[[Array], Array] | None = None
    dtype: Dtype = jnp.float32
    skip_conv: bool = False
    skip_rescale: bool = False

    @nn.compact
    def __call__(self, x: Array, condition: Array, dropout_keys: Array | None = None) -> Array:
        resample = self.resample or (lambda a: a)
        condition = dense(self.features * (2 if self.adaptive else 1), dtype=self.dtype, name="condition")(
            silu(condition)
        )
        h = silu(GroupNorm(self.groups, self.dtype, name="norm_0")(x))
        h = conv(self.features, dtype=self.dtype, name="conv_0")(resample(h))
        if self.adaptive:
            h = GroupNorm(self.groups, self.dtype, name="norm_1")(h, condition)
        else:
            h = GroupNorm(self.groups, self.dtype, name="norm_1")(h + condition[:, None, None])
        # The path names the layer, so its masks stay the same when other layers come or go.
        h = dropout(silu(h), dropout_keys, self.dropout, zlib.crc32("/".join(self.path).encode()))
        h = conv(self.features, dtype=self.dtype, scale=0.0, name="conv_1")(h)
        x = resample(x)
        if x.shape[-1] != self.features or (self.resample and self.skip_conv):
            x = dense(self.features, dtype=self.dtype, name="skip")(x)
        return join(x, h, self.skip_rescale)


def check_levels(network: nn.Module, shape: Sequence[int], patch: int = 1) -> None:
    """Raise ValueError unless the levels of `network`, each half the size of the last, divide the images' size.

    The first of them has `patch` pixels a position.
    """
    if not network.multipliers:
        raise ValueError("multipliers=() leaves no level: give at least one")
    if patch < 1:
        raise ValueError(f"patch={patch} is not allowed: expected at least 1")
    factor = patch * 2 ** (len(network.multipliers) - 1)
    height, width, _ = shape[-3:]
    if height % factor or width % factor:
        raise ValueError(
            f"image size {height}x{width} is not divisible by {factor}, the downsampling of a {type(network).__name__} "
            f"with {len(network.multipliers)} multipliers{f' and patch={patch}' if patch > 1 else ''}: "
            "resize or pad the images, or use fewer multipliers"
        )
    sizes = [max(height, width) // patch // 2**level for level in range(len(network.multipliers))]
    for option in ("attention", "cross_attention"):
        for size in getattr(network, option, ()):
            if size not in sizes:
                raise ValueError(
                    f"{option}: {size} is the size of no level: images of {height}x{width} have levels of "
                    f"{', '.join(map(str, sizes))}: choose among them, or () for none"
                )


def heads_of(h: Array, parts: int, width: int, heads: int, dtype: Dtype, name: str) -> list[Array]:
    """`parts` linear maps of h [batch, length, any], each as heads: [batch, length, heads, width/heads]."""
    split = jnp.split(dense(parts * width, dtype=dtype, name=name)(h), parts, axis=-1)
    return [a.reshape(*a.shape[:2], heads, width // heads) for a in split]


def lookup(table: Array, index: Array) -> Array:
    """The rows of a table [n, width] at `index` [...]; NaN where that is none of 0 .. n - 1.

    A product rather than a gather: its gradient is a sum in fixed order, bitwise the same on every run on a GPU. More
    than 1024 rows are gathered all the same: a product takes the memory and the time of n numbers for each index.
    """
    in_range = (index >= 0) & (index < len(table))
    if len(table) > _PRODUCT:
        chosen = table[jnp.where(in_range, index, 0)]
    else:
        # at the default precision accelerators round the table, to TF32 or bfloat16
        chosen = jnp.dot(jax.nn.one_hot(index, len(table), dtype=table.dtype), table, precision="highest")
    return jnp.where(in_range[..., None], chosen, jnp.nan)


class AttentionBlock(nn.Module):
    """x + project(attention(norm(x))) over all positions, the projection zero at the start; arXiv:1706.03762.

    Args of the module:
      head_dim: channels of a head; None is one head over all channels, as in DDPM.
      skip_rescale: the sum is divided by sqrt(2) (arXiv:2011.13456, App. H).
    """

    groups: int = 32
    head_dim: int | None = None
    dtype: Dtype = jnp.float32
    skip_rescale: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, channels = x.shape[0], x.shape[-1]
        heads = channels // (self.head_dim or channels)
        h = GroupNorm(self.groups, self.dtype, name="norm")(x).reshape(batch, -1, channels)
        q, k, v = heads_of(h, 3, channels, heads, self.dtype, "qkv")
        h = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        h = dense(channels, dtype=self.dtype, scale=0.0, name="project")(h)
        return join(x, h, self.skip_rescale)


class CrossAttentionBlock(nn.Module):
    """x + project(attention(norm(x), tokens)): every position asks all tokens; arXiv:2112.10752, Sec. 3.3.

    Args of the module: as of `AttentionBlock`.
    """

    groups: int = 32
    head_dim: int | None = None
    dtype: Dtype = jnp.float32
    skip_rescale: bool = False

    @nn.compact
    def __call__(self, x: Array, tokens: Array, mask: Array) -> Array:
        """`tokens` [batch, length, width], of which `mask` bool [batch, length] are there, at least one in each row."""
        batch, channels = x.shape[0], x.shape[-1]
        heads = channels // (self.head_dim or channels)
        h = GroupNorm(self.groups, self.dtype, name="norm")(x).reshape(batch, -1, channels)
        (q,) = heads_of(h, 1, channels, heads, self.dtype, "query")
        k, v = heads_of(tokens, 2, channels, heads, self.dtype, "key_value")
        h = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None]).reshape(x.shape)
        h = dense(channels, dtype=self.dtype, scale=0.0, name="project")(h)
        return join(x, h, self.skip_rescale)
