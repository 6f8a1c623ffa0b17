"""3x3 convolutions, and those after upsampling."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.custom_derivatives import SymbolicZero

from diffax.models import initializers

Dtype = Any
Padding = str | Sequence[tuple[int, int]]
_IMAGES = ("NHWC", "HWIO", "NHWC")


def convolve(x: Array, kernel: Array, strides: Sequence[int], padding: Padding, **options: Any) -> Array:
    """x [b, h, w, i] by a kernel [height, width, i, o], without dilation or groups -> [b, h', w', o].

    On a CPU, the gradient of a kernel with i > o is the faster for it: three fifths of the time where o = i/2, and 5 %
    of the training step of a small U-Net, each of whose blocks on the way up has such a kernel. It is the correlation
    of x with the gradient of the result, and XLA's CPU backend copies all windows of its first argument, at the cost of
    its channels. JAX gives it x. `options` are those of `lax.conv_general_dilated`, in whose place Flax calls it.
    """
    if tuple(strides) == (1, 1) and kernel.shape[2] > kernel.shape[3] and jax.default_backend() == "cpu":
        pads = padding
        if isinstance(padding, str):
            pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
        # more padding would be a negative one of its transpose, with which XLA's CPU backend errs (jax 0.10.2)
        usual = (max(p) < k <= n + sum(p) and min(p) >= 0 for p, k, n in zip(pads, kernel.shape, x.shape[1:]))
        if all(usual):
            return _narrow(tuple(map(tuple, pads)), x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **{"dimension_numbers": _IMAGES, **options})


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _narrow(pads, x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=_IMAGES)


@partial(_narrow.defjvp, symbolic_zeros=True)
def _narrow_jvp(pads, primals, tangents):
    """Linear in either argument; in the kernel so written that its transpose is the correlation the other way round."""
    (x, kernel), (dx, dkernel) = primals, tangents
    parts = []
    if not isinstance(dx, SymbolicZero):
        parts.append(_narrow(pads, dx, kernel))
    if not isinstance(dkernel, SymbolicZero):
        parts.append(_by_image(pads, x, dkernel))
    return _narrow(pads, x, kernel), sum(parts)


def _by_image(pads, x, kernel):
    """`_narrow` once more, with the kernel as the image, of o images, and x as its kernel, of b outputs."""
    around = [(before + n - k, after + n - k) for (before, after), n, k in zip(pads, x.shape[1:3], kernel.shape)]
    x, kernel = jnp.flip(x, (1, 2)), jnp.flip(kernel, (0, 1))
    return jax.lax.conv_general_dilated(kernel, x, (1, 1), around, dimension_numbers=("HWCN", "OHWI", "CHWN"))


def conv(
    features: int, *, dtype: Dtype, scale: float = 1.0, stride: int = 1, padding: str = "SAME", name: str
) -> nn.Conv:
    """3x3 convolution, zero padded to ceil(size / stride) unless padding is "VALID"; scale 0 starts it at zero."""
    return nn.Conv(
        features,
        (3, 3),
        strides=(stride, stride),
        padding=padding,
        dtype=dtype,
        conv_general_dilated=convolve,
        kernel_init=initializers.kernel(scale),
        bias_init=initializers.constant(0.0),
        name=name,
    )


class UpsampleConv(nn.Module):
    """`upsample_conv` with a bias: the parameters of `conv`, applied after nearest-neighbor upsampling."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", initializers.kernel(1.0), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", initializers.constant(0.0), (self.features,))
        return upsample_conv(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


def upsample_conv(x: Array, kernel: Array) -> Array:
    """The 3x3 convolution of upsampled x, zero padded, with 4/9 of its arithmetic: [b, h, w, c] -> [b, 2h, 2w, o].

    Two of three neighboring pixels of an upsampled row are copies of one pixel, so an output pixel sees 2x2 pixels of x
    through a kernel whose taps are sums of the given ones; which sums depends on whether its row and column are even.
    """

    def sums(k, axis):
        first, middle, last = jnp.split(k, 3, axis)
        even = jnp.concatenate([first, middle + last], axis)
        odd = jnp.concatenate([first + middle, last], axis)
        return even, odd

    def conv2x2(k, i, j):
        padding = ((1 - i, i), (1 - j, j))
        return jax.lax.conv_general_dilated(x, k, (1, 1), padding, dimension_numbers=_IMAGES)

    b, h, w, _ = x.shape
    rows = [[conv2x2(k, i, j) for j, k in enumerate(sums(half, 1))] for i, half in enumerate(sums(kernel, 0))]
    return jnp.stack([jnp.stack(row, 3) for row in rows], 2).reshape(b, 2 * h, 2 * w, -1)
