"""The U-Net of DDPM and its descendants."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from diffax.conditions import Cond
from diffax.models import convolutions, fir, layers
from diffax.models.conditioning import LowResolution, check_cond, tell
from diffax.models.patches import patchify, unpatchify

if TYPE_CHECKING:
    from diffax.models.classifier import Classifier


class UNet(nn.Module):
    """Convolutional U-Net with skip connections: (x_in, c_noise, cond) -> y.

    The defaults are DDPM's CIFAR-10 network (arXiv:2006.11239, appendix B; 35,746,307 parameters with three image
    channels) without its dropout of 0.1. `adaptive`, `head_dim=64` and `residual_resampling` together are the network
    of Dhariwal & Nichol (arXiv:2105.05233). DDPM++ and NCSN++ (arXiv:2011.13456, App. H) are `blocks=4,
    residual_resampling=True, skip_rescale=True, skip_conv=True, attend_once=True`, the latter with `fir=True,
    progressive_input=True, fourier=16.0` on top.

    Args of the module:
      out_channels: of the result; None is the input's.
      channels: of the first convolution; each level has `channels * multipliers[level]` at half the size of the one
        before.
      blocks: residual blocks a level on the way down; one more on the way up.
      attention: sizes in positions (the longer side) of the levels with self-attention after each residual block. The
        middle always has it.
      head_dim: channels of an attention head; None is a single head.
      num_classes: 0 is a network without classes.
      text: reads the condition `text`: a `TextTransformer` or `TextEmbeddings`; None is a network without.
      pooled_text: the mean of what the text says joins the noise level's embedding, as in Imagen (arXiv:2205.11487);
        without, cross-attention alone carries it, as in Stable Diffusion (arXiv:2112.10752).
      cross_attention: sizes in positions of the levels where each position attends to the text's tokens as well,
        after each residual block and its self-attention. The middle always does.
      vectors: names of conditions that are vectors, added to the noise level's embedding.
      image: whether the condition `image` joins x: a picture of lower resolution, of any size.
      adaptive: adaptive group norm; otherwise the condition is added.
      residual_resampling: sizes change inside residual blocks; otherwise by a strided convolution, and by nearest
        neighbor and a convolution.
      fir: sizes change behind the filter [1, 3, 3, 1] rather than by nearest neighbor and means of 2x2 pixels.
      skip_conv: residual blocks that change the size have a 1x1 convolution in their skip path.
      skip_rescale: residual sums are divided by sqrt(2).
      progressive_input: after each downsampling the features are joined by the image, brought to their size and
        channels by one strided convolution a level.
      attend_once: on the way up only the last residual block of a level is followed by attention.
      fourier: scale of the random Fourier features that embed c_noise, then log sigma; 0 is the sinusoidal embedding.
      input_frequencies: for each n of them, sin and cos of 2^n·pi·x join the image, to resolve the integers that it was
        (VDM, arXiv:2107.00630, App. C: 7 and 8 for 256 levels in [-1, 1], whose period is two of them and one).
      patch: side of the squares of pixels that enter and leave as one position of the first level, so that images of
        64 pixels cost with 2 what those of 32 cost with 1 (arXiv:2207.04316). A position is a pixel otherwise.
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
    text: nn.Module | None = None
    pooled_text: bool = True
    cross_attention: Sequence[int] = ()
    vectors: Sequence[str] = ()
    image: bool = False
    adaptive: bool = False
    residual_resampling: bool = False
    fir: bool = False
    skip_conv: bool = False
    skip_rescale: bool = False
    progressive_input: bool = False
    attend_once: bool = False
    fourier: float = 0.0
    input_frequencies: Sequence[int] = ()
    patch: int = 1
    dropout: float = 0.0
    groups: int = 32
    dtype: layers.Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: Array,
        c_noise: Array,
        cond: Cond | None = None,
        *,
        dropout_keys: Array | None = None,
    ) -> Array:
        """y of each example.

        Args:
          x: images; both sides divisible by patch·2^(levels - 1).
          c_noise: noise level as the network sees it, e.g. DDPM's 0 ... 999.
          cond: the conditions that the network has, and no others, as in `diffax.conditions`: `label` if it has
            classes, `text` if it reads, `image`, and each of `vectors`.
          dropout_keys: one key per example; None is no dropout.

        Raises:
          ValueError: for a size that the levels do not divide, or a condition that is missing or not known.
        """
        check_shape(self, x.shape)
        cond = check_cond(self, cond)
        out_channels = x.shape[-1] if self.out_channels is None else self.out_channels
        if self.image:
            x = LowResolution(name="image_in")(x, cond["image"], cond.get("image_mask"))
        if self.input_frequencies:
            x = layers.with_frequencies(x, self.input_frequencies)
        x = patchify(x, self.patch)
        widths = [self.channels * m for m in self.multipliers]
        condition, text = tell(self, self.channels, 4 * self.channels, c_noise, cond, self.pooled_text)

        def block(h, width, name, attend=False, read=None, resample=None):
            h = self._res_block(width, name, resample)(h, condition, dropout_keys)
            h = self._attention_block(f"{name}_attention")(h) if attend else h
            read = max(h.shape[1:3]) in self.cross_attention if read is None else read
            if text is None or not read:
                return h
            return self._cross_attention_block(f"{name}_text")(h, text.tokens, text.mask)

        h = convolutions.conv(self.channels, dtype=self.dtype, name="conv_in")(x)
        skips, image = [h], x
        for level, width in enumerate(widths):
            if level:
                h = self._resize(h, width=widths[level - 1], name=f"down_{level}", block=block, up=False)
                if self.progressive_input:
                    image = self._shrink(image, h.shape[-1], f"image_{level}")
                    h = image = layers.join(image, h, self.skip_rescale)
                skips.append(h)
            for i in range(self.blocks):
                h = block(h, width, f"down_{level}_{i}", max(h.shape[1:3]) in self.attention)
                skips.append(h)
        h = block(h, widths[-1], "middle_0", attend=True, read=True)
        h = block(h, widths[-1], "middle_1", read=False)
        for level, width in reversed(list(enumerate(widths))):
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                attend = max(h.shape[1:3]) in self.attention and (i == self.blocks or not self.attend_once)
                h = block(h, width, f"up_{level}_{i}", attend)
            if level:
                h = self._resize(h, width=width, name=f"up_{level}", block=block, up=True)
        h = layers.silu(layers.GroupNorm(self.groups, self.dtype, name="norm_out")(h))
        h = convolutions.conv(self.patch**2 * out_channels, dtype=self.dtype, scale=0.0, name="conv_out")(h)
        return unpatchify(h, self.patch).astype(jnp.float32)

    def _res_block(self, width, name, resample):
        make, skip = self._maybe_remat(layers.ResBlock), (self.skip_conv, self.skip_rescale)
        return make(width, self.groups, self.dropout, self.adaptive, resample, self.dtype, *skip, name=name)

    def _attention_block(self, name):
        make = self._maybe_remat(layers.AttentionBlock)
        return make(self.groups, self.head_dim, self.dtype, self.skip_rescale, name=name)

    def _cross_attention_block(self, name):
        make = self._maybe_remat(layers.CrossAttentionBlock)
        return make(self.groups, self.head_dim, self.dtype, self.skip_rescale, name=name)

    def _maybe_remat(self, block):
        return nn.remat(block) if self.remat and not self.is_initializing() else block

    def _resize(self, h, *, width, name, block, up):
        if self.residual_resampling:
            how = fir if self.fir else layers
            return block(h, width, name, read=False, resample=how.upsample if up else how.downsample)
        if up:
            return convolutions.UpsampleConv(width, self.dtype, name=name)(h)
        return convolutions.conv(width, dtype=self.dtype, stride=2, name=name)(h)

    def _shrink(self, image, width, name):
        padding = "VALID" if self.fir else "SAME"
        return convolutions.conv(width, dtype=self.dtype, stride=2, padding=padding, name=name)(
            fir.blur(image) if self.fir else image
        )


def check_shape(network: "UNet | Classifier", shape: Sequence[int]) -> None:
    """Raise ValueError unless `network` takes images of this shape, [..., height, width, channels]; traces nothing."""
    for option in ("fir", "skip_conv"):
        if isinstance(network, UNet) and getattr(network, option) and not network.residual_resampling:
            raise ValueError(
                f"{option}=True is for residual blocks that resample: set residual_resampling=True as well"
            )
    if isinstance(network, UNet) and network.cross_attention and network.text is None:
        raise ValueError(
            f"cross_attention={network.cross_attention} needs text: set text to a TextTransformer or TextEmbeddings"
        )
    layers.check_levels(network, shape, network.patch if isinstance(network, UNet) else 1)
    for n in getattr(network, "input_frequencies", ()):
        if not 0 <= n <= 16:  # beyond, float32 no longer resolves the angle
            raise ValueError(f"input_frequencies: {n} is not allowed: expected 0 to 16 (7 and 8 for 256 gray levels)")
    if network.head_dim is not None and network.head_dim < 1:
        raise ValueError(f"head_dim={network.head_dim} is not allowed: expected at least 1, or None for a single head")
    for m in (1, *network.multipliers):
        if network.channels * m % network.groups:
            raise ValueError(
                f"channels {network.channels} x multiplier {m} is not divisible by groups={network.groups}: "
                "choose groups that divide channels and every level's"
            )
    for m in network.multipliers:
        if network.head_dim and network.channels * m % network.head_dim:
            raise ValueError(
                f"channels {network.channels} x multiplier {m} is not divisible by head_dim={network.head_dim}: "
                "choose a head_dim that divides every level's channels"
            )
