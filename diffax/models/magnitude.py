"""Layers that keep the magnitude of what passes them: root mean squares of 1 stay 1 in expectation.

EDM2's network is made of them (arXiv:2312.02696, Sec. 2.3 and App. B): instead of norms that watch over a network, no
layer of which changes the magnitude. Nothing here has a bias.

Learned weights are named `weight`, have the outputs as their last axis, and are normalized in every pass:
w/|w| for each output. Only their directions count, so their gradients are orthogonal to them and ordinary updates make
them grow. `diffax.train.unit_weights` holds them at a root mean square of 1 after each update.
"""

import math
import zlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from diffax.models import initializers
from diffax.models.convolutions import convolve
from diffax.models.layers import Dtype, dropout, rows_times, silu

SILU = 0.596  # the root mean square of silu(x) for x ~ N(0, 1); arXiv:2312.02696, Eq. 81
LARGEST = 256.0  # of what leaves a block: far beyond what is met, within what half precision sums safely


def normalize(x: Array, axes: int | Sequence[int] = -1) -> Array:
    """x divided by its root mean square over `axes`, by default each position's channels (pixel norm).

    Computed in float32; 0 stays 0. arXiv:2312.02696, Eq. 30.
    """
    square = jnp.mean(jnp.square(x.astype(jnp.float32)), axes, keepdims=True)
    return (x.astype(jnp.float32) * jax.lax.rsqrt(square + 1e-8)).astype(x.dtype)


def mp_silu(x: Array) -> Array:
    """silu(x)/0.596, whose root mean square is 1 for x ~ N(0, 1); arXiv:2312.02696, Eq. 81."""
    return silu(x) / SILU


def mp_sum(a: Array, b: Array, share: float = 0.5) -> Array:
    """((1 - t)·a + t·b)/√((1 - t)² + t²) with t = `share`; arXiv:2312.02696, Eq. 88.

    Of root mean square 1 if a and b are and do not correlate.
    """
    return ((1 - share) * a + share * b) / math.hypot(1 - share, share)


def mp_concat(a: Array, b: Array, share: float = 0.5) -> Array:
    """√((n + m)/((1 - t)² + t²))·[(1 - t)/√n·a, t/√m·b] with t = `share`; arXiv:2312.02696, Eq. 103.

    a [..., n] and b [..., m], each of root mean square 1, have a result [..., n + m] of the same, and count in the
    layers behind it as t says, not as n and m do.
    """
    n, m = a.shape[-1], b.shape[-1]
    scale = math.sqrt(n + m) / math.hypot(1 - share, share)
    return jnp.concatenate([a * (scale * (1 - share) / math.sqrt(n)), b * (scale * share / math.sqrt(m))], axis=-1)


class MPFourier(nn.Module):
    """Random Fourier features [batch, features] of c_noise [batch]: √2·cos(2π(f·c + φ)), f ~ N(0, 1), φ ~ U(0, 1).

    They are drawn once and never trained, and kept among the parameters; always float32. arXiv:2312.02696, Eq. 75.
    """

    features: int

    @nn.compact
    def __call__(self, c_noise: Array) -> Array:
        frequencies = self.param("frequencies", initializers.normal(1.0), (self.features,))
        phases = self.param("phases", _uniform, (self.features,))
        frequencies, phases = jax.lax.stop_gradient((frequencies, phases))
        turns = c_noise.astype(jnp.float32)[:, None] * frequencies + phases
        return math.sqrt(2) * jnp.cos(2 * math.pi * turns)


class MPLayer(nn.Module):
    """Dense layer over the last axis, or with `kernel=(3, 3)` a convolution, zero padded; no bias.

    The weight of each output is w/|w| over all its inputs, times `gain`: uncorrelated inputs of root mean square 1 have
    outputs of the root mean square `gain`. arXiv:2312.02696, Eq. 47. It is normalized in float32.
    """

    features: int
    kernel: tuple[int, ...] = ()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
        weight = self.param("weight", initializers.normal(1.0), (*self.kernel, x.shape[-1], self.features))
        inputs = tuple(range(weight.ndim - 1))
        weight = normalize(weight, inputs) * (gain / math.sqrt(weight.size // self.features))
        x, weight = x.astype(self.dtype), weight.astype(self.dtype)
        if not self.kernel:
            return rows_times(x, weight)
        return convolve(x, weight, (1, 1), "SAME")


class MPBlock(nn.Module):
    """A residual block of EDM2, and where it attends, cosine attention behind it; arXiv:2312.02696, Fig. 22.

    The skip path is resampled, and has a 1x1 convolution where the channels change. The residual path is
    conv(dropout(silu(conv(silu(x))·(1 + condition)))), the condition's layer with a gain that starts at 0. Both are
    joined by `mp_sum`. On the way down (not `decoder`) the skip path is normalized before the residual path leaves it;
    on the way up it is not, and its convolution is parallel to the residual path.

    Args of the module:
      features: output channels.
      decoder: a block of the way up.
      head_dim: channels of an attention head; 0 is a block without attention.
      resample: `upsample` or `downsample` of `diffax.models.layers`, or None.
      share: of the residual and of the attention in their sums.
    """

    features: int
    decoder: bool = False
    head_dim: int = 0
    resample: Callable[[Array], Array] | None = None
    dropout: float = 0.0
    share: float = 0.3
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, condition: Array, dropout_keys: Array | None = None) -> Array:
        x = self.resample(x) if self.resample else x
        skip = self._layer("skip") if x.shape[-1] != self.features else lambda x: x
        if not self.decoder:
            x = normalize(skip(x))
        gain = self.param("gain", initializers.constant(0.0), ())
        h = self._layer("conv_0", 3, 3)(mp_silu(x))
        h = mp_silu(h * (1 + self._layer("condition")(condition, gain))[:, None, None])
        # The path names the layer, so its masks stay the same when other layers come or go.
        h = dropout(h, dropout_keys, self.dropout, zlib.crc32("/".join(self.path).encode()))
        h = self._layer("conv_1", 3, 3)(h)
        x = mp_sum(skip(x) if self.decoder else x, h, self.share)
        if self.head_dim:
            x = mp_sum(x, self._attention(x), self.share)
        return jnp.clip(x, -LARGEST, LARGEST)

    def _layer(self, name, *kernel, times=1):
        return MPLayer(times * self.features, kernel, self.dtype, name=name)

    def _attention(self, x):
        """Attention over all positions whose queries, keys and values have a root mean square of 1 in each head."""
        heads = (x.shape[0], -1, self.features // self.head_dim, self.head_dim)
        qkv = jnp.split(self._layer("qkv", times=3)(x), 3, axis=-1)
        q, k, v = (normalize(a.reshape(heads)) for a in qkv)
        return self._layer("project")(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))


_uniform = initializers.on_host(lambda generator, shape: generator.random(shape, "float32"))
