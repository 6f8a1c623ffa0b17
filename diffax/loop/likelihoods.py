"""Bits a dimension of a trained network on held-out data: by the probability-flow ODE and by the variational bound."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffax import build, report
from diffax.build import Experiment
from diffax.loop import sampling


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
    if config["pipeline"]["dequantize"] and not options["ode"]:
        raise ValueError("eval.likelihood.ode: False leaves no bits with pipeline.dequantize=True; set it to True")
    return dataset


def scores(experiment: Experiment, params) -> dict[str, float]:
    """`bits_per_dim` by the ODE, of uniformly dequantized examples; for a network that was not trained on dequantized
    data, `vlb_bits_per_dim` too: the continuous-time bound, or that of the chain whose variances the network learned.
    Each is a mean over the examples, with its standard error.

    The ODE runs from nsr(t_min) to nsr(t_max), its prior is the noise that samples start from.
    """
    from diffax import data, likelihood

    config, options = experiment.config, experiment.config["eval"]["likelihood"]
    dataset, n, seed = held_out(experiment), options["examples"], config["eval"]["seed"]
    size = min(n, options["batch_size"])
    rows, plain = (
        next(data.batches(dataset, batch_size=n, seed=seed, dequantize=dequantize)) for dequantize in (True, False)
    )
    cond = {name: rows[name] for name in experiment.nulls}
    keys = jax.random.split(jax.random.key(seed), n)
    run, found = jax.jit(jax.vmap(_nats(experiment, params, dataset.levels))), []
    with report.progress(n, noun="likelihood") as bar:
        for start in range(0, n, size):
            part = np.arange(start, start + size) % n  # the last batch is filled up, and cut below
            found.append(
                jax.device_get(
                    run(rows["x0"][part], plain["x0"][part], {k: v[part] for k, v in cond.items()}, keys[part])
                )
            )
            bar.update(min(start + size, n), min(size, n - start))
    result = {}
    for name in found[0]:
        nats = np.concatenate([part[name] for part in found])[:n].astype(np.float64)
        bits = np.asarray(likelihood.bits_per_dim(nats, dataset.shape, dataset.levels if name == _ODE else None))
        error = float(bits.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
        result |= {name: float(bits.mean()), f"{name}_standard_error": error}
    return result


_ODE, _BOUND = "bits_per_dim", "vlb_bits_per_dim"


def _nats(experiment, params, levels):
    """Of one example, (x dequantized, x plain, cond, key) -> log-densities by name, that of the bound of plain x."""
    from diffax import likelihood

    config, options = experiment.config, experiment.config["eval"]["likelihood"]
    network, process = sampling.network_apply(experiment.network), build.parts(experiment, params)[1]
    trace, tolerance = likelihood.hutchinson(options["probes"]), options["tolerance"]
    ends = [jnp.asarray(t, jnp.float32) for t in (process.t_min, process.t_max)]
    ode = dict(zip(("lo", "hi"), (float(process.nsr(t)) for t in ends)), trace=trace, rtol=tolerance, atol=tolerance)
    of_bound = dict(decoder=likelihood.discretized(levels), prior_std=float(process.sigma(ends[1])))

    def nats(x, plain, cond, key):
        cond = jax.tree.map(lambda a: jnp.asarray(a)[None], cond)
        denoise, variance = sampling.estimates(experiment, network, params, cond)
        found, keys = {}, key[None]
        if options["ode"]:
            found[_ODE] = likelihood.log_prob(denoise, x[None], keys, **ode).log_prob[0]
        if not config["pipeline"]["dequantize"]:
            of_chain = dict(steps=config["loss"]["objective"].get("steps"), variance=variance)
            bound = likelihood.vlb_continuous if variance is None else partial(likelihood.vlb, **of_chain)
            found[_BOUND] = -bound(denoise, process, plain[None], keys, **of_bound).total[0]
        return found

    return nats
