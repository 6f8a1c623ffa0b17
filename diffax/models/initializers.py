"""Initial parameter values, drawn on the host.

Under `jit`, JAX's initializers compile one random generator per parameter shape, which takes longer than the first
hundred training steps of a small network. NumPy draws the same distributions in a fraction of a second. The values
depend on the key, the shape and nothing else: not on the device count, not on whether `init` was jitted.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend import core
from jax.interpreters import batching, mlir

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
Initializer = Callable[..., jax.Array]


def init(module: nn.Module, key: jax.Array, *specs) -> dict:
    """Parameters of `module`, a plain dict: `module.init(key, *specs)["params"]` without running the network.

    `module.init` is traced once and only the equations that the parameters depend on are evaluated, one by one; those
    of layers under `nn.scan` for all layers at once, without what is carried from one to the next.
    Initializers of this file then compile nothing of their own. Flax's `lazy_init` gives the same values, but
    compiles a program for every shape on the way; it is what runs for initializers that compute in NumPy from a key.

    Args:
      module: any Linen module.
      key: from `jax.random.key`.
      specs: shape and dtype of each argument, as `jax.ShapeDtypeStruct` or array; their values are never read.

    Raises:
      ValueError: parameters that depend on the arguments' values.
    """
    try:
        traced = _parameters(module).trace(key, *specs)
    except jax.errors.JAXTypeError:
        return module.lazy_init(key, *specs)["params"]
    closed, inputs = traced.jaxpr, [_nothing(s) for s in jax.tree.leaves(specs)]
    values = _evaluate(closed.jaxpr, closed.consts, [key, *inputs], closed.jaxpr.outvars)
    told = _needed(closed.jaxpr, closed.jaxpr.outvars)[1].intersection(closed.jaxpr.invars[1:])
    if told and any(not isinstance(v, jax.core.Tracer) and bool(jnp.isnan(v).any()) for v in values):
        name = type(module).__name__
        raise ValueError(f"parameters of {name} depend on its inputs, which are not there yet: use its own init")
    return jax.tree.unflatten(jax.tree.structure(traced.out_info), values)


def shapes(module: nn.Module, key: jax.Array, *specs) -> dict:
    """Shapes and dtypes of what `init` returns; `key` may be a shape too.

    The network is traced for it, and not once more for an `init` of the same module and shapes that comes next.
    """
    try:
        return jax.eval_shape(_parameters(module), key, *specs)
    except jax.errors.JAXTypeError:  # initializers that compute in NumPy tell no shape before they have a key
        return jax.eval_shape(lambda values: values, module.lazy_init(jax.random.key(0), *specs)["params"])


_last: list[tuple] = [(None, None)]


def _parameters(module):
    """`module.init`'s parameters, jitted; for the module of the last call the same function, which JAX traces once."""
    known, function = _last[0]
    if known is not module:  # an equal one would not do: 1 == 1.0
        function = jax.jit(lambda *args: module.init(*args)["params"])
        _last[0] = module, function
    return function


def _evaluate(jaxpr, consts, args, results):
    """Some results of a jaxpr, equation by equation, without those that they do not depend on."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args]))
    equations, needed = _needed(jaxpr, results)

    def read(v):
        return v.val if isinstance(v, core.Literal) else values.get(v)

    for equation in equations:
        inputs = [read(v) for v in equation.invars]
        stacked = _stacked(equation, needed)
        if stacked:
            outputs = zip(stacked, _each_layer(equation, inputs, list(stacked.values())))
        else:
            out = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(equation.params))
            outputs = zip(equation.outvars, out if equation.primitive.multiple_results else [out])
        values.update(outputs)
    return [read(v) for v in results]


def _needed(jaxpr, results):
    """(the equations that the results depend on, in order; all variables that these read)."""
    needed, kept = _variables(results), []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            kept.append(equation)
            reads, stacked = equation.invars, _stacked(equation, needed)
            if stacked:
                body = equation.params["jaxpr"].jaxpr
                inner = _needed(body, list(stacked.values()))[1]
                reads = [outer for outer, v in zip(equation.invars, body.invars) if v in inner]
            needed |= _variables(reads)
    return kept[::-1], needed


def _stacked(equation, needed):
    """{needed result of a scan: that of its body}, as of `nn.scan`'s parameters; {} if what is carried reaches them."""
    if equation.primitive.name != "scan":
        return {}
    body, (shared, carry) = equation.params["jaxpr"].jaxpr, _counts(equation)
    results = {outer: v for outer, v in zip(equation.outvars, body.outvars) if outer in needed}
    carried = body.invars[shared - carry : shared]
    if needed.intersection(equation.outvars[:carry]):
        return {}
    return {} if _needed(body, list(results.values()))[1].intersection(carried) else results


def _counts(equation):
    """How many of a scan's inputs all layers share, those carried the last of these, and how many are carried.

    They lack the axis of layers. Their numbers among the equation's parameters have other names in other JAX versions.
    """
    body = equation.params["jaxpr"].jaxpr
    shared = sum(outer.aval.ndim == v.aval.ndim for outer, v in zip(equation.invars, body.invars))
    return shared, sum(outer.aval.ndim == v.aval.ndim for outer, v in zip(equation.outvars, body.outvars))


def _each_layer(equation, inputs, results):
    """Results of a scan's body for every layer, stacked; nothing is carried."""
    body, (shared, _) = equation.params["jaxpr"], _counts(equation)

    def layer(xs):
        return _evaluate(body.jaxpr, body.consts, [*inputs[:shared], *xs], results)

    return jax.vmap(layer, axis_size=equation.params["length"])(inputs[shared:])


def _variables(atoms):
    return {v for v in atoms if not isinstance(v, core.Literal)}


def _nothing(s):
    """An argument that leaves its mark on whatever is computed from it."""
    floating = jnp.issubdtype(s.dtype, jnp.floating)
    return np.full(s.shape, np.nan, s.dtype) if floating else np.zeros(s.shape, s.dtype)


def on_host(draw: Draw) -> Initializer:
    """The Flax initializer `(key, shape, dtype) -> array` whose values come from `draw(generator, shape)`."""

    def initializer(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
        return _draw_p.bind(data, draw=draw, shape=tuple(shape), dtype=np.dtype(dtype))

    return initializer


def fan_avg_uniform(scale: float = 1.0) -> Initializer:
    """U(-a, a) with a = sqrt(3 scale / n), so the variance is scale / n; n is the mean of fan-in and fan-out.

    The last two axes of a kernel are its inputs and outputs, the axes before them its receptive field. This is
    DDPM's choice for every layer (arXiv:2006.11239, released code) and Glorot's for tanh layers.
    """

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        field = math.prod(shape[:-2])
        n = field * (shape[-2] + shape[-1]) / 2
        half_width = np.float32(math.sqrt(3 * scale / n))
        return (generator.random(shape, np.float32) * 2 - 1) * half_width

    return on_host(draw)


def kernel(scale: float) -> Initializer:
    """`fan_avg_uniform(scale)`; zeros where scale is 0."""
    return fan_avg_uniform(scale) if scale else constant(0.0)


def normal(stddev: float = 1.0) -> Initializer:
    """N(0, stddev^2)."""
    return on_host(lambda generator, shape: generator.standard_normal(shape, np.float32) * np.float32(stddev))


def constant(value: float) -> Initializer:
    """The same value everywhere."""
    return on_host(lambda generator, shape: np.full(shape, value, np.float32))


def _draw(key_data, *, draw: Draw, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    keys = np.asarray(key_data)
    values = np.empty((*keys.shape[:-1], *shape), dtype)
    for place in np.ndindex(keys.shape[:-1]):
        seed = np.random.SeedSequence(keys[place].tolist())
        values[place] = draw(np.random.Generator(np.random.Philox(seed)), shape)
    return values


def _callback(key_data, **static) -> jax.Array:
    result = jax.ShapeDtypeStruct((*key_data.shape[:-1], *static["shape"]), static["dtype"])
    return jax.pure_callback(functools.partial(_draw, **static), result, key_data)


# A primitive, because `jax.pure_callback` compiles a program even where the key is known. Evaluated, this one only
# calls NumPy; in a compiled program (a jitted `init`, `nn.scan`) it is the callback, with the same values. Of several
# keys [..., words] it draws [..., *shape].
_draw_p = core.Primitive("draw_on_host")
_draw_p.def_impl(lambda key_data, **static: jax.device_put(_draw(key_data, **static)))
_draw_p.def_abstract_eval(
    lambda key_data, *, draw, shape, dtype: jax.core.ShapedArray((*key_data.shape[:-1], *shape), dtype)
)
mlir.register_lowering(_draw_p, mlir.lower_fun(_callback, multiple_results=False))
batching.primitive_batchers[_draw_p] = lambda args, axes, **static: (
    _draw_p.bind(jnp.moveaxis(args[0], axes[0], 0), **static),
    0,
)
