"""The layers of diffusion transformers: places of tokens, attention, perceptrons, blocks to be stacked.

As in `layers`: parameters and norms are float32, the rest computes in `dtype`, and examples never mix. Tokens are
[batch, length, width]; `angles` [length, head_dim/2] rotate their queries and keys, None does not.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from diffax.models import initializers, layers
from diffax.models.layers import Dtype, dense, heads_of
from diffax.models.text import Text


def places(height: int, width: int, features: int) -> np.ndarray:
    """Sine-cosine embedding of the cells of a grid, row by row: float32 [height·width, features].

    Half of the features are of the column p, half of the row p: sin(w_i p), then cos(w_i p), each for the features/4
    rates w_i = 10000^(-i/(features/4)); arXiv:1706.03762, Sec. 3.5, once an axis. `features` is divisible by 4.
    """
    angles = np.split(_angles(height, width, features // 4, 10_000.0), 2, axis=-1)
    return np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)], axis=-1).astype(np.float32)


def axial_angles(height: int, width: int, head_dim: int) -> np.ndarray:
    """Angles by which rotary embedding turns the cells of a grid, row by row: float32 [height·width, head_dim/2].

    Half of them are w_i times the column, half w_i times the row, w_i = 100^(-i/(head_dim/4)); arXiv:2403.13298,
    Sec. 3.2. `head_dim` is divisible by 4.
    """
    return _angles(height, width, head_dim // 4, 100.0).astype(np.float32)


def _angles(height, width, count, period):
    rates = period ** (-np.arange(count) / count)
    row, column = np.divmod(np.arange(height * width)[:, None], width)
    return np.concatenate([column * rates, row * rates], axis=-1)


def rotate(a: Array, angles: Array) -> Array:
    """Each pair (a_i, a_{i + head_dim/2}) of a [b, length, heads, head_dim], turned by angle i.

    arXiv:2104.09864, Eq. 15, up to the order of the features. The product of a query and a key then depends on
    their places by the difference alone.
    """
    first, second = jnp.split(a.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1).astype(a.dtype)


def adaptive_norm(h: Array, shift: Array, scale: Array, dtype: Dtype) -> Array:
    """norm(h)·(1 + scale) + shift, a layer norm (eps 1e-6) whose scale and shift [b, 1, width] are a condition's.

    In float32; arXiv:2212.09748, Sec. 3.2, adaLN.
    """
    h = h.astype(jnp.float32)
    d = h - h.mean(-1, keepdims=True)
    normed = d * jax.lax.rsqrt(jnp.square(d).mean(-1, keepdims=True) + 1e-6)
    return (normed * (1 + scale.astype(jnp.float32)) + shift.astype(jnp.float32)).astype(dtype)


def modulation(condition: Array, parts: int, width: int, dtype: Dtype, name: str = "modulation") -> list[Array]:
    """`parts` linear maps of the condition [b, features], each [b, 1, width], all zero at the start (adaLN-Zero)."""
    return jnp.split(dense(parts * width, dtype=dtype, scale=0.0, name=name)(condition)[:, None], parts, axis=-1)


def rms_norm(a: Array, dtype: Dtype, name: str) -> Array:
    """a / sqrt(mean(a²) + 1e-6)·scale over the last axis, in float32; arXiv:1910.07467, Eq. 4.

    Of queries and keys, it keeps attention's logits from growing: arXiv:2302.05442, Sec. 2; arXiv:2403.03206,
    Sec. 5.3.2.
    """
    norm = nn.RMSNorm(epsilon=1e-6, dtype=jnp.float32, scale_init=initializers.constant(1.0), name=name)
    return norm(a.astype(jnp.float32)).astype(dtype)


class Perceptron(nn.Module):
    """narrow(gelu(wide(h))), four times as wide; arXiv:1606.08415, the approximation by tanh.

    `gated` is SwiGLU, narrow(silu(gate(h))·wide(h)) (arXiv:2002.05202, Eq. 6), of two thirds of that width, for about
    as many parameters: 8·round(width/3).
    """

    gated: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: Array) -> Array:
        width = h.shape[-1]
        inner = 8 * round(width / 3) if self.gated else 4 * width
        wide = dense(inner, dtype=self.dtype, name="wide")(h)
        if self.gated:
            wide = layers.silu(dense(inner, dtype=self.dtype, name="gate")(h)) * wide
        else:
            wide = jax.nn.gelu(wide.astype(jnp.float32), approximate=True).astype(self.dtype)
        return dense(width, dtype=self.dtype, name="narrow")(wide)


class Block(nn.Module):
    """h + gate·attention(norm(h)), + cross-attention, + gate·perceptron(norm(h)); arXiv:2212.09748, Fig. 3, adaLN-Zero.

    Scale and shift of both norms and both gates are linear in the condition, and zero at the start: a new block is
    the identity.

    Args of the module:
      heads: of the attention.
      qk_norm: queries and keys pass an RMS norm.
      swiglu: the perceptron is gated.
      dropout: rate on each of the sums' terms.
      keeps: whether h is given back a second time, for a long skip connection.
    """

    heads: int
    qk_norm: bool = False
    swiglu: bool = False
    dropout: float = 0.0
    dtype: Dtype = jnp.float32
    keeps: bool = False

    @nn.compact
    def __call__(
        self,
        h: Array,
        layer: Array,
        skip: Array | None,
        condition: Array,
        text: Text | None,
        angles: Array | None,
        dropout_keys: Array | None,
    ) -> tuple[Array, Array | None]:
        """(h of the next block, what is kept of it).

        Args:
          layer: this block's number, which tells its dropout from the other blocks'.
          skip: tokens of an earlier block, joined to h by a linear map (arXiv:2209.12152, Sec. 3.1).
          condition: [b, features], the same for all blocks.
          text: for cross-attention, at least one token of each. It sits between attention and perceptron and is zero at
            the start, without a norm of its own (arXiv:2310.00426, Sec. 2.3).
        """
        width = h.shape[-1]
        drop = _dropout(self, dropout_keys, layer)
        if skip is not None:
            h = dense(width, dtype=self.dtype, name="skip")(jnp.concatenate([h, skip], axis=-1))
        shift_0, scale_0, gate_0, shift_1, scale_1, gate_1 = modulation(condition, 6, width, self.dtype)
        q, k, v = heads_of(adaptive_norm(h, shift_0, scale_0, self.dtype), 3, width, self.heads, self.dtype, "qkv")
        h = h + gate_0 * drop(self._attend("", q, k, v, angles=angles), 0)
        if text is not None:
            (q,) = heads_of(h, 1, width, self.heads, self.dtype, "text_query")
            k, v = heads_of(text.tokens, 2, width, self.heads, self.dtype, "text_key_value")
            h = h + drop(self._attend("text_", q, k, v, mask=text.mask[:, None, None], scale=0.0), 1)
        inner = adaptive_norm(h, shift_1, scale_1, self.dtype)
        h = h + gate_1 * drop(Perceptron(self.swiglu, self.dtype, name="perceptron")(inner), 2)
        return h, h if self.keeps else None

    def _attend(self, name, q, k, v, angles=None, mask=None, scale=1.0):
        q, k = _placed(self, name, q, k, angles)
        h = jax.nn.dot_product_attention(q, k, v, mask=mask)
        return dense(q.shape[2] * q.shape[3], dtype=self.dtype, scale=scale, name=f"{name}project")(_joined(h))


class JointBlock(nn.Module):
    """A block of two streams, image and text, each with weights of its own, and one attention over both.

    arXiv:2403.03206, Sec. 4 and Fig. 2b. The last block's text is heard but not spoken to: it has no queries, and its
    stream ends there.

    Args of the module: as of `Block`, and `last`.
    """

    heads: int
    qk_norm: bool = True
    swiglu: bool = False
    dropout: float = 0.0
    dtype: Dtype = jnp.float32
    last: bool = False

    @nn.compact
    def __call__(
        self,
        streams: tuple[Array, Array],
        layer: Array,
        condition: Array,
        mask: Array,
        angles: Array | None,
        dropout_keys: Array | None,
    ) -> tuple[tuple[Array, Array], None]:
        """The streams of image and text, of which `mask` bool [b, length] are there."""
        h, text = streams
        width, length = h.shape[-1], h.shape[1]
        drop = _dropout(self, dropout_keys, layer)
        parts = modulation(condition, 6, width, self.dtype)
        q, k, v = heads_of(adaptive_norm(h, *parts[:2], self.dtype), 3, width, self.heads, self.dtype, "qkv")
        q, k = _placed(self, "", q, k, angles)
        text_parts = modulation(condition, 2 if self.last else 6, width, self.dtype, "text_modulation")
        normed = adaptive_norm(text, *text_parts[:2], self.dtype)
        *text_q, text_k, text_v = heads_of(
            normed, 2 if self.last else 3, width, self.heads, self.dtype, "text_key_value" if self.last else "text_qkv"
        )
        text_q, text_k = _placed(self, "text_", text_q[0] if text_q else None, text_k, None)
        q = q if text_q is None else jnp.concatenate([q, text_q], axis=1)
        k, v = jnp.concatenate([k, text_k], axis=1), jnp.concatenate([v, text_v], axis=1)
        there = jnp.concatenate([jnp.ones((len(h), length), bool), mask], axis=1)
        a = _joined(jax.nn.dot_product_attention(q, k, v, mask=there[:, None, None]))
        h = self._rest("", h, a[:, :length], parts, drop, 0)
        return (h, text if self.last else self._rest("text_", text, a[:, length:], text_parts, drop, 2)), None

    def _rest(self, name, h, a, parts, drop, site):
        _, _, gate_0, shift_1, scale_1, gate_1 = parts
        h = h + gate_0 * drop(dense(h.shape[-1], dtype=self.dtype, name=f"{name}project")(a), site)
        inner = adaptive_norm(h, shift_1, scale_1, self.dtype)
        return h + gate_1 * drop(Perceptron(self.swiglu, self.dtype, name=f"{name}perceptron")(inner), site + 1)


def _placed(block, name, q, k, angles):
    """Queries and keys behind their norms, turned to their places; q may be None."""
    if block.qk_norm:
        q = q if q is None else rms_norm(q, block.dtype, f"{name}query_norm")
        k = rms_norm(k, block.dtype, f"{name}key_norm")
    return (q, k) if angles is None else (rotate(q, angles), rotate(k, angles))


def _joined(heads):
    return heads.reshape(*heads.shape[:2], -1)


def _dropout(block, keys, layer):
    """(h, site) -> h behind dropout, each site of each layer with masks of its own."""
    if keys is not None and block.dropout:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, layer))(keys)
    path = "/".join(block.path)
    return lambda h, site: layers.dropout(h, keys, block.dropout, zlib.crc32(f"{path}/{site}".encode()))
