"""A residual multilayer perceptron, for data that are vectors."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from diffax.conditions import Cond
from diffax.models import layers
from diffax.models.conditioning import Conditioning, check_cond


class MLP(nn.Module):
    """Residual MLP for vectors: (x_in, c_noise, cond) -> y; each block is h + dense(silu(dense(h) + condition)).

    Args of the module:
      out_features: of the result; None is the input's.
      features: hidden width.
      blocks: residual blocks.
      num_classes: 0 is an unconditional network.
      dropout: rate in the blocks, applied where `dropout_keys` are given.
      dtype: of the compute. Parameters and the result are float32.
    """

    out_features: int | None = None
    features: int = 128
    blocks: int = 3
    num_classes: int = 0
    dropout: float = 0.0
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        c_noise: Array,
        cond: Cond | None = None,
        *,
        dropout_keys: Array | None = None,
    ) -> Array:
        """y of each example; the arguments are `UNet`'s."""
        out_features = x.shape[-1] if self.out_features is None else self.out_features
        cond = check_cond(self, cond)
        told = Conditioning(self.features, self.features, self.num_classes, self.dtype, name="conditioning")
        condition = layers.silu(told(c_noise, cond))

        def dense(name, features=self.features, scale=1.0):
            return layers.dense(features, dtype=self.dtype, scale=scale, name=name)

        h = dense("dense_in")(x)
        for i in range(self.blocks):
            inner = layers.silu(dense(f"block_{i}_in")(h) + dense(f"block_{i}_condition")(condition))
            h = h + dense(f"block_{i}_out")(layers.dropout(inner, dropout_keys, self.dropout, i))
        return dense("dense_out", out_features, scale=0.0)(layers.silu(h)).astype(jnp.float32)
