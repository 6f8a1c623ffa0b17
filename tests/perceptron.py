"""Two small problems for training tests: a perceptron that learns to denoise, and least squares."""

import jax.numpy as jnp
import numpy as np

from diffax import FlowMatching, prediction
from diffax.train import diffusion_loss

CLASSES = 3  # labels 0, 1, 2; 3 stands for none
NULLS = {"label": np.int32(CLASSES)}
PROCESS, VELOCITY = FlowMatching(), prediction.velocity()


def perceptron(params, x_in, c_noise, cond=None, dropout_keys=None):
    """A network as a plain function: one hidden layer, told the noise level and the class."""
    h = x_in @ params["inner"] + c_noise[:, None] / 1000.0 * params["level"] + params["bias"]
    h = h + params["classes"][cond["label"]] if cond else h
    return jnp.tanh(h) @ params["outer"]


def perceptron_params(features=4, width=32):
    """Parameters of `perceptron`, none of them zero."""
    rng = np.random.default_rng(0)
    shapes = dict(inner=(features, width), level=(width,), bias=(width,), classes=(CLASSES + 1, width))
    shapes |= dict(outer=(width, features))
    scales = dict(outer=0.2)
    return {k: jnp.asarray(scales.get(k, 0.5) * rng.standard_normal(s), jnp.float32) for k, s in shapes.items()}


def examples(n, shape=(4,), seed=0):
    """A batch dict(x0 [n, *shape], label [n]) of noise."""
    rng = np.random.default_rng(seed)
    return dict(x0=rng.uniform(-1, 1, (n, *shape)).astype(np.float32), label=rng.integers(0, CLASSES, n, np.int32))


def perceptron_loss(drop=0.2):
    """The loss that the perceptron is trained with here."""
    return diffusion_loss(perceptron, PROCESS, VELOCITY, nulls=NULLS, drop=drop)


def linear_loss(params, batch, keys):
    """Least squares of a linear map: its gradient is a line of NumPy. A batch may poison it."""
    error = jnp.mean((batch["x0"] @ params["w"] + params["b"] - batch["y"]) ** 2, -1)
    return error * batch["poison"] if "poison" in batch else error


def linear_batch(n=8, seed=0, dtype=np.float32, **more):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    return dict(x0=draw(n, 3), y=draw(n, 2), **more)


def linear_params(dtype=jnp.float32):
    return dict(w=jnp.asarray([[1.0, 2.0], [-1.0, 0.5], [0.3, -2.0]], dtype), b=jnp.asarray([0.5, -0.5], dtype))


def linear_gradient(w, b, batch):
    residual = batch["x0"] @ w + b - batch["y"]
    scale = 2.0 / residual.size
    return np.mean(residual**2), scale * batch["x0"].T @ residual, scale * residual.sum(0)
