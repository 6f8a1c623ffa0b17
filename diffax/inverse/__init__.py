"""Inverse problems in (x, sigma): what a denoiser knows, joined to what was measured, without training.

`dps`, `pigdm` and `inpaint` are functions from a denoiser to a denoiser, so every sampler runs with them; `repaint` is
a sampler; `image_to_image` and `ddim_inversion` start from an image instead of noise. A measurement is a function
`observe` from a batch [batch, *data] to measurements [batch, *measurement], each example's of that example alone.
Scales and noise levels are scalars, or one value an example [batch], and traced.
"""

from diffax.inverse.editing import ddim_inversion, image_to_image, noised, sigmas_from
from diffax.inverse.inpainting import inpaint, repaint
from diffax.inverse.measured import Observe, dps, pigdm
from diffax.inverse.operators import blur, downsample, mask, random_projection

__all__ = [
    "Observe",
    "blur",
    "ddim_inversion",
    "downsample",
    "dps",
    "image_to_image",
    "inpaint",
    "mask",
    "noised",
    "pigdm",
    "random_projection",
    "repaint",
    "sigmas_from",
]
