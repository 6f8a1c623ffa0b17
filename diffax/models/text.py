"""Networks that read text: a small transformer trained with the rest, and the entrance for embeddings of another."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from diffax.models import initializers
from diffax.models.layers import Dtype, dense, heads_of, lookup, silu


class Text(NamedTuple):
    """What a text says: `tokens` [batch, length, width], of which `mask` bool [batch, length] are there, and `pooled`
    [batch, width], the mean of these."""

    tokens: Array
    mask: Array
    pooled: Array


class TextTransformer(nn.Module):
    """Tokens [batch, length] -> `Text`: embeddings of tokens and places, then a transformer over the whole text.

    Pre-norm blocks of attention and of a perceptron four times as wide; arXiv:1706.03762, without the causal mask: the
    text is there to be read whole. Padding, token 0, is never attended to.

    Args of the module:
      vocabulary: tokens are 0 .. vocabulary - 1; one out of range gives NaN.
      width: of the embeddings.
      layers: blocks.
      head_dim: of the attention.
      kernel: tokens, odd, that the feed-forward reads side by side (arXiv:1905.09263, Sec. 3.1); 1 is each on its own.
        With more the words of "a red circle and a blue square" are soon known by their neighbors.
      dtype: of the compute. Parameters and norms are float32.
    """

    vocabulary: int
    width: int = 128
    layers: int = 2
    head_dim: int = 32
    kernel: int = 1
    dtype: Dtype = jnp.float32

    def __post_init__(self):
        for option in ("width", "layers", "head_dim", "kernel"):
            if getattr(self, option) < 1:
                raise ValueError(f"{option}={getattr(self, option)} is not allowed: expected at least 1")
        if self.width % self.head_dim:
            raise ValueError(
                f"width={self.width} is not divisible by head_dim={self.head_dim}: choose one that divides it"
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel} is not allowed: expected an odd number, a token and its neighbors")
        super().__post_init__()

    @nn.compact
    def __call__(self, text: Array, mask: Array | None = None) -> Text:
        """`text` int [batch, length]; `mask` if other places than those of token 0 are empty."""
        if not jnp.issubdtype(text.dtype, jnp.integer):
            raise ValueError(f"text: {text.dtype} is not allowed, expected integer tokens; TextEmbeddings takes floats")
        mask = text != 0 if mask is None else mask
        table = self.param("embedding", initializers.normal(1.0), (self.vocabulary, self.width))
        places = self.param("places", initializers.normal(1.0), (text.shape[1], self.width))
        h = (lookup(table, text) + places).astype(self.dtype)
        for i in range(self.layers):
            h = h + self._attention(f"{i}_attention", norm(h, self.dtype, f"{i}_norm_0"), mask)
            near = self._neighbors(norm(h, self.dtype, f"{i}_norm_1"), mask)
            wide = dense(4 * self.width, dtype=self.dtype, name=f"{i}_wide")(near)
            h = h + dense(self.width, dtype=self.dtype, name=f"{i}_narrow")(silu(wide))
        return told(norm(h, self.dtype, "norm_out"), mask)

    def _neighbors(self, h, mask):
        # a dense layer of these is a convolution whose kernel is one matrix, for `muon` too
        h = jnp.where(mask[..., None], h, 0)
        padded = jnp.pad(h, ((0, 0), (self.kernel // 2, self.kernel // 2), (0, 0)))
        return jnp.concatenate([padded[:, i : i + h.shape[1]] for i in range(self.kernel)], axis=-1)

    def _attention(self, name, h, mask):
        q, k, v = heads_of(h, 3, self.width, self.width // self.head_dim, self.dtype, f"{name}_qkv")
        h = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None]).reshape(h.shape)
        return dense(self.width, dtype=self.dtype, name=f"{name}_project")(h)


class TextEmbeddings(nn.Module):
    """Embeddings of a frozen encoder [batch, length, features] -> `Text` of `width`: one dense layer and a norm.

    A learned token, always there, comes first: a text without any embedding is the null. Without a mask, rows of zeros
    are empty.
    """

    width: int = 128
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, text: Array, mask: Array | None = None) -> Text:
        if not jnp.issubdtype(text.dtype, jnp.floating):
            raise ValueError(f"text: {text.dtype} is not allowed, expected embeddings; TextTransformer takes tokens")
        mask = jnp.any(text != 0, -1) if mask is None else mask
        # what is not there may be anything, NaN too
        text = jnp.where(mask[..., None], text, 0).astype(self.dtype)
        h = dense(self.width, dtype=self.dtype, name="project")(text)
        start = self.param("start", initializers.normal(1.0), (1, 1, self.width)).astype(self.dtype)
        h = jnp.concatenate([jnp.broadcast_to(start, (len(text), 1, self.width)), h], axis=1)
        mask = jnp.concatenate([jnp.ones((len(text), 1), bool), mask], axis=1)
        return told(norm(h, self.dtype, "norm_out"), mask)


def told(tokens: Array, mask: Array) -> Text:
    """`Text` of tokens, with the mean over those that are there."""
    weight = mask.astype(jnp.float32)[..., None]
    mean = (tokens.astype(jnp.float32) * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
    return Text(tokens, mask, mean.astype(tokens.dtype))


def norm(x: Array, dtype: Dtype, name: str) -> Array:
    """Layer norm in float32, learned scale and bias; arXiv:1607.06450."""
    return nn.LayerNorm(dtype=jnp.float32, name=name)(x.astype(jnp.float32)).astype(dtype)
