"""What a network is told beside x, as one vector for its blocks: the noise level and the conditions."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from diffax.conditions import MASK, Cond, kinds
from diffax.models import initializers
from diffax.models.layers import Dtype, dense, lookup, silu
from diffax.models.text import Text


def check_cond(network: nn.Module, cond: Cond | None) -> Cond:
    """`cond`, or {} for None, if it holds the conditions that a network has and no others.

    It has them by its fields: a label by num_classes, a text, an image, and those named in `vectors`.

    Raises:
      ValueError: the name of one that is missing or not known.
    """
    cond = {} if cond is None else cond
    fields = {"label": "num_classes", "text": "text", "image": "image"}
    known = [name for name, field in fields.items() if getattr(network, field, None)]
    known += getattr(network, "vectors", ())
    for name in known:
        if name not in cond:
            null = " (num_classes is the null class)" if name == "label" else ""
            raise ValueError(f"the network needs the condition {name!r}: pass cond=dict({name}=...){null}")
    for name in kinds(cond):
        if name not in known:
            raise ValueError(
                f"the network does not know the condition {name!r}, only {', '.join(known) or 'none'}: leave it out, "
                "or build a network that takes it"
            )
    return cond


def sinusoidal(c_noise: Array, features: int, max_period: float = 10_000.0) -> Array:
    """Sinusoidal embedding [batch, features]: sin(w_i c), then cos(w_i c), w_i = max_period^(-i / (features/2 - 1)).

    The scale of `c_noise` matters: the fastest wave has period 2 pi, the slowest 2 pi max_period. Always float32,
    since bfloat16 cannot tell 999 from 1000. Source: arXiv:1706.03762, section 3.5, in DDPM's arrangement.
    """
    half = features // 2
    rates = jnp.exp(-jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32) / max(half - 1, 1))
    angles = c_noise.astype(jnp.float32)[:, None] * rates
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(waves, ((0, 0), (0, features % 2)))


class FourierFeatures(nn.Module):
    """Random Fourier features [batch, 2 features]: sin(2 pi w_i c), then cos(2 pi w_i c), w_i ~ N(0, scale^2).

    They are drawn once and never trained (arXiv:2006.10739; arXiv:2011.13456, App. H, with scale 16 and c = log sigma).
    They are kept among the parameters, so that a checkpoint has them, and have no gradient. Always float32: the
    angles reach some hundreds.
    """

    features: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, c_noise: Array) -> Array:
        rates = jax.lax.stop_gradient(self.param("rates", initializers.normal(self.scale), (self.features,)))
        angles = 2 * math.pi * c_noise.astype(jnp.float32)[:, None] * rates
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class LowResolution(nn.Module):
    """x joined by an image of any size, brought to that of x by bilinear interpolation: [b, h, w, c + the image's].

    Where `mask` [batch] is False there is a learned color instead; arXiv:2106.15282, arXiv:2205.11487.
    """

    @nn.compact
    def __call__(self, x: Array, image: Array, mask: Array | None = None) -> Array:
        null = self.param("null", initializers.constant(0.0), image.shape[-1:])
        shape = (*x.shape[:3], image.shape[-1])
        image = jax.image.resize(image.astype(x.dtype), shape, "linear", antialias=False)
        if mask is not None:
            image = jnp.where(mask[:, None, None, None], image, null.astype(x.dtype))
        return jnp.concatenate([x, image], axis=-1)


class Conditioning(nn.Module):
    """Noise level and conditions -> one vector [batch, features], the input of every block.

    Dense-SiLU-Dense of an embedding of the noise level: the sinusoidal embedding, or `FourierFeatures` of scale
    `fourier` where that is not 0. Each condition adds a vector of its own.

    - `label`: one learned for each class. Row `num_classes` is the null class: the unconditional network of
      classifier-free guidance (arXiv:2207.12598). A label outside [0, num_classes] gives NaN.
    - each name of `vectors`: a dense layer of cond[name] [batch, any]; where cond[name_mask] is False, a learned one.
    - `pooled` [batch, width], of a text: a dense layer of it.
    """

    channels: int
    features: int
    num_classes: int = 0
    dtype: Dtype = jnp.float32
    fourier: float = 0.0
    vectors: Sequence[str] = ()

    @nn.compact
    def __call__(self, c_noise: Array, cond: Cond, pooled: Array | None = None) -> Array:
        if self.fourier:
            h = FourierFeatures(self.channels, self.fourier, name="fourier")(c_noise)
        else:
            h = sinusoidal(c_noise, self.channels)
        h = silu(dense(self.features, dtype=self.dtype, name="dense_0")(h.astype(self.dtype)))
        h = dense(self.features, dtype=self.dtype, name="dense_1")(h)
        if self.num_classes:
            h = h + self._of_class(cond["label"])
        for name in self.vectors:
            h = h + self._of_vector(name, cond[name], cond.get(name + MASK))
        if pooled is not None:
            h = h + dense(self.features, dtype=self.dtype, name="text")(pooled)
        return h

    def _of_vector(self, name, vector, mask):
        null = self.param(f"{name}_null", initializers.normal(1.0), (self.features,)).astype(self.dtype)
        given = jnp.ones(len(vector), bool) if mask is None else mask
        vector = jnp.where(given[:, None], vector, 0)  # what is not there may be anything, NaN too
        h = dense(self.features, dtype=self.dtype, name=name)(vector.astype(self.dtype))
        return jnp.where(given[:, None], h, null)

    def _of_class(self, label):
        table = self.param("classes", initializers.normal(1.0), (self.num_classes + 1, self.features))
        return lookup(table, label).astype(self.dtype)


def tell(
    network: nn.Module, channels: int, features: int, c_noise: Array, cond: Cond, pooled: bool = True
) -> tuple[Array, Text | None]:
    """In a network: `Conditioning` of all that it is told, and what the text says, None without one.

    Args:
      network: has the fields num_classes, text, vectors, fourier and dtype, as `UNet` and `DiT`.
      channels, features: of `Conditioning`.
      pooled: whether it is told the mean of the text.
    """
    text = None if network.text is None else network.text(cond["text"], cond.get("text_mask"))
    sizes = channels, features, network.num_classes, network.dtype, network.fourier, network.vectors
    embed = Conditioning(*sizes, name="conditioning")
    return embed(c_noise, cond, text.pooled if text is not None and pooled else None), text
