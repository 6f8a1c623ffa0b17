"""Optimizers for networks of convolutions and scanned layers, beside optax's own."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array


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
    from optax.contrib import MuonDimensionNumbers
    from optax.contrib import muon as momentum_and_adam

    def axes(path, p):
        """Which axes of a kernel are a matrix's rows and columns; None for all else."""
        first = _first_row(path, p, scanned)
        return None if first < 0 else MuonDimensionNumbers(tuple(range(first, p.ndim - 1)), p.ndim - 1)

    # without a Newton-Schulz step of its own, optax's leaves kernels with their momentum
    rows_and_columns = partial(jax.tree.map_with_path, axes)
    options: dict[str, Any] = dict(beta=beta, ns_steps=0, muon_weight_dimension_numbers=rows_and_columns)
    inner = momentum_and_adam(1.0, adam_learning_rate=rest, **options)

    def update(updates, state, params=None):
        updates, state = inner.update(updates, state, params)
        return _orthogonal(updates, scanned), state

    return optax.chain(
        optax.GradientTransformation(inner.init, update),
        optax.add_decayed_weights(-weight_decay, mask),  # optax's own of Adam's part has no mask
        optax.scale_by_learning_rate(learning_rate, flip_sign=False),
    )


def newton_schulz(x: Array) -> Array:
    """Of matrices X = U S Vᵀ [k, n, m], n >= m, roughly their orthogonal factors U Vᵀ: S becomes 0.7 to 1.2.

    Five steps X ← aX + bX(XᵀX) + cX(XᵀX)² with a, b, c = 3.4445, -4.7750, 2.0315 (Jordan). Each is X times a polynomial
    in XᵀX, which keeps its eigenvectors: the polynomials of size m are multiplied, and X comes last. For n = 9m, a
    convolution, that is two fifths of the operations. Rounding of XᵀX grows with every step, hence full float32 on
    accelerators too.
    """
    multiply = partial(jnp.matmul, precision="highest")
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-8)
    eye = jnp.eye(x.shape[-1], dtype=x.dtype)
    product, square = eye, multiply(x.swapaxes(1, 2), x)
    for _ in range(5):
        step = 3.4445 * eye - 4.7750 * square + 2.0315 * multiply(square, square)
        product, square = multiply(product, step), multiply(multiply(step, square), step)
    return multiply(x, product)


def _orthogonal(updates: Any, scanned: Sequence[str]) -> Any:
    """Of each kernel's momentum the orthogonal factor times 0.2·√max(n, m), for those of one shape together."""
    leaves, structure = jax.tree.flatten_with_path(updates)
    found, alike = [leaf for _, leaf in leaves], {}
    for i, (path, leaf) in enumerate(leaves):
        first = _first_row(path, leaf, scanned)
        if first >= 0:
            matrices = leaf.reshape(leaf.shape[0] if first else 1, -1, leaf.shape[-1])
            wide = matrices.shape[1] < matrices.shape[2]
            matrices = matrices.swapaxes(1, 2) if wide else matrices
            alike.setdefault(matrices.shape[1:], []).append((i, wide, matrices))
    for (n, _), those in alike.items():
        stack = 0.2 * n**0.5 * newton_schulz(jnp.concatenate([matrices for *_, matrices in those]))
        *ends, _ = accumulate(len(matrices) for *_, matrices in those)
        for (i, wide, _), matrices in zip(those, jnp.split(stack, ends)):
            found[i] = (matrices.swapaxes(1, 2) if wide else matrices).reshape(found[i].shape)
    return jax.tree.unflatten(structure, found)


def _first_row(path: Any, p: Any, scanned: Sequence[str]) -> int:
    """The first axis of a kernel that counts rows, 1 under a scan; -1 for a parameter that is no kernel."""
    names = [getattr(key, "key", None) for key in path]
    if jnp.ndim(p) < 2 or names[-1] != "kernel":
        return -1
    first = int(any(name in scanned for name in names))
    if jnp.ndim(p) - first not in (2, 4):
        raise ValueError(
            f"muon: {'/'.join(map(str, names))} of shape {jnp.shape(p)} is no kernel of a dense layer or a 2-D "
            "convolution; name the module that scans it in `scanned`, write the layer as a dense one, or take adamw"
        )
    return first
