"""Resampling behind the filter [1, 3, 3, 1] along each axis, which removes what the smaller grid cannot hold.

The resampling of NCSN++ (arXiv:2011.13456, App. H; the filter is StyleGAN2's, arXiv:1912.04958). Outside of the image
there are zeros, so a constant stays what it is except at the border.
"""

import jax
import jax.numpy as jnp
from jax import Array


def upsample(x: Array) -> Array:
    """Linear interpolation, twice the size: [b, h, w, c] -> [b, 2h, 2w, c].

    y[2i] = (x[i-1] + 3 x[i])/4 and y[2i+1] = (3 x[i] + x[i+1])/4: both lie a quarter of a pixel from the center of i.
    """
    return _double(_double(x, 1), 2)


def downsample(x: Array) -> Array:
    """Half the size: [b, h, w, c] -> [b, h/2, w/2, c], h and w even.

    y[i] = (x[2i-1] + 3 x[2i] + 3 x[2i+1] + x[2i+2])/8, centered on the 2x2 block that the mean of a block is of.
    """
    return _filter(_filter(x, 1, padding=1, stride=2), 2, padding=1, stride=2)


def blur(x: Array) -> Array:
    """The filter at full size, [b, h, w, c] -> [b, h+1, w+1, c]: what a 3x3 convolution of stride 2 then downsamples.

    y[i] = (x[i-2] + 3 x[i-1] + 3 x[i] + x[i+1])/8. Unpadded, the convolution gives h/2 pixels, i centered on 2i + 1/2.
    """
    return _filter(_filter(x, 1, padding=2, stride=1), 2, padding=2, stride=1)


def _filter(x, axis, padding, stride):
    x = _pad(x, axis, padding)
    reach = x.shape[axis] - 3
    a, b, c, d = (jax.lax.slice_in_dim(x, k, k + reach, stride, axis) for k in range(4))
    return 0.125 * (a + d) + 0.375 * (b + c)


def _double(x, axis):
    n = x.shape[axis]
    padded = _pad(x, axis, 1)
    before, after = (jax.lax.slice_in_dim(padded, k, k + n, 1, axis) for k in (0, 2))
    pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])


def _pad(x, axis, n):
    return jnp.pad(x, [(n, n) if i == axis else (0, 0) for i in range(x.ndim)])
