"""The training step: a pure function of (state, batch, keys)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffax import conditions
from diffax.averages import Decay
from diffax.conditions import Cond
from diffax.losses import denoising_loss
from diffax.prediction import Prediction
from diffax.process import Process, pytree

Params = Any
Batch = Mapping[str, Array]
LossFn = Callable[[Params, Batch, Array], Array]  # (params, batch, keys [batch]) -> losses [batch]
Network = Callable[..., Array]  # (params, x_in, c_noise, cond, dropout_keys) -> y; dropout_keys may be None

# An array of fewer numbers is sooner copied than a reduction of its shape compiled. None that `parallel.fsdp` splits by
# default is smaller: joining it would gather it.
SMALL = 2**16


@pytree
class TrainState:
    """All that training carries from step to step, and all that a checkpoint holds: arrays only.

    `step` int32 [] counts updates; `ema_params` maps a name to a moving average of `params`.
    """

    step: Array
    params: Params
    ema_params: dict[str, Params]
    opt_state: Any


def init_state(params: Params, tx: optax.GradientTransformation, ema: Mapping[str, Decay]) -> TrainState:
    """The state before the first step; every moving average starts at `params`."""

    @jax.jit  # one small program, not one for each shape
    def start(params):
        copies = {name: jax.tree.map(jnp.copy, params) for name in ema}
        return TrainState(jnp.zeros((), jnp.int32), params, copies, tx.init(params))

    return start(params)


def train_step(
    state: TrainState,
    batch: Batch,
    keys: Array,
    *,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    ema: Mapping[str, Decay],
    axis_name: str | None = None,
    accumulate: int = 1,
) -> tuple[TrainState, dict[str, Array]]:
    """One update: the gradient of the mean loss, the optimizer, the moving averages.

    Args:
        batch: arrays with a leading batch axis. keys: one PRNG key an example, [batch].
        axis_name: under `pmap` or `shard_map`, the axis over which gradients are averaged; None under jit.
        accumulate: the gradient is summed over this many slices of the batch, one after the other, to save memory.

    Returns:
        The next state and the measurements `loss` and `grad_norm`, with the counts of `skip_nonfinite`.
    """
    params = state.params
    if axis_name is not None:
        # under shard_map's defaults the gradient of a replicated value is already summed over devices
        params = jax.tree.map(lambda p: jax.lax.pcast(p, axis_name, to="varying"), params)
    loss, grads = _mean_gradient(loss_fn, params, batch, keys, accumulate)
    if axis_name is not None:
        loss, grads = jax.lax.pmean((loss, grads), axis_name)

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)

    def average(rate, mean):
        return jax.tree.map(lambda m, p: m + rate * (p - m), mean, params)

    ema_params = {name: average(1.0 - decay(state.step), state.ema_params[name]) for name, decay in ema.items()}
    metrics = {"loss": loss, "grad_norm": global_norm(grads), **_skipped(opt_state)}
    return TrainState(state.step + 1, params, ema_params, opt_state), metrics


def _mean_gradient(loss_fn, params, batch, keys, accumulate):
    """Value and gradient of the batch's mean loss, in `accumulate` slices."""
    value_and_grad = jax.value_and_grad(lambda params, batch, keys: jnp.mean(loss_fn(params, batch, keys)))
    if accumulate == 1:
        return value_and_grad(params, batch, keys)
    if len(keys) % accumulate:
        raise ValueError(f"a batch of {len(keys)} is not divisible by accumulate={accumulate}: use a multiple of it")

    def slices(a):
        # strided, so that each device of a mesh holds an equal part of every slice
        return jnp.swapaxes(a.reshape(a.shape[0] // accumulate, accumulate, *a.shape[1:]), 0, 1)

    def add(total, part):
        return jax.tree.map(jnp.add, total, value_and_grad(params, *part)), None

    parts = jax.tree.map(slices, (batch, keys))
    zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(value_and_grad, params, *jax.tree.map(lambda a: a[0], parts)))
    # convolutions inside a loop are many times slower on CPU (jax#12868): there the loop is written out
    total, _ = jax.lax.scan(add, zero, parts, unroll=accumulate if jax.default_backend() == "cpu" else 1)
    return jax.tree.map(lambda a: a / accumulate, total)


def diffusion_loss(
    network: Network,
    process: Process,
    prediction: Prediction,
    *,
    objective: Callable[..., Array] = denoising_loss,
    nulls: Cond | None = None,
    drop: float = 0.0,
    drop_each: float = 0.0,
    **options,
) -> LossFn:
    """The loss of a batch dict(x0, label, ...), example by example: an objective with conditions and dropout bound.

    Args:
        objective: (apply, process, prediction, x0, keys, **options) -> [batch], of `diffax.losses` or your own.
        options: the objective's, such as `sample_time` and `weight`.
        nulls: the conditions that the network is told, of the batch, by name, and for each the array of one example
            that says nothing (`diffax.conditions`); None for a network without.
        drop, drop_each: probabilities with which an example's conditions are replaced by these: all of them, and
            besides each on its own.
    """
    nulls = nulls or {}

    def loss_fn(params, batch, keys):
        parts = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        cond = {name: batch[name] for name in nulls}
        if cond:
            cond = conditions.drop(cond, nulls, parts[:, 0], drop, drop_each)

        def apply(x_in, c_noise):
            return network(params, x_in, c_noise, cond, parts[:, 1])

        losses = objective(apply, process, prediction, batch["x0"], parts[:, 2], **options)
        if jnp.shape(losses) != keys.shape[:1]:
            raise ValueError(
                f"the objective returned shape {jnp.shape(losses)} for a batch of {len(keys)}: one loss an example"
            )
        return losses

    return loss_fn


def example_keys(key: Array, step: int | Array, first: int | Array, count: int) -> Array:
    """The keys [count] of examples first, first + 1, … of a step's global batch: the same on any number of devices."""
    key = jax.random.fold_in(key, step)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(count))


def schedule(peak: float, warmup: int = 0, decay_steps: int = 0, decay_after: int = 0) -> optax.Schedule:
    """A learning rate that rises linearly to `peak` over `warmup` steps, then stays, or falls in one of two ways.

    Args:
        decay_steps: the step at which a cosine reaches 0, warm-up included; 0 for none.
        decay_after: the step t0 after which it falls as √(t0/step), warm-up included; 0 for never.
            arXiv:2312.02696, Eq. 67.
    """
    if decay_steps and decay_after:
        raise ValueError(f"decay_steps={decay_steps} and decay_after={decay_after}: a rate falls in one way; give one")
    if decay_after:

        def rate(step):
            rise = jnp.minimum(step / warmup, 1.0) if warmup else 1.0
            return peak * rise * jax.lax.rsqrt(jnp.maximum(step / decay_after, 1.0))

        return rate
    if decay_steps:
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, decay_steps)
    if warmup:
        return optax.linear_schedule(0.0, peak, warmup)
    return optax.constant_schedule(peak)


def decayed(params: Params) -> Params:
    """Which parameters weight decay is for, True or False each: those with two axes or more, not named bias or scale.

    Biases, scales of norms, random frequencies and the numbers of a learned process are left as the loss wants them.
    The names are for layers that are scanned: a bias of theirs is stacked to two axes.
    """

    def is_kernel(path, p):
        return jnp.ndim(p) > 1 and not (path and getattr(path[-1], "key", None) in ("bias", "scale"))

    return jax.tree.map_with_path(is_kernel, params)


def optimizer(update: optax.GradientTransformation, clip: float = float("inf")) -> optax.GradientTransformation:
    """`update` behind clipping of the global gradient norm to `clip`, skipping non-finite gradients."""
    return skip_nonfinite(optax.chain(clip_norm(clip), update) if clip < float("inf") else update)


def global_norm(tree: Any) -> Array:
    """The Euclidean norm of all of a tree's real arrays together, []: float32, or float64 where they are.

    Small arrays, most of a network's, are joined before their squares are summed: one reduction to compile, not a few
    for each shape.
    """
    small, large = [], []
    for a in jax.tree.leaves(tree):
        (small if jnp.size(a) < SMALL else large).append(a)

    def wide(a):
        return a if a.dtype in (jnp.float32, jnp.float64) else a.astype(jnp.float32)

    joined = [jnp.concatenate([wide(jnp.ravel(a)) for a in small])] if small else []
    return jnp.sqrt(sum(jnp.sum(jnp.square(a)) for a in [*joined, *map(wide, large)]))


def clip_norm(largest: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm`: a gradient g becomes g·min(1, largest/|g|).

    A product, which XLA fuses into the update; it keeps optax's quotient apart, a program more for every parameter.
    """

    def update(grads, state, params=None):
        scale = jnp.minimum(1.0, largest / global_norm(grads))
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads), state

    return optax.GradientTransformation(optax.init_empty_state, update)


class SkipState(NamedTuple):
    """The state of `skip_nonfinite`: how many updates were skipped, in a row and in all, and the inner state."""

    in_a_row: Array
    total: Array
    inner: Any


def unit_weights(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx`, after whose every update `normalize_weights` holds: forced weight normalization, arXiv:2312.02696, Eq. 66.

    Networks that normalize their weights in each pass see the directions alone, and the gradients are orthogonal to
    the weights: without it these grow, and the same learning rate turns them less and less.
    """

    def init(params):
        normalize_weights(params)  # refuses parameters that have none
        return tx.init(params)

    def update(grads, state, params=None):
        updates, state = tx.update(grads, state, params)
        after = normalize_weights(optax.apply_updates(params, updates))
        return jax.tree.map(lambda a, p: a - p, after, params), state

    return optax.GradientTransformation(init, update)


def normalize_weights(params: Params) -> Params:
    """`params` with all arrays named `weight` at a root mean square of 1 for each of their outputs, the last axis.

    The layers of `diffax.models.magnitude` are of such weights and compute the same with them.

    Raises:
        ValueError: there is no array of this name.
    """

    def is_weight(path):
        return bool(path) and getattr(path[-1], "key", None) == "weight"

    def normalized(path, p):
        if not is_weight(path):
            return p
        square = jnp.mean(jnp.square(p), tuple(range(p.ndim - 1)), keepdims=True)
        return p * jax.lax.rsqrt(jnp.maximum(square, jnp.finfo(p.dtype).tiny))

    if not any(is_weight(path) for path, _ in jax.tree.leaves_with_path(params)):
        raise ValueError(
            "no parameter is named weight, as those that a network normalizes are: use UNetEDM2, or leave this out"
        )
    return jax.tree.map_with_path(normalized, params)


def skip_nonfinite(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx`, except that a gradient whose norm is not finite changes nothing and is counted.

    Unlike `optax.apply_if_finite` it never lets such a gradient in, however many come in a row: when to stop is the
    caller's to say. It selects instead of branching, which XLA fuses into the update.
    """

    def init(params):
        return SkipState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), tx.init(params))

    def update(grads, state, params=None):
        finite = jnp.isfinite(global_norm(grads))
        updates, inner = tx.update(grads, state.inner, params)
        updates = jax.tree.map(lambda u: jax.lax.select(finite, u, jnp.zeros_like(u)), updates)
        inner = jax.tree.map(partial(jax.lax.select, finite), inner, state.inner)
        bad = 1 - finite.astype(jnp.int32)
        return updates, SkipState(bad * (state.in_a_row + 1), state.total + bad, inner)

    return optax.GradientTransformation(init, update)


def _skipped(opt_state):
    if not isinstance(opt_state, SkipState):
        return {}
    return {"nonfinite_in_a_row": opt_state.in_a_row, "nonfinite_total": opt_state.total}
