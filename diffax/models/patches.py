"""Images as squares of pixels and back: what `DiT` takes as tokens and a `UNet` as positions."""

from jax import Array


def patchify(x: Array, patch: int) -> Array:
    """Images [b, h, w, c] -> squares of pixels [b, h/patch, w/patch, patch·patch·c]; arXiv:2212.09748, Sec. 3.2."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // patch, w // patch, patch * patch * c)


def unpatchify(x: Array, patch: int) -> Array:
    """The inverse of `patchify`."""
    b, h, w, _ = x.shape
    x = x.reshape(b, h, w, patch, patch, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * patch, w * patch, -1)
