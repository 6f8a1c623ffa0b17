"""EDM2's U-Net, whose layers preserve magnitudes."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from diffax.conditions import Cond
from diffax.models import initializers, layers
from diffax.models.conditioning import check_cond
from diffax.models.magnitude import MPBlock, MPFourier, MPLayer, mp_concat, mp_silu, mp_sum


class UNetEDM2(nn.Module):
    """Magnitude-preserving U-Net: (x_in, c_noise, cond) -> y; config G of arXiv:2312.02696, App. B, Fig. 22.

    It wants inputs of magnitude 1 and c_noise = ¼·ln(nsr), as of `prediction.edm`, and is trained with
    `diffax.train.unit_weights` (`optimizer.unit_weights=True`) at learning rates around 0.01. The sizes of the paper
    for 1000 classes, in millions of parameters, latents of ImageNet at 512 with 4 channels:

        EDM2-XS  channels=128   124.7      EDM2-L    channels=320    777.5
        EDM2-S   channels=192   280.2      EDM2-XL   channels=384   1119.3
        EDM2-M   channels=256   497.8      EDM2-XXL  channels=448   1523.2

    S to XL with 3 channels are its networks of ImageNet at 64.

    Args of the module:
      out_channels: of the result; None is the input's.
      channels: of the first convolution; each level has `channels * multipliers[level]` at half the size of the one
        before.
      blocks: residual blocks a level on the way down; one more on the way up.
      attention: sizes in pixels (the longer side) of the levels with self-attention in each of these blocks. The
        middle always has it.
      head_dim: channels of an attention head.
      num_classes: 0 is a network without classes. Class `num_classes` is the null; the paper's network has none.
      dropout: rate in the residual blocks, applied where `dropout_keys` are given; the paper's is 0 for XS and S, 0.1
        for the larger.
      dtype: of the compute. Parameters, their normalization and the result are float32.
      remat: store only the blocks' inputs for the backward pass and compute the rest again.
    """

    out_channels: int | None = None
    channels: int = 192
    multipliers: Sequence[int] = (1, 2, 3, 4)
    blocks: int = 3
    attention: Sequence[int] = (16, 8)
    head_dim: int = 64
    num_classes: int = 0
    dropout: float = 0.0
    dtype: layers.Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Cond | None = None, *, dropout_keys: Array | None = None
    ) -> Array:
        """y of each example.

        Args:
          x: images; both sides divisible by 2^(levels - 1).
          c_noise: noise level as the network sees it, ¼·ln(nsr).
          cond: dict(label=...) if the network has classes.
          dropout_keys: one key per example; None is no dropout.

        Raises:
          ValueError: for a size that the levels do not divide, or a condition that is missing or not known.
        """
        check_edm2(self, x.shape)
        cond = check_cond(self, cond)
        out_channels = x.shape[-1] if self.out_channels is None else self.out_channels
        condition = self._condition(c_noise, cond)
        widths = [self.channels * m for m in self.multipliers]

        def block(h, width, name, attend=None, **options):
            attend = max(h.shape[1:3]) in self.attention if attend is None else attend
            make = nn.remat(MPBlock) if self.remat and not self.is_initializing() else MPBlock
            options |= dict(head_dim=self.head_dim if attend else 0, dropout=self.dropout, dtype=self.dtype)
            return make(width, name=name, **options)(h, condition, dropout_keys)

        # a channel of ones stands in for biases; arXiv:2312.02696, App. B
        h = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        h = MPLayer(self.channels, (3, 3), self.dtype, name="conv_in")(h)
        skips = [h]
        for level, width in enumerate(widths):
            if level:
                h = block(h, widths[level - 1], f"down_{level}", attend=False, resample=layers.downsample)
                skips.append(h)
            for i in range(self.blocks):
                h = block(h, width, f"down_{level}_{i}")
                skips.append(h)
        h = block(h, widths[-1], "middle_0", attend=True, decoder=True)
        h = block(h, widths[-1], "middle_1", attend=False, decoder=True)
        for level, width in reversed(list(enumerate(widths))):
            for i in range(self.blocks + 1):
                h = block(mp_concat(h, skips.pop()), width, f"up_{level}_{i}", decoder=True)
            if level:
                h = block(h, width, f"up_{level}", attend=False, decoder=True, resample=layers.upsample)
        gain = self.param("gain", initializers.constant(0.0), ())
        return MPLayer(out_channels, (3, 3), self.dtype, name="conv_out")(h, gain).astype(jnp.float32)

    def _condition(self, c_noise, cond):
        """silu of noise level and class, [batch, features]."""
        features = self.channels * max(self.multipliers)
        h = MPLayer(features, (), self.dtype, name="noise")(MPFourier(self.channels, name="fourier")(c_noise))
        if self.num_classes:
            n = self.num_classes + 1
            # a one-hot row of root mean square 1; as a product, its gradient is a sum in fixed order on a GPU
            given = math.sqrt(n) * jax.nn.one_hot(cond["label"], n)
            given = jnp.where(given.any(-1, keepdims=True), given, jnp.nan)  # a label out of range
            h = mp_sum(h, MPLayer(features, (), self.dtype, name="classes")(given))
        return mp_silu(h)


def check_edm2(network: UNetEDM2, shape: Sequence[int]) -> None:
    """Raise ValueError unless `network` takes images of this shape, [..., height, width, channels]; traces nothing."""
    layers.check_levels(network, shape)
    for option in ("channels", "head_dim", "blocks"):
        if getattr(network, option) < 1:
            raise ValueError(f"{option}={getattr(network, option)} is not allowed: expected at least 1")
    last = len(network.multipliers) - 1
    for level, m in enumerate(network.multipliers):
        attends = max(shape[-3:-1]) // 2**level in network.attention or level == last
        if attends and network.channels * m % network.head_dim:
            raise ValueError(
                f"channels {network.channels} x multiplier {m} is not divisible by head_dim={network.head_dim}: "
                "choose a head_dim that divides every level with attention, the lowest among them"
            )
