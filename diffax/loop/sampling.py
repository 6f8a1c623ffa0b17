"""Samples of a trained network: one executable for every guidance, eta, churn and grid of the same length."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from diffax import build, parallel, report, samplers
from diffax.build import Experiment
from diffax.conditions import repeat
from diffax.guidance import batched_cfg, cfg, static_threshold
from diffax.loop import wanted
from diffax.prediction import denoiser, learned_variance

Generate = Callable[..., tuple]  # (params, seed, cond, n, ...) -> x0 [n, *data], path [steps + 1, k, *data] or None
_STRIP = 8  # images whose way from noise is shown


def network_apply(module: Any) -> Callable:
    """A Flax module as the function (params, x_in, c_noise, cond, dropout_keys) -> y that losses and samplers take.

    A module whose `__call__` has no `dropout_keys` is not given them.
    """
    takes_keys = "dropout_keys" in inspect.signature(type(module).__call__).parameters

    def apply(params, x_in, c_noise, cond=None, dropout_keys=None):
        keys = {"dropout_keys": dropout_keys} if takes_keys else {}
        return module.apply({"params": params}, x_in, c_noise, cond, **keys)

    return apply


def generator(experiment: Experiment, trajectory: bool | int | None = None) -> Generate:
    """A function generate(params, seed, cond, n, batch_size, guidance, ...) -> (x0 [n, *data], path), of NumPy.

    `cond` has the conditions of the n samples, [n, ...] each; {} for a network without. `guidance` is as the section of
    the experiment's config, or has other floats, such as another scale. The further arguments: `first`, the number of
    the first sample; `sigmas` and `options` (a dict) in place of the experiment's grid and sampler options; `against`,
    what guidance leads away from, of one example, in place of `sample.negative_prompt`; `tick(done, more)`, called
    after every batch.

    Sample number i of a seed depends on the seed, i, its conditions and the options, and on nothing else: neither on
    the batch size nor on the number of devices. The batch is rounded up to a multiple of these, and the last one is
    filled up and cut, so all are one executable.

    Args:
        trajectory: of how many samples of the first batch to return the path [steps + 1, k, *data], True for all of
            them; 0 is none. By default of as many as pictures show: of 8 images, of all points in the plane. None is
            returned where the sampler does not tell. Pictures, their strip and an evaluation are one executable so.
    """
    if trajectory is None:
        trajectory = _shown(experiment)
    network = network_apply(experiment.network)
    fixed = {k: v for k, v in experiment.sampler_options.items() if not isinstance(v, float)}
    swept = {k: v for k, v in experiment.sampler_options.items() if isinstance(v, float)}
    sampler = partial(experiment.sampler, **fixed, **({"trajectory": trajectory} if trajectory else {}))
    told = {k: v for k, v in experiment.config["sample"]["guidance"].items() if not isinstance(v, float)}
    use_variance = takes_learned_variance(experiment)

    @jax.jit
    def run(params, seed, indices, cond, against, sigmas, guidance, options):
        key = jax.random.key(seed)
        keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(indices)
        x = samplers.init_noise(keys[:, 0], experiment.dataset.shape, sigmas[0])
        denoise, variance = estimates(experiment, network, params, cond, {**told, **guidance}, against, sigmas)
        learned = {"variance": variance} if use_variance else {}
        result = sampler(denoise, x, sigmas, keys[:, 1], **{**options, **learned})
        if isinstance(result, tuple):
            return result[0], result[1].x
        return result, None  # a user's own sampler may know no number for trajectory

    def generate(
        params, seed, cond, n, batch_size, guidance, first=0, sigmas=None, options=None, against=None, tick=None
    ):
        sigmas = grid(experiment, params) if sigmas is None else sigmas
        against = wanted.negative(experiment) if against is None else against
        values = {**swept, **(options or {})}
        guidance = {k: v for k, v in guidance.items() if k not in told}
        batch_size += -batch_size % jax.local_device_count()  # or one device would compute it all
        batches, path = [], None
        for start in range(0, n, batch_size):
            indices = np.arange(first + start, first + start + batch_size)
            filled = np.arange(start, start + batch_size)
            filled = np.where(filled < n, filled, start)  # the last batch is filled up, and cut below
            chosen = {name: jnp.asarray(value[filled]) for name, value in cond.items()}
            batch = jnp.asarray(indices, jnp.int32), chosen, repeat(against if cond else {}, batch_size)
            x0, way = run(params, seed, *_place(batch), sigmas, guidance, values)
            batches.append(np.asarray(x0)[: n - start])
            if way is not None and start == 0:
                path = np.asarray(way)[:, : n if trajectory is True else min(n, trajectory)]
            if tick is not None:
                tick(min(start + batch_size, n), min(batch_size, n - start))
        return np.concatenate(batches), path

    return generate


def broken(x0: np.ndarray) -> int:
    """How many of [n, *data] are not finite."""
    return int((~np.isfinite(x0)).reshape(len(x0), -1).any(1).sum())


def tells_its_way(experiment: Experiment) -> bool:
    """Whether the sampler has a path to show; a user's own need not."""
    return "trajectory" in inspect.signature(experiment.sampler).parameters


def _shown(experiment):
    if not tells_its_way(experiment):
        return False
    return _STRIP if report.shows(experiment.dataset.shape) else experiment.dataset.shape == (2,)


def estimates(experiment: Experiment, network: Callable, params, cond, guidance=None, against=None, sigmas=None):
    """(denoise, variance or None) of a network: `denoise` as samples are drawn by it, or bare if `guidance` is None.

    As samples are drawn: guided from `against` to `cond`, where the network is told something, on the grid `sigmas`,
    and kept within `sample.clip`.
    `variance` is that of the steps, of a network that has learned it, for what was asked for.
    """
    params, process = build.parts(experiment, params)

    def both(cond):
        apply = partial(network, params, cond=cond)
        if build.learns_variance(experiment.objective):
            return learned_variance(apply, process, experiment.prediction)
        return denoiser(apply, process, experiment.prediction), None

    denoise, variance = both(cond)
    if guidance is None:
        return denoise, variance
    if cond:
        options = {k: v for k, v in guidance.items() if k != "name"}
        guide = batched_cfg if experiment.guidance is cfg else partial(_called_twice, experiment.guidance, sigmas)
        denoise = guide(lambda x, sigma, cond: both(cond)[0](x, sigma), cond, against, **options)
    clip = experiment.config["sample"]["clip"]
    return (static_threshold(denoise, -clip, clip) if math.isfinite(clip) else denoise), variance


def _called_twice(guidance, sigmas, denoise, cond, uncond, **options):
    """Guidance by a function of two denoisers: one under two conditions, as `batched_cfg` is called."""
    given = {"sigmas": sigmas} if "sigmas" in inspect.signature(guidance).parameters else {}
    return guidance(partial(denoise, cond=cond), partial(denoise, cond=uncond), **given, **options)


def takes_learned_variance(experiment: Experiment) -> bool:
    """Whether the sampler is given the variance that the network has learned."""
    takes = "variance" in inspect.signature(experiment.sampler).parameters
    return takes and build.learns_variance(experiment.objective) and experiment.config["sample"]["learned_variance"]


def grid(experiment: Experiment, params) -> Any:
    """The levels of `sample.grid`; of a learned process as it is by now."""
    if not experiment.config["loss"]["learn_process"]:
        return experiment.sigmas
    process = build.parts(experiment, params)[1]
    return build.make("grid", experiment.config["sample"]["grid"], "sample.grid", process=process)


def _place(arrays):
    """Splits a batch equally over this host's devices."""
    devices = jax.local_devices()
    if len(devices) == 1:
        return arrays
    return jax.device_put(arrays, NamedSharding(parallel.mesh(devices), PartitionSpec(parallel.AXIS)))


def chosen_ema(config: dict) -> str:
    """The name of the moving average that samples are drawn with, "none" for the raw parameters."""
    if config["sample"]["width"]:
        return f"width{config['sample']['width']}"
    return config["sample"]["ema"] or next((str(decay) for decay in config["ema"]["decays"]), "none")


def chosen_params(state: Any, config: dict) -> Any:
    """The parameters that `sample.ema` names."""
    name = chosen_ema(config)
    return state.params if name == "none" else state.ema_params[name]
