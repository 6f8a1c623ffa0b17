"""The probability-flow ODE by an adaptive solver: the core that likelihoods share, and the sampler."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffax.prediction import Denoiser
from diffax.samplers.grids.grid import check_options, checked
from diffax.samplers.path import Samples, Trajectory, of_samples

_EXAMPLE = "diffax_example"  # the axis of vmap over which the examples of a batch meet


def adaptive_ode(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    keys: Array,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
    trajectory: bool | int = False,
) -> Samples:
    """The probability-flow ODE by an adaptive Runge-Kutta method of order 5, arXiv:2011.13456, Sec. 4.3 and App. D.4.

    From sigmas[0] to the last positive level by steps of the solver's own choice, each example's own; then, where the
    last level is 0, onto the estimate. The levels between are where a trajectory is reported and nothing else. Draws no
    noise. It has forward-mode derivatives only; `likelihood.decode` has those of reverse mode.

    Args:
        rtol, atol: the error allowed in a step, rtol·|x| + atol, as the root of its mean square over the data.
        max_steps: the most steps of an example; one that needs more is NaN.
    """
    return adaptive_ode_stats(
        denoise, x, sigmas, keys, rtol=rtol, atol=atol, max_steps=max_steps, trajectory=trajectory
    )[0]


def adaptive_ode_stats(
    denoise: Denoiser,
    x: Array,
    sigmas: Array,
    keys: Array,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
    trajectory: bool | int = False,
) -> tuple[Samples, Array]:
    """`adaptive_ode`, and the solver's steps of each example [batch], refused ones included.

    A step is six calls of the network. Examples that are done wait for the others.
    """
    check_solver(rtol, atol, max_steps)
    shown, sigmas = of_samples(trajectory), checked(sigmas).astype(x.dtype)
    end = jnp.where(sigmas[-1] > 0, sigmas[-1], sigmas[-2])
    path = jnp.concatenate([sigmas[:-1], end[None]]) if trajectory else jnp.stack([sigmas[0], end])
    together = _of_the_whole_batch(denoise)

    def one(x):
        options = dict(rtol=rtol, atol=atol, max_steps=max_steps, reverse=False)
        return solve(lambda x, sigma: x - together(x, sigma), x, path, **options)

    reached, steps = jax.vmap(one, out_axes=(1, 0), axis_name=_EXAMPLE)(x)
    x0 = jax.lax.cond(sigmas[-1] > 0, lambda x: x, lambda x: denoise(x, end), reached[-1])
    if not trajectory:
        return x0, steps
    xs = jnp.concatenate([x[None], reached[:-1], x0[None]])
    estimates = jax.lax.map(lambda at: denoise(*at)[shown], (xs[:-1], sigmas[:-1]))
    return (x0, Trajectory(xs[:, shown], estimates)), steps


def solve(
    slope: Callable[[Any, Array], Any],
    start: Any,
    sigmas: Array,
    *,
    rtol: float,
    atol: float,
    max_steps: int,
    reverse: bool = True,
) -> tuple[Any, Array]:
    """The ODE d state/d log sigma = slope(state, sigma) of one example.

    The flow dx/dsigma = (x - D)/sigma, arXiv:2206.00364, Eq. 3 with Eq. 1, is dx/du = x - D in u = log sigma, where
    no term grows as sigma nears 0 and every scale of the data has its share of the way.

    Args:
        slope: (state, sigma) -> a tree like the state.
        start: the state at sigmas[0], a tree of arrays.
        sigmas: [n + 1], n ≥ 1, monotonic, positive: where the state is wanted.
        reverse: derivatives in reverse mode, otherwise in forward mode.

    Returns:
        The states at sigmas[1:], each leaf with a new first axis [n], NaN after max_steps; and the number of steps.
    """
    import diffrax

    u = jnp.log(sigmas)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda u, state, _: slope(state, jnp.exp(u))),
        diffrax.Tsit5(),  # doi:10.1016/j.camwa.2011.06.002; nearer to the truth than Dopri5 by as many steps
        t0=u[0],
        t1=u[-1],
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(t1=True, ts=u[1:-1] if len(u) > 2 else None),
        # a longer step could pass over a scale of the data unseen
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, norm=_largest, dtmax=1.0),
        adjoint=diffrax.RecursiveCheckpointAdjoint() if reverse else diffrax.ForwardMode(),
        max_steps=max_steps,
        throw=False,  # an example that fails is no reason to lose the batch
    )
    done = solution.result == diffrax.RESULTS.successful
    return jax.tree.map(lambda a: jnp.where(done, a, jnp.nan), solution.ys), solution.stats["num_steps"]


def check_solver(rtol: float, atol: float, max_steps: int) -> None:
    """Refuses tolerances and a number of steps that no solver can keep to. What is traced passes.

    Raises:
        ValueError: the option, its value, and what is allowed.
    """
    check_options(1, rtol=rtol, atol=atol)
    if not hasattr(max_steps, "__index__") or max_steps < 1:
        raise ValueError(f"max_steps of {max_steps} is not allowed, expected a whole number, at least 1")


def _of_the_whole_batch(denoise):
    """One example's denoiser, under vmap over `_EXAMPLE`, that calls `denoise` once on all of them.

    So what `denoise` closes over may have a batch axis, such as labels. Each example is at a level of its own.
    """

    def one(x, sigma):
        x0 = denoise(jax.lax.all_gather(x, _EXAMPLE), jax.lax.all_gather(sigma, _EXAMPLE))
        return x0[jax.lax.axis_index(_EXAMPLE)]

    return one


def _largest(state):
    """The largest root mean square of a leaf: a scalar next to an image counts as much as the image."""
    return jnp.max(jnp.stack([jnp.sqrt(jnp.mean(leaf**2)) for leaf in jax.tree.leaves(state)]))
