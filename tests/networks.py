"""Networks in tests: compiled quickly, with parameters of which none is zero; cases of which some are slow."""

import functools

import jax
import numpy as np
import pytest


def thinned(cases, *quick):
    """Cases of a property that all are held to, `quick` ones by every `pytest`, the others by `-m slow`."""
    each = (case if isinstance(case, tuple) else (case,) for case in cases)
    return [pytest.param(*case, marks=[] if {case, *case} & set(quick) else pytest.mark.slow) for case in each]


def normal(seed, shape):
    return jax.device_put(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def specs(tree):
    """The shapes and types of arrays, all that `init` looks at."""
    return jax.eval_shape(lambda same: same, tree)


def stirred(params, seed=1):
    """Parameters with nothing at zero, so that every path of the network counts."""
    rng = np.random.default_rng(seed)

    def stir(p):  # on the host: a program for every shape takes seconds
        return np.asarray(p) + 0.2 * rng.standard_normal(p.shape).astype(np.float32)

    return jax.device_put(jax.tree.map(stir, params))


@functools.cache
def jitted(network):
    return jax.jit(network.apply)


def run(network, params, *args, keys=None):
    return jitted(network)({"params": params}, *args, dropout_keys=keys)
