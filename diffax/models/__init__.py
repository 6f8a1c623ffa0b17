"""Networks in Flax Linen. The rest of the library takes any function `(x_in, c_noise) -> y`."""

from diffax.models.classifier import Classifier
from diffax.models.dit import DiT, MMDiT, check_tokens
from diffax.models.initializers import init, shapes
from diffax.models.mlp import MLP
from diffax.models.text import TextEmbeddings, TextTransformer
from diffax.models.unet import UNet, check_shape
from diffax.models.unet_edm2 import UNetEDM2, check_edm2

__all__ = [
    "MLP",
    "Classifier",
    "DiT",
    "MMDiT",
    "TextEmbeddings",
    "TextTransformer",
    "UNet",
    "UNetEDM2",
    "check_edm2",
    "check_shape",
    "check_tokens",
    "init",
    "shapes",
]
