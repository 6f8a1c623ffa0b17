"""Linear measurements: functions from a batch of images to a batch of measurements.

Each is linear and pure, so `jax.linear_transpose` gives its transpose. Products are computed in full precision on every
device.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from diffax.inverse.measured import Observe, check_fits
from diffax.known import check_count


def mask(mask: Array) -> Observe:
    """Inpainting: pixels where the mask is 1, zeros where it is 0. [batch, *data] -> [batch, *data].

    Args:
        mask: of 0 and 1, or weights; broadcasts against the images, as [height, width, 1].
    """

    def observe(x):
        check_fits("mask", mask, x)
        return jnp.asarray(mask, x.dtype) * x

    return observe


def downsample(factor: int) -> Observe:
    """Super-resolution: the means of blocks. [batch, height, width, c] -> [batch, height/factor, width/factor, c]."""
    check_count("factor", factor)

    def observe(x):
        _check_images(x)
        n, height, width, channels = x.shape
        if height % factor or width % factor:
            raise ValueError(f"factor={factor} does not divide images of {height} by {width}: crop or pad them")
        blocks = x.reshape(n, height // factor, factor, width // factor, factor, channels)
        return jnp.mean(blocks, axis=(2, 4))

    return observe


def blur(kernel: Array) -> Observe:
    """Deblurring: each channel convolved with the kernel, zeros beyond the border. [batch, height, width, c] -> same.

    Args:
        kernel: [odd, odd], its middle at the pixel itself.
    """
    if jnp.ndim(kernel) != 2 or not all(size % 2 for size in jnp.shape(kernel)):
        raise ValueError(f"kernel of shape {jnp.shape(kernel)} has no middle: give [odd, odd]; pad it with zeros")

    def observe(x):
        _check_images(x)
        flipped = jnp.asarray(kernel, x.dtype)[::-1, ::-1, None, None]  # what XLA calls a convolution does not flip
        return jax.lax.conv_general_dilated(
            x,
            jnp.tile(flipped, (1, 1, 1, x.shape[-1])),
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
            precision=jax.lax.Precision.HIGHEST,
        )

    return observe


def random_projection(key: Array, m: int) -> Observe:
    """Compressed sensing: m inner products with Gaussian vectors. [batch, *data] -> [batch, m].

    Row i is drawn from the key and i alone, so that more measurements begin with the same. Its entries are N(0, 1/d)
    for images of d numbers: a row is about of length 1, and a measurement of unit variance if the data's numbers are.
    """
    check_count("m", m)

    def observe(x):
        d = math.prod(x.shape[1:])
        row_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(m))
        rows = jax.vmap(lambda key: jax.random.normal(key, (d,), x.dtype))(row_keys) / math.sqrt(d)
        return jnp.matmul(x.reshape(len(x), d), rows.T, precision=jax.lax.Precision.HIGHEST)

    return observe


def _check_images(x):
    if x.ndim != 4:
        raise ValueError(f"x of shape {x.shape} is not of images: give [batch, height, width, channels]")
