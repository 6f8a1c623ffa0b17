"""Bits a dimension of a trained network on held-out data: by the probability-flow ODE and by the variational bound."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffax import build, report
from diffax.build import Experiment
from diffax.loop import sampling
from diffax.prediction import denoiser


def held_out(experiment: Experiment):
    """The data set of `eval.likelihood.split`.

    Raises:
        ValueError: no such split, too few examples, or values that are not integers.
    """
    config, options = experiment.config, experiment.config["eval"]["likelihood"]
    dataset = build.make("data", {**config["data"], "split": options["split"]}, "eval.likelihood")
    count = len(dataset.source)
    if options["examples"] > count:
        asked = f"{options['examples']} is not allowed, {options['split']!r} has {count}"
        raise ValueError(f"eval.likelihood.examples: {asked}; give fewer")
    if not dataset.levels:
        name = config["data"]["name"]
        raise ValueError(f"eval.likelihood.examples: bits need integer values, {name} has floats; set it to 0")
    return dataset


def scores(experiment: Experiment, params) -> dict[str, float]:
    """`bits_per_dim` by the ODE, the mean over uniformly dequantized examples, and its standard error over them; for a
    network that was not trained on dequantized data, `vlb_bits_per_dim` too, the continuous-time bound.

    The ODE runs from nsr(t_min) to nsr(t_max), its prior is the noise that samples start from.
    """
    from diffax import data, likelihood

    config, options = experiment.config, experiment.config["eval"]["likelihood"]
    dataset, n, seed = held_out(experiment), options["examples"], config["eval"]["seed"]
    size = min(n, options["batch_size"])
    rows, plain = (
        next(data.batches(dataset, batch_size=n, seed=seed, dequantize=dequantize)) for dequantize in (True, False)
    )
    labels = rows["label"] if experiment.null_label is not None else np.zeros(n, np.int32)
    keys = jax.random.split(jax.random.key(seed), n)
    run, found = jax.jit(jax.vmap(_nats(experiment, params, dataset.levels))), []
    with report.progress(n, noun="likelihood") as bar:
        for start in range(0, n, size):
            part = np.arange(start, start + size) % n  # the last batch is filled up, and cut below
            found.append(np.stack(run(rows["x0"][part], plain["x0"][part], labels[part], keys[part])))
            bar.update(min(start + size, n), min(size, n - start))
    nats, *bounds = np.concatenate(found, axis=1)[:, :n].astype(np.float64)
    bits = np.asarray(likelihood.bits_per_dim(nats, dataset.shape, dataset.levels))
    error = float(bits.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    result = {"bits_per_dim": float(bits.mean()), "bits_per_dim_standard_error": error}
    if bounds:
        result["vlb_bits_per_dim"] = float(np.mean(likelihood.bits_per_dim(-bounds[0], dataset.shape, None)))
    return result


def _nats(experiment, params, levels):
    """Of one example, (x dequantized, x plain, label, key) -> its log-density, and the bound in training on plain x."""
    from diffax import likelihood

    config, process = experiment.config, experiment.process
    tolerance = config["eval"]["likelihood"]["tolerance"]
    trace = likelihood.hutchinson(config["eval"]["likelihood"]["probes"])
    ends = [jnp.asarray(t, jnp.float32) for t in (process.t_min, process.t_max)]
    ode = dict(zip(("lo", "hi"), (float(process.nsr(t)) for t in ends)), trace=trace, rtol=tolerance, atol=tolerance)
    of_bound = dict(decoder=likelihood.discretized(levels), prior_std=float(process.sigma(ends[1])))

    def nats(x, plain, label, key):
        denoise, keys = _denoiser(experiment, params, label), key[None]
        found = (likelihood.log_prob(denoise, x[None], keys, **ode).log_prob[0],)
        if config["pipeline"]["dequantize"]:
            return found
        return *found, likelihood.vlb_continuous(denoise, process, plain[None], keys, **of_bound).total[0]

    return nats


def _denoiser(experiment, params, label):
    """The denoiser of a batch of one: unguided, of its class where the network has classes."""
    given = None if experiment.null_label is None else jnp.asarray(label)[None]
    apply = partial(sampling.network_apply(experiment.network), params, label=given)
    return denoiser(apply, experiment.process, experiment.prediction)
