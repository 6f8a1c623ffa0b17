"""The classifier of noisy images that guides samplers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from diffax.models import convolutions, initializers, layers
from diffax.models.conditioning import Conditioning
from diffax.models.unet import check_shape


class Classifier(nn.Module):
    """The encoder half of the U-Net of Dhariwal & Nichol with attention pooling: (x_in, c_noise) -> logits.

    The defaults are their ImageNet 64x64 classifier (arXiv:2105.05233, Sec. 4 and App. I), without its 1000 classes.
    Trained by `diffax.losses.classifier_loss`, it guides through `diffax.prediction.class_log_prob`.

    Args of the module:
      num_classes: the number of logits.
      channels, multipliers, blocks, attention, head_dim, dropout, groups, dtype, remat: as in `UNet`. Norms are
        adaptive and sizes change inside residual blocks.
    """

    num_classes: int
    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 3, 4)
    blocks: int = 4
    attention: Sequence[int] = (32, 16, 8)
    head_dim: int | None = 64
    dropout: float = 0.0
    groups: int = 32
    dtype: layers.Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, *, dropout_keys: Array | None = None) -> Array:
        """Logits [batch, num_classes], float32; a new classifier gives every class the same.

        Args:
          x: noisy images, both sides divisible by 2^(levels - 1) and the same in every call.
          c_noise, dropout_keys: as in `UNet`.

        Raises:
          ValueError: for a size that the levels do not divide.
        """
        check_shape(self, x.shape)
        widths = [self.channels * m for m in self.multipliers]
        condition = Conditioning(self.channels, 4 * self.channels, dtype=self.dtype, name="conditioning")(c_noise, {})
        make_block, make_attention = layers.ResBlock, layers.AttentionBlock
        if self.remat and not self.is_initializing():
            make_block, make_attention = nn.remat(make_block), nn.remat(make_attention)

        def block(h, width, name, attend=False, resample=None):
            h = make_block(width, self.groups, self.dropout, True, resample, self.dtype, name=name)(
                h, condition, dropout_keys
            )
            return make_attention(self.groups, self.head_dim, self.dtype, name=f"{name}_attention")(h) if attend else h

        h = convolutions.conv(self.channels, dtype=self.dtype, name="conv_in")(x)
        for level, width in enumerate(widths):
            if level:
                h = block(h, widths[level - 1], f"down_{level}", resample=layers.downsample)
            for i in range(self.blocks):
                h = block(h, width, f"down_{level}_{i}", max(h.shape[1:3]) in self.attention)
        h = block(h, widths[-1], "middle_0", attend=True)
        h = block(h, widths[-1], "middle_1")
        h = layers.silu(layers.GroupNorm(self.groups, self.dtype, name="norm_out")(h))
        return AttentionPool(self.num_classes, self.head_dim, self.dtype, name="pool")(h).astype(jnp.float32)


class AttentionPool(nn.Module):
    """[batch, *positions, channels] -> [batch, features]: what the mean over positions finds by attention to all.

    CLIP's pooling (arXiv:2103.00020, Sec. 2.4). The mean is one more position, each position has a learned embedding,
    and the mean's is the only query. The last layer is zero at the start.
    """

    features: int
    head_dim: int | None = None
    dtype: layers.Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, *_, channels = x.shape
        h = x.reshape(batch, -1, channels)
        h = jnp.concatenate([h.mean(1, keepdims=True), h], axis=1)
        where = self.param("positions", initializers.normal(channels**-0.5), h.shape[1:])
        h = h + where.astype(self.dtype)
        q = layers.dense(channels, dtype=self.dtype, name="query")(h[:, :1])
        kv = layers.dense(2 * channels, dtype=self.dtype, name="key_value")(h)
        head_dim = self.head_dim or channels
        q, k, v = (a.reshape(batch, a.shape[1], -1, head_dim) for a in (q, *jnp.split(kv, 2, axis=-1)))
        found = jax.nn.dot_product_attention(q, k, v).reshape(batch, channels)
        return layers.dense(self.features, dtype=self.dtype, scale=0.0, name="project")(found)
