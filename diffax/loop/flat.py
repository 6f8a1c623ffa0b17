"""A state whose parameters are one vector, and so is every average and every moment of theirs.

The step of a network of many small arrays spends much of its time on getting at each of them, in each of these trees:
on a CPU the digits experiment's takes 0.8 of the time so, and is compiled in 0.86 of it. A checkpoint has them apart.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffax import build
from diffax.train import SMALL, LossFn, TrainState


class Layout(NamedTuple):
    """`join` makes a state of vectors of a state, and `split` the reverse, both of copies on the host (counts are given
    on). `shapes` is `join` of shapes, and `loss` a loss of such parameters of a loss of the network's."""

    join: Callable[[TrainState], TrainState]
    split: Callable[[TrainState], TrainState]
    shapes: Callable[[TrainState], TrainState]
    loss: Callable[[LossFn], LossFn]


def layout(experiment: build.Experiment, state: TrainState) -> Layout | None:
    """For a state of these shapes; None where arrays stay apart.

    That is where one is large, since a step copies them all once more; where they or their moments are of several
    types; where the optimizer does not treat all numbers alike; under FSDP; and on accelerators, where it was never
    measured.
    """
    leaves, structure = jax.tree.flatten(state.params)

    def is_params(node):
        return jax.tree.structure(node) == structure

    nodes, outer = jax.tree.flatten(state, is_leaf=is_params)
    like_params = [is_params(node) for node in nodes]
    joined = jax.tree.leaves([node for node, found in zip(nodes, like_params) if found])
    small = len({a.dtype for a in joined}) == 1 and max(a.size for a in joined) < SMALL
    whole = experiment.config["train"]["parallel"] != "fsdp" and build.elementwise(experiment.config)
    if not (small and whole and jax.default_backend() == "cpu"):
        return None
    ends = np.cumsum([a.size for a in leaves])

    def each(function, state):
        pairs = zip(outer.flatten_up_to(state), like_params)
        return outer.unflatten([function(node) if found else node for node, found in pairs])

    def tree(vector, split=jnp.split):
        return structure.unflatten([p.reshape(a.shape) for p, a in zip(split(vector, ends[:-1]), leaves)])

    def loss(loss_fn):
        return lambda vector, batch, keys: loss_fn(tree(vector), batch, keys)

    return Layout(
        join=lambda state: each(lambda p: np.concatenate([np.ravel(a) for a in jax.tree.leaves(p)]), state),
        # of a copy: the next step overwrites the vector
        split=lambda state: each(lambda vector: tree(np.array(vector), np.split), state),
        shapes=lambda state: each(lambda _: jax.ShapeDtypeStruct((int(ends[-1]),), leaves[0].dtype), state),
        loss=loss,
    )
