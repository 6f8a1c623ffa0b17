"""Optimizers for networks of convolutions and scanned layers, beside optax's own."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax


def muon(
    learning_rate: float | optax.Schedule,
    beta: float = 0.95,
    rest: float = 1.0,
    weight_decay: float = 0.0,
    mask: Callable | None = None,
    scanned: Sequence[str] = ("blocks", "blocks_down", "blocks_middle", "blocks_up"),
) -> optax.GradientTransformation:
    """Muon: a kernel moves along its momentum made orthogonal, everything else as with Adam, with Nesterov's step too.

    With U S Vᵀ the momentum of a kernel W [n, m], Nesterov's step included, W becomes W - lr·0.2·√max(n, m)·U Vᵀ, up to
    the error of five Newton–Schulz steps. 0.2·√max(n, m) makes it as large, in root mean square, as Adam's step, so
    that learning rates are of Adam's order; arXiv:2502.16982, Eq. 4. The method: K. Jordan et al., "Muon: an optimizer
    for hidden layers in neural networks", 2024.

    A kernel is a parameter of that name: of a dense layer [n, m], or of a convolution [height, width, in, m], which is
    the matrix n = height·width·in. Under a module that scans there is a first axis of layers, each with a matrix of its
    own.

    Args:
        beta: of the momentum.
        rest: the learning rate of everything else is `rest` times that of the kernels.
        weight_decay: of what `mask` chooses, times the learning rate.
        scanned: the names of the modules that scan, by default those of `DiT` and `MMDiT`.

    Raises:
        ValueError: (from `init`) a kernel with other axes, such as [in, heads, head_dim] of attention: which of them
            are a matrix's rows, its shape does not say.
    """
    from optax.contrib import muon as of_matrices

    matrices = partial(_matrices, scanned=frozenset(scanned))
    options: dict[str, Any] = dict(beta=beta, consistent_rms=0.2, muon_weight_dimension_numbers=matrices)
    return optax.chain(
        of_matrices(1.0, adam_learning_rate=rest, **options),
        optax.add_decayed_weights(-weight_decay, mask),  # optax's own of Adam's part has no mask
        optax.scale_by_learning_rate(learning_rate, flip_sign=False),
    )


def _matrices(params: Any, scanned: frozenset[str]) -> Any:
    """Of each parameter which axes are a matrix's rows and columns; None for one that is no kernel."""
    from optax.contrib import MuonDimensionNumbers

    def of(path, p):
        names = [getattr(key, "key", None) for key in path]
        if jnp.ndim(p) < 2 or names[-1] != "kernel":
            return None
        first = 0 if scanned.isdisjoint(names) else 1
        if jnp.ndim(p) - first not in (2, 4):
            raise ValueError(
                f"muon: {'/'.join(map(str, names))} of shape {jnp.shape(p)} is no kernel of a dense layer or a 2-D "
                "convolution; name the module that scans it in `scanned`, write the layer as a dense one, or take adamw"
            )
        return MuonDimensionNumbers(tuple(range(first, jnp.ndim(p) - 1)), jnp.ndim(p) - 1)

    return jax.tree.map_with_path(of, params)
