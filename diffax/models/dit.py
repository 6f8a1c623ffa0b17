"""Diffusion transformers: DiT and its descendants, and MMDiT for text.

Their blocks are one, run under `nn.scan` with parameters stacked [depth, ...]: a network of any depth compiles in the
same time.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from diffax.conditions import Cond
from diffax.models import initializers, transformer
from diffax.models.conditioning import LowResolution, check_cond, tell
from diffax.models.layers import Dtype, dense, silu
from diffax.models.patches import patchify, unpatchify


class DiT(nn.Module):
    """Diffusion transformer: (x_in, c_noise, cond) -> y.

    Patches of x pass transformer blocks whose norms and gates the conditions set (adaLN-Zero). The sizes of the paper
    (arXiv:2212.09748, Table 1), each for `patch` 2, 4 or 8 and `frequencies=256`:

        DiT-S   width=384   depth=12  heads=6      DiT-L   width=1024  depth=24  heads=16
        DiT-B   width=768   depth=12  heads=12     DiT-XL  width=1152  depth=28  heads=16

    DiT-XL/2 of 1000 classes, 4 channels in and 8 out, has 674,834,720 parameters. Its released checkpoint counts
    294,912 more, the embedding of places, which is fixed and no parameter here; there the embedding of c_noise has
    the rates 10000^(-i/half), cosines first, and here, as in DDPM, 10000^(-i/(half - 1)), sines first.

    Args of the module:
      out_channels: of the result; None is the input's.
      patch: side of a patch in pixels.
      width: of the tokens.
      depth: blocks.
      heads: of the attention; each is width/heads wide.
      num_classes: 0 is a network without classes.
      text: reads the condition `text`: a `TextTransformer` or `TextEmbeddings`; None is a network without.
      pooled_text: the mean of what the text says joins the noise level's embedding; without, only attention carries it.
      cross_attention: every token attends to the text's as well, in each block (PixArt-alpha, arXiv:2310.00426).
      vectors: names of conditions that are vectors, added to the noise level's embedding.
      image: whether the condition `image` joins x: a picture of lower resolution, of any size.
      rotary: places enter by the rotation of queries and keys rather than by a sum of sines and cosines.
      qk_norm: queries and keys pass an RMS norm.
      swiglu: perceptrons are gated (arXiv:2002.05202).
      registers: learned tokens beside those of the image (arXiv:2309.16588).
      long_skips: each block of the second half is joined by its counterpart of the first, the last by the first
        (U-ViT, arXiv:2209.12152).
      frequencies: sines and cosines that embed c_noise.
      fourier: scale of random Fourier features, which embed c_noise in their place; 0 is the sinusoidal embedding.
      dropout: rate on the blocks' sums, applied where `dropout_keys` are given.
      dtype: of the compute. Parameters, norms and the result are float32.
      remat: store only the blocks' inputs for the backward pass and compute the rest again.
      policy: what else to store, a function of `jax.checkpoint_policies` such as `dots_saveable`.
    """

    out_channels: int | None = None
    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    num_classes: int = 0
    text: nn.Module | None = None
    pooled_text: bool = True
    cross_attention: bool = False
    vectors: Sequence[str] = ()
    image: bool = False
    rotary: bool = False
    qk_norm: bool = False
    swiglu: bool = False
    registers: int = 0
    long_skips: bool = False
    frequencies: int = 256
    fourier: float = 0.0
    dropout: float = 0.0
    dtype: Dtype = jnp.float32
    remat: bool = False
    policy: Callable[..., bool] | None = None

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Cond | None = None, *, dropout_keys: Array | None = None
    ) -> Array:
        """y of each example.

        Args:
          x: images; both sides divisible by `patch`.
          c_noise: noise level as the network sees it, e.g. DDPM's 0 ... 999.
          cond: the conditions that the network has, and no others, as in `diffax.conditions`: `label` if it has
            classes, `text` if it reads, `image`, and each of `vectors`.
          dropout_keys: one key per example; None is no dropout.

        Raises:
          ValueError: for a size or options that do not fit, or a condition that is missing or not known.
        """
        check_tokens(self, x.shape)
        cond = check_cond(self, cond)
        h, angles = _enter(self, x, cond)
        condition, text = _tell(self, c_noise, cond)
        h = self._blocks(h, condition, text if self.cross_attention else None, angles, dropout_keys)
        return _leave(self, h, condition, x.shape)

    def _blocks(self, h, *told):
        if not self.long_skips:
            return self._stack("blocks", range(self.depth))(h, None, *told)[0]
        half = self.depth // 2
        h, kept = self._stack("blocks_down", range(half), keeps=True)(h, None, *told)
        if self.depth % 2:
            h, _ = self._stack("blocks_middle", range(half, half + 1))(h, None, *told)
        return self._stack("blocks_up", range(self.depth - half, self.depth))(h, kept[::-1], *told)[0]

    def _stack(self, name, numbers, keeps=False):
        block = _scanned(self, transformer.Block, len(numbers), scanned=2, broadcast=4)(
            self.heads, self.qk_norm, self.swiglu, self.dropout, self.dtype, keeps, name=name
        )
        return lambda h, *args: block(h, jnp.asarray(numbers), *args)


class MMDiT(nn.Module):
    """Diffusion transformer of two streams: (x_in, c_noise, cond) -> y; arXiv:2403.03206, Sec. 4.

    The text's tokens are a stream of their own, with weights of their own, through all blocks; in each, one attention
    runs over the tokens of both. The paper's networks have `width=64 * depth, heads=depth, patch=2`. Its last block
    has queries for the text that nothing reads, left out here.

    Args of the module: as of `DiT`, but that `text` is needed, and `qk_norm` is the default.
    """

    out_channels: int | None = None
    patch: int = 2
    width: int = 768
    depth: int = 12
    heads: int = 12
    num_classes: int = 0
    text: nn.Module | None = None
    pooled_text: bool = True
    vectors: Sequence[str] = ()
    image: bool = False
    rotary: bool = False
    qk_norm: bool = True
    swiglu: bool = False
    registers: int = 0
    frequencies: int = 256
    fourier: float = 0.0
    dropout: float = 0.0
    dtype: Dtype = jnp.float32
    remat: bool = False
    policy: Callable[..., bool] | None = None

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Cond | None = None, *, dropout_keys: Array | None = None
    ) -> Array:
        """y of each example; arguments and errors are `DiT`'s."""
        check_tokens(self, x.shape)
        cond = check_cond(self, cond)
        h, angles = _enter(self, x, cond)
        condition, text = _tell(self, c_noise, cond)
        streams = h, dense(self.width, dtype=self.dtype, name="text_in")(text.tokens)
        told = condition, text.mask, angles, dropout_keys
        options = self.heads, self.qk_norm, self.swiglu, self.dropout, self.dtype
        if self.depth > 1:
            blocks = _scanned(self, transformer.JointBlock, self.depth - 1, scanned=1, broadcast=4)
            streams, _ = blocks(*options, name="blocks")(streams, jnp.arange(self.depth - 1), *told)
        last = _maybe_remat(self, transformer.JointBlock)(*options, last=True, name="last")
        (h, _), _ = last(streams, jnp.asarray(self.depth - 1), *told)
        return _leave(self, h, condition, x.shape)


def check_tokens(network: DiT | MMDiT, shape: Sequence[int]) -> None:
    """Raise ValueError unless `network` takes images of this shape, [..., height, width, channels]; traces nothing."""
    for option in ("patch", "width", "depth", "heads", "frequencies"):
        if getattr(network, option) < 1:
            raise ValueError(f"{option}={getattr(network, option)} is not allowed: expected at least 1")
    patch, width, heads = network.patch, network.width, network.heads
    if shape[-3] % patch or shape[-2] % patch:
        raise ValueError(
            f"image size {shape[-3]}x{shape[-2]} is not divisible by patch={patch}: resize or pad the images, or "
            "choose a patch that divides both sides"
        )
    if width % heads:
        raise ValueError(f"width={width} is not divisible by heads={heads}: choose heads that divide it")
    if network.rotary and width // heads % 4:
        raise ValueError(
            f"rotary=True needs heads whose width is divisible by 4, that of width={width} and heads={heads} is "
            f"{width // heads}: choose other heads, or rotary=False"
        )
    if not network.rotary and width % 4:
        raise ValueError(f"width={width} is not divisible by 4, as sines and cosines of two axes need: choose another")
    if isinstance(network, MMDiT) and network.text is None:
        raise ValueError("MMDiT needs text: set text to a TextTransformer or TextEmbeddings, or use DiT")
    if isinstance(network, DiT) and network.cross_attention and network.text is None:
        raise ValueError("cross_attention=True needs text: set text to a TextTransformer or TextEmbeddings")
    if isinstance(network, DiT) and network.text is not None and not (network.pooled_text or network.cross_attention):
        raise ValueError("pooled_text=False leaves the text unheard: set cross_attention=True, or leave it out")
    if isinstance(network, DiT) and network.long_skips and network.depth < 2:
        raise ValueError(f"long_skips=True needs two blocks, depth is {network.depth}: set depth to 2 or more")
    if network.policy is not None and not network.remat:
        raise ValueError("policy says what remat stores: set remat=True as well")
    if network.policy is not None and not callable(network.policy):
        raise ValueError(f"policy={network.policy!r} is not allowed: expected a function of jax.checkpoint_policies")


def _enter(network, x, cond):
    """(tokens of x at their places and the registers, the angles of their rotation or None)."""
    if network.image:
        x = LowResolution(name="image_in")(x, cond["image"], cond.get("image_mask"))
    x = patchify(x, network.patch)
    _, *grid, channels = x.shape
    h = dense(network.width, dtype=network.dtype, name="patches")(x.reshape(len(x), -1, channels))
    angles = None
    if network.rotary:
        angles = jnp.asarray(transformer.axial_angles(*grid, network.width // network.heads))
        angles = jnp.pad(angles, ((0, network.registers), (0, 0)))
    else:
        h = h + jnp.asarray(transformer.places(*grid, network.width), network.dtype)
    if network.registers:
        shape = (network.registers, network.width)
        registers = network.param("registers", initializers.normal(0.02), shape).astype(network.dtype)
        h = jnp.concatenate([h, jnp.broadcast_to(registers, (len(h), *shape))], axis=1)
    return h, angles


def _tell(network, c_noise, cond):
    condition, text = tell(network, network.frequencies, network.width, c_noise, cond, network.pooled_text)
    return silu(condition), text


def _leave(network, h, condition, shape):
    """Tokens -> images, by a last adaptive norm and a linear map that is zero at the start."""
    out_channels = shape[-1] if network.out_channels is None else network.out_channels
    rows, columns = (side // network.patch for side in shape[-3:-1])
    h = h[:, : rows * columns]  # without the registers
    shift, scale = transformer.modulation(condition, 2, network.width, network.dtype, "modulation_out")
    h = transformer.adaptive_norm(h, shift, scale, network.dtype)
    h = dense(network.patch**2 * out_channels, dtype=network.dtype, scale=0.0, name="out")(h)
    return unpatchify(h.reshape(len(h), rows, columns, -1), network.patch).astype(jnp.float32)


def _maybe_remat(network, block):
    if not network.remat or network.is_initializing():
        return block
    return nn.remat(block, prevent_cse=False, policy=network.policy)


def _scanned(network, block, length, scanned, broadcast):
    """`block` run `length` times, one after the other, with parameters stacked [length, ...]."""
    return nn.scan(
        _maybe_remat(network, block),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0,) * scanned + (nn.broadcast,) * broadcast,
        length=length,
    )
