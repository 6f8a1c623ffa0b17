"""One table: what each sampler costs beyond its network calls, for the digits UNet.

    python benchmarks/samplers.py [sampler ...] [--steps=50] [--batch=64] [--rounds=5]

A sampler's time is held against a scan of as many calls of the same denoiser and nothing else, in turns with it.
"""

import argparse
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import workloads

from diffax import build, denoiser, samplers
from diffax.loop import sampling, training


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    experiment = build.experiment(workloads.config("digits"))
    params = training.initial_state(experiment).params
    cond = {"label": jnp.arange(options.batch) % 10}
    apply = partial(sampling.network_apply(experiment.network), params, cond=cond)
    denoise = denoiser(apply, experiment.process, experiment.prediction)
    keys = jax.random.split(jax.random.key(0), options.batch)
    sigmas = samplers.karras(options.steps)
    x = samplers.init_noise(keys, experiment.dataset.shape, sigmas[0])
    print(f"jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}, {options.steps} steps")
    print(f"{'sampler':22s}{'calls':>6s}{'ms':>9s}{'calls alone':>13s}{'beyond':>9s}")
    chosen = {k: v for k, v in build.choices("sampler").items() if k in (options.names or build.choices("sampler"))}
    for name, sampler in chosen.items():
        calls = count_calls(sampler, denoise, x, sigmas, keys)
        run = partial(jax.jit(partial(sampler, denoise)), x, sigmas, keys)
        alone = partial(jax.jit(partial(only_calls, denoise, calls)), x, sigmas)
        ways, times = (run, alone), ([], [])
        for way in ways:
            jax.block_until_ready(way())
        for _ in range(options.rounds):
            for way, spent in zip(ways, times):
                start = time.perf_counter()
                jax.block_until_ready(way())
                spent.append(time.perf_counter() - start)
        whole, bare = (1e3 * statistics.median(spent) for spent in times)
        print(f"{name:22s}{calls:6d}{whole:9.1f}{bare:13.1f}{whole / bare - 1:9.1%}", flush=True)


def count_calls(sampler, denoise, x, sigmas, keys) -> int:
    """How often a run calls the network, counted as it runs: an adaptive solver's depend on the network."""
    count = []

    def counted(x, sigma):
        jax.debug.callback(lambda: count.append(1))
        return denoise(x, sigma)

    jax.block_until_ready(jax.jit(partial(sampler, counted))(x, sigmas, keys))
    jax.effects_barrier()
    return len(count)


def only_calls(denoise, calls: int, x, sigmas):
    """So many calls of the network, one after the other."""

    def step(x, s):
        return denoise(x, s), None

    return jax.lax.scan(step, x, jnp.resize(sigmas[:-1], calls))[0]


if __name__ == "__main__":
    main()
