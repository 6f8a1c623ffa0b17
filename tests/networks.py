"""Networks in tests: compiled quickly, with parameters of which none is zero; cases of which some are slow."""

import functools
import re

import jax
import numpy as np
import pytest


def thinned(cases, *quick):
    """Cases of a property that all are held to, `quick` ones by every `pytest`, the others by `-m slow`."""
    each = (case if isinstance(case, tuple) else (case,) for case in cases)
    return [pytest.param(*case, marks=[] if {case, *case} & set(quick) else pytest.mark.slow) for case in each]


def normal(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


keys_from = jax.jit(jax.vmap(jax.random.key))  # one key a seed, by one program for each number of them


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


def answer(network, params, *args, keys=None):
    """What a network says, where it lies."""
    return jitted(network)({"params": params}, *args, dropout_keys=keys)


def run(*args, **options):
    """The same on the host: what is made of it compiles nothing."""
    return np.asarray(answer(*args, **options))


def share_in_bfloat16(network, params, *args):
    """The share of a network's matrix products and convolutions that give bfloat16; those of its norms never do."""
    program = str(jax.make_jaxpr(network.apply)({"params": params}, *args))
    types = re.findall(r":(\w+)\[[^\]]*\] = (?:dot_general|conv_general_dilated)\[", program)
    return types.count("bf16") / len(types)
