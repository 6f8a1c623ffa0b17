"""Convolutions: the same as the definition, with the same derivatives, in fewer operations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import normal

from diffax.models import convolutions, layers

IMAGES = ("NHWC", "HWIO", "NHWC")


def definition(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=IMAGES)


def convolutions_of(function, *args):
    """The convolutions of a function, by the shapes of image and kernel."""
    equations = jax.make_jaxpr(jax.jit(function))(*args).jaxpr.eqns[0].params["jaxpr"].jaxpr.eqns
    inner = [e.params["call_jaxpr"].jaxpr.eqns if "call_jaxpr" in e.params else [e] for e in equations]
    found = [e for several in inner for e in several if e.primitive.name == "conv_general_dilated"]
    return [tuple(v.aval.shape for v in e.invars) for e in found]


NARROW, WIDE = (5, 3), (3, 5)


@pytest.mark.parametrize(
    ("channels", "size", "padding", "strides"),
    [
        (NARROW, (3, 3), "SAME", (1, 1)),
        (NARROW, (3, 3), "VALID", (1, 1)),
        (NARROW, (2, 3), ((0, 1), (2, 0)), (1, 1)),
        (NARROW, (2, 3), ((3, 3), (0, 2)), (1, 1)),
        (NARROW, (1, 1), "SAME", (1, 1)),
        ((4, 1), (3, 3), "SAME", (1, 1)),
        (NARROW, (3, 3), "SAME", (2, 2)),
        (WIDE, (3, 3), "SAME", (1, 1)),
    ],
)
def test_a_convolution_has_the_derivatives_of_its_definition(channels, size, padding, strides):
    x, kernel = normal(0, (2, 5, 4, channels[0])), normal(1, (*size, *channels))
    dx, dkernel = normal(2, x.shape), normal(3, kernel.shape)

    @partial(jax.jit, static_argnums=0)
    def everything(convolve, x, kernel, dx, dkernel):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel, strides, padding)))

        def slope(x, kernel):
            return jax.jvp(jax.grad(loss, (0, 1)), (x, kernel), (dx, dkernel))[1]

        forward = jax.jvp(lambda x, k: convolve(x, k, strides, padding), (x, kernel), (dx, dkernel))
        along_kernel = jax.jvp(lambda k: convolve(x, k, strides, padding), (kernel,), (dkernel,))
        both = jax.grad(loss, (0, 1))(x, kernel)
        alone = jax.grad(loss)(x, kernel), jax.grad(loss, 1)(x, kernel)
        each = jax.vmap(jax.grad(loss, 1), (0, None))(x[:, None], kernel)
        return forward, along_kernel, both, alone, each, slope(x, kernel)

    with jax.enable_x64():
        given = [jnp.asarray(a, jnp.float64) for a in (x, kernel, dx, dkernel)]
        got, expected = (everything(convolve, *given) for convolve in (convolutions.convolve, definition))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), got, expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
def test_any_padding_has_its_gradient_in_float32(size):
    x, kernel = normal(0, (3, *size, 5)), normal(1, (3, 3, 5, 2))
    paddings = ["SAME", ((1, 1), (2, 0)), ((2, 0), (1, 2)), ((1, 1), (3, 0)), ((2, 2), (4, 1))]

    @partial(jax.jit, static_argnums=0)
    def gradients(convolve, x, kernel):
        def loss(kernel, padding):
            return jnp.sum(jnp.sin(convolve(x, kernel, (1, 1), padding)))

        return [jax.grad(loss)(kernel, padding) for padding in paddings]

    got, expected = (gradients(convolve, x, kernel) for convolve in (convolutions.convolve, definition))
    for padding, a, b in zip(paddings, got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=str(padding))


def test_a_kernel_larger_than_the_image_has_no_gradient():
    x, kernel = normal(0, (3, 1, 2, 4)), normal(1, (3, 3, 4, 2))
    gradient = jax.grad(lambda k: jnp.sum(convolutions.convolve(x, k, (1, 1), "VALID")))(kernel)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(("channels", "image"), [(NARROW, (2, 7, 6, 3)), (WIDE, (2, 7, 6, 3))])
def test_a_kernels_gradient_copies_the_windows_of_the_fewer_channels(channels, image):
    x, kernel = normal(0, (2, 7, 6, channels[0])), normal(1, (3, 3, *channels))

    def loss(kernel):
        return jnp.sum(jnp.sin(convolutions.convolve(x, kernel, (1, 1), "SAME")))

    assert [shapes[0] for shapes in convolutions_of(jax.grad(loss), kernel)][1:] == [image]


def test_a_gradient_in_the_image_alone_costs_none_in_the_kernel():
    x, kernel = normal(0, (2, 7, 6, 5)), normal(1, (3, 3, 5, 3))

    def loss(x):
        return jnp.sum(jnp.sin(convolutions.convolve(x, kernel, (1, 1), "SAME")))

    assert len(convolutions_of(jax.grad(loss), x)) == 2


def test_accelerators_get_the_convolution_as_jax_differentiates_it(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, kernel = normal(0, (2, 7, 6, 5)), normal(1, (3, 3, 5, 3))
    plain = jax.make_jaxpr(lambda x, k: definition(x, k, (1, 1), "SAME"))(x, kernel)
    assert str(jax.make_jaxpr(lambda x, k: convolutions.convolve(x, k, (1, 1), "SAME"))(x, kernel)) == str(plain)


def test_upsample_conv_is_the_convolution_of_the_upsampled_image():
    x, kernel = normal(0, (2, 3, 5, 4)), normal(1, (3, 3, 4, 6))
    expected = definition(layers.upsample(x), kernel, (1, 1), "SAME")
    np.testing.assert_allclose(convolutions.upsample_conv(x, kernel), expected, atol=1e-4)
