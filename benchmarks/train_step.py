"""One table: the training step of the CIFAR-10 and digits UNets, beside PyTorch diffusers' where it is installed.

    python benchmarks/train_step.py [cifar10] [digits] [--rounds=5]

The step is the whole one: noise, network, backward pass, clipping, Adam, moving average. The two libraries take
turns in one process, A B A B, and the median over all turns is shown, since machines are noisy.
"""

import argparse
import importlib.util
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import workloads

from diffax import build
from diffax.compile import keep_memory
from diffax.loop import training


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=["digits", "cifar10"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_memory()  # as the launcher does; PyTorch has it, too
    print(f"jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}")
    for name in options.names:
        row(name, options.rounds)


def row(name: str, rounds: int) -> None:
    """Measures and prints one workload."""
    step, compiled, analytic, parameters = ours(name)
    xla = compiled.cost_analysis()["flops"]
    memory = compiled.memory_analysis()
    peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    peak -= memory.alias_size_in_bytes
    contenders = {"diffax": step}
    if importlib.util.find_spec("torch") and importlib.util.find_spec("diffusers"):
        contenders["diffusers (PyTorch)"], count = workloads.torch_step(name)
        print(f"{name}: {parameters:,} parameters here, {count:,} in diffusers")
    rate = statistics.median(matmul_rate() for _ in range(3))
    times = {label: [] for label in contenders}
    calls = max(1, round(1.0 / timed(step, 2)))  # about a second a turn
    for other in contenders.values():
        timed(other, 2)
    for _ in range(rounds):
        for label, other in contenders.items():
            time.sleep(0.5)  # the other library's threads go on spinning for a while after its turn
            times[label].append(timed(other, calls))
    ms = {label: 1e3 * statistics.median(values) for label, values in times.items()}
    spread = {label: f"{1e3 * min(values):.1f}-{1e3 * max(values):.1f}" for label, values in times.items()}
    print(f"{name}: XLA {xla / 1e9:.3f} GFLOP, analytic {analytic / 1e9:.3f}, ratio {xla / analytic:.3f}")
    print(f"{name}: {peak / 1e6:.0f} MB peak of the step; the machine multiplies matrices at {rate / 1e9:.0f} GFLOP/s")
    for label in contenders:
        share = analytic / (ms[label] / 1e3) / rate
        print(f"{name}: {label:20s} {ms[label]:9.1f} ms a step ({spread[label]}), {share:.0%} of the matmul rate")
    if len(ms) == 2:
        a, b = ms.values()
        print(f"{name}: diffax takes {a / b:.2f} of diffusers' time")


def ours(name: str):
    """(a function that takes one step, the compiled step, its analytic FLOPs, the number of parameters)."""
    experiment = build.experiment(workloads.config(name))
    state = training.initial_state(experiment)
    run = training.place(experiment, state)
    batch, keys = next(run.batches(0))
    analytic = training_flops(experiment, state.params, batch, keys)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    state = run.place(state)
    compiled = run.step.lower(state, batch, keys).compile()
    box = [state]

    def step():
        box[0], metrics = compiled(box[0], batch, keys)
        return float(metrics["loss"])

    return step, compiled, analytic, parameters


def training_flops(experiment, params, batch, keys) -> int:
    """FLOPs of convolutions and matrix products, forward and backward.

    Each costs its forward pass again for the gradient of either argument; where an argument depends on no parameter, as
    the input of the first layer does, its gradient is not needed.
    """
    from diffax.loop.sampling import network_apply

    loss_fn = build.loss(experiment, network_apply(experiment.network))
    forward = jax.make_jaxpr(partial(loss_fn, batch=batch, keys=keys))(params)
    return _count(forward.jaxpr, set(forward.jaxpr.invars))[0]


def _count(jaxpr, depends):
    """(FLOPs, which outputs depend on parameters) of a jaxpr whose variables `depends` do."""
    total, depends = 0, set(depends)
    for equation in jaxpr.eqns:
        inputs = [v for v in equation.invars if not hasattr(v, "val")]
        inner = next((p for p in equation.params.values() if hasattr(p, "jaxpr") or hasattr(p, "eqns")), None)
        if inner is not None:
            inner = getattr(inner, "jaxpr", inner)
            invars = inner.invars[len(inner.invars) - len(equation.invars) :]
            known = {
                i for i, v in zip(invars, equation.invars[-len(invars) :]) if not hasattr(v, "val") and v in depends
            }
            flops, _ = _count(inner, known)
            total += flops
        elif equation.primitive.name in ("dot_general", "conv_general_dilated"):
            gradients = sum(v in depends for v in inputs)
            total += _product_flops(equation) * (1 + gradients)
        if any(v in depends for v in inputs):
            depends.update(equation.outvars)
    return total, depends


def _product_flops(equation):
    a, b = (v.aval.shape for v in equation.invars)
    out = equation.outvars[0].aval.shape
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2 * int(np.prod(out)) * int(np.prod([a[i] for i in contracted]))
    spec = equation.params["dimension_numbers"].rhs_spec  # (out features, in features, *window)
    return 2 * int(np.prod(out)) * int(np.prod([b[i] for i in spec[1:]]))


def matmul_rate(n: int = 2048) -> float:
    """FLOP/s of a float32 matrix product of side n."""
    a = jnp.ones((n, n))
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    return 2 * n**3 / timed(lambda: product(a).block_until_ready(), 5)


def timed(function, calls: int) -> float:
    """Seconds a call."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


if __name__ == "__main__":
    main()
