"""One table: seconds from launch to the first training step, stage by stage, cold and with a warm compilation cache.

    python benchmarks/time_to_first_step.py [cifar10] [digits]

The step is compiled while the first state and batch are made ("init"), and "first step" begins with waiting for it: its
compilation, in brackets, is no stage of its own. Each launch is a process of its own; PyTorch diffusers' is beside it
where it is installed.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time

COMPILE = "/jax/core/compile/backend_compile_duration"  # JAX's name for it; from the cache it is loaded
STAGES = ("import", "data", "shapes", "trace", "init", "first step")


def main() -> None:
    """Prints the table, or with --child measures one launch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=["digits", "cifar10"])
    parser.add_argument("--child")
    options = parser.parse_args()
    if options.child:
        marks = (torch_child if options.child == "torch" else child)(options.names[0])
        print(json.dumps(marks))
        return
    print(f"{'seconds':34s}" + "".join(f"{stage:>12s}" for stage in (*STAGES, "in all", "(compile)")))
    for name in options.names:
        with tempfile.TemporaryDirectory() as cache:
            for label in ("cold", "warm cache", "warm cache"):
                show(f"{name}, {label}", launch(name, "diffax", cache))
        if importlib.util.find_spec("torch") and importlib.util.find_spec("diffusers"):
            show(f"{name}, diffusers (PyTorch)", launch(name, "torch", ""))


def launch(name: str, kind: str, cache: str) -> dict:
    """Runs one child; its marks, and "in all" as the parent's clock saw it."""
    command = [sys.executable, __file__, name, f"--child={kind}"]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, "LAUNCHED": repr(time.time())}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.strip().splitlines()[-1])


def show(label: str, marks: dict) -> None:
    """One row."""
    cells = [f"{marks[stage]:12.2f}" if stage in marks else f"{'':12s}" for stage in STAGES]
    compiled = f"({marks[COMPILE]:.2f})" if COMPILE in marks else ""
    whole = sum(marks[stage] for stage in STAGES if stage in marks)
    print(f"{label:34s}{''.join(cells)}{whole:12.2f}{compiled:>12s}", flush=True)


def stopwatch():
    """A function that notes the seconds since the last note, the first counted from the launch."""
    marks, last = {}, [float(os.environ["LAUNCHED"])]

    def mark(stage):
        now = time.time()
        marks[stage], last[0] = now - last[0], now

    return marks, mark


def child(name: str) -> dict:
    """The launcher's way to the first step."""
    marks, mark = stopwatch()
    import jax
    import workloads

    from diffax import build
    from diffax.compile import enable_cache, keep_memory, spare_imports
    from diffax.loop import training

    spare_imports()
    keep_memory()
    enable_cache()
    seconds = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, s, **_: event == COMPILE and seconds.append(s))
    mark("import")
    experiment = build.experiment(workloads.config(name))
    mark("data")
    run = training.place(experiment, training.state_shapes(experiment))
    mark("shapes")
    run = training.compiled_ahead(experiment, run)
    mark("trace")
    state = run.place(training.initial_state(experiment))
    batch, keys = next(run.batches(0))
    mark("init")
    float(run.step(state, batch, keys)[1]["loss"])
    mark("first step")
    return {**marks, COMPILE: max(seconds)}


def torch_child(name: str) -> dict:
    """The same in PyTorch."""
    marks, mark = stopwatch()
    import diffusers  # noqa: F401
    import torch  # noqa: F401
    import workloads

    mark("import")
    step, _ = workloads.torch_step(name)
    mark("init")
    step()
    mark("first step")
    return marks


if __name__ == "__main__":
    main()
