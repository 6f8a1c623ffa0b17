"""The U-Net of DDPM and its descendants."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from diffax.models import layers


class UNet(nn.Module):
    """Convolutional U-Net with skip connections: (x_in, c_noise, label) -> y.

    The defaults are DDPM's CIFAR-10 network (arXiv:2006.11239, appendix B; 35,746,307 parameters with three image
    channels) without its dropout of 0.1. `adaptive`, `head_dim=64` and `residual_resampling` together are the network
    of Dhariwal & Nichol (arXiv:2105.05233).

    Args of the module:
      out_channels: of the result; None is the input's.
      channels: at full resolution; each level has `channels * multipliers[level]` at half the size of the one before.
      blocks: residual blocks a level on the way down; one more on the way up.
      attention: sizes in pixels (the longer side) of the levels with self-attention after each residual block. The
        middle always has it.
      head_dim: channels of an attention head; None is a single head.
      num_classes: 0 is an unconditional network.
      adaptive: adaptive group norm; otherwise the condition is added.
      residual_resampling: sizes change inside residual blocks; otherwise by a strided convolution, and by nearest
        neighbor and a convolution.
      dropout: rate in the residual blocks, applied where `dropout_keys` are given.
      groups: of every group norm.
      dtype: of the compute. Parameters, norms and the result are float32.
      remat: store only the blocks' inputs for the backward pass and compute the rest again.
    """

    out_channels: int | None = None
    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    blocks: int = 2
    attention: Sequence[int] = (16,)
    head_dim: int | None = None
    num_classes: int = 0
    adaptive: bool = False
    residual_resampling: bool = False
    dropout: float = 0.0
    groups: int = 32
    dtype: layers.Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        c_noise: Array,
        label: Array | None = None,
        *,
        dropout_keys: Array | None = None,
    ) -> Array:
        """y of each example.

        Args:
          x: images; both sides divisible by 2^(levels - 1).
          c_noise: noise level as the network sees it, e.g. DDPM's 0 ... 999.
          label: class, `num_classes` for none; exactly when the network has classes.
          dropout_keys: one key per example; None is no dropout.

        Raises:
          ValueError: for a size that the levels do not divide, or a label that is missing or not wanted.
        """
        check_shape(self, x.shape)
        out_channels = x.shape[-1] if self.out_channels is None else self.out_channels
        widths = [self.channels * m for m in self.multipliers]
        condition = layers.Conditioning(
            self.channels, 4 * self.channels, self.num_classes, self.dtype, name="conditioning"
        )(c_noise, label)

        def block(h, width, name, attend=False, resample=None):
            h = self._res_block(width, name, resample)(h, condition, dropout_keys)
            return self._attention_block(f"{name}_attention")(h) if attend else h

        h = layers.conv(widths[0], dtype=self.dtype, name="conv_in")(x)
        skips = [h]
        for level, width in enumerate(widths):
            if level:
                h = self._resize(h, width=widths[level - 1], name=f"down_{level}", block=block, up=False)
                skips.append(h)
            for i in range(self.blocks):
                h = block(h, width, f"down_{level}_{i}", max(h.shape[1:3]) in self.attention)
                skips.append(h)
        h = block(h, widths[-1], "middle_0", attend=True)
        h = block(h, widths[-1], "middle_1")
        for level, width in reversed(list(enumerate(widths))):
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, width, f"up_{level}_{i}", max(h.shape[1:3]) in self.attention)
            if level:
                h = self._resize(h, width=width, name=f"up_{level}", block=block, up=True)
        h = layers.silu(layers.GroupNorm(self.groups, self.dtype, name="norm_out")(h))
        return layers.conv(out_channels, dtype=self.dtype, scale=0.0, name="conv_out")(h).astype(jnp.float32)

    def _res_block(self, width, name, resample):
        make = self._maybe_remat(layers.ResBlock)
        return make(width, self.groups, self.dropout, self.adaptive, resample, self.dtype, name=name)

    def _attention_block(self, name):
        return self._maybe_remat(layers.AttentionBlock)(self.groups, self.head_dim, self.dtype, name=name)

    def _maybe_remat(self, block):
        return nn.remat(block) if self.remat and not self.is_initializing() else block

    def _resize(self, h, *, width, name, block, up):
        if self.residual_resampling:
            return block(h, width, name, resample=layers.upsample if up else layers.downsample)
        if up:
            return layers.UpsampleConv(width, self.dtype, name=name)(h)
        return layers.conv(width, dtype=self.dtype, stride=2, name=name)(h)


def check_shape(unet: UNet, shape: Sequence[int]) -> None:
    """Raise ValueError unless `unet` takes images of this shape, [..., height, width, channels]; traces nothing."""
    factor = 2 ** (len(unet.multipliers) - 1)
    height, width, _ = shape[-3:]
    if height % factor or width % factor:
        raise ValueError(
            f"image size {height}x{width} is not divisible by {factor}, the downsampling of a UNet with "
            f"{len(unet.multipliers)} multipliers: resize or pad the images, or use fewer multipliers"
        )
    for m in unet.multipliers:
        if unet.channels * m % unet.groups:
            raise ValueError(
                f"channels {unet.channels} x multiplier {m} is not divisible by groups={unet.groups}: "
                "choose groups that divide every level's channels"
            )
        if unet.head_dim and unet.channels * m % unet.head_dim:
            raise ValueError(
                f"channels {unet.channels} x multiplier {m} is not divisible by head_dim={unet.head_dim}: "
                "choose a head_dim that divides every level's channels"
            )
