"""Training: the loop around `train_step`."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from diffax import build, parallel, report
from diffax.loop import checks, evaluation, flat, pictures, sampling, snapshots, workdir
from diffax.train import TrainState, example_keys, init_state, normalize_weights, train_step

DONE = 0  # exit code


class Run(NamedTuple):
    """An experiment placed on devices.

    `step` is (state, batch, keys) -> (state, metrics); `place` brings a state from the host or a checkpoint into the
    layout that `step` wants, `whole` back into that of a checkpoint; `batches` yields (batch, keys) from a step on.
    `target` has the shapes and shardings of a state as a checkpoint holds it, `taken` as `step` wants it.
    """

    step: Callable
    place: Callable
    whole: Callable
    target: Any
    taken: Any
    batches: Callable[[int], Iterator]


def train(config: Mapping, folder: str | os.PathLike) -> int:
    """Trains the experiment in `folder` to its last step, from its newest checkpoint if it has one; then evaluates it.

    Returns:
        The exit code: 0 when all steps are done, 3 when a signal stopped it after saving.

    Raises:
        ValueError: anything in the config or the folder that cannot be meant, before anything is compiled.
        FloatingPointError: `train.max_nonfinite` updates in a row were not finite. The last checkpoint is good.
    """
    from diffax import checkpoint

    options = config["train"]
    if config["sample"]["width"]:
        raise ValueError(f"sample.width: {config['sample']['width']} is of a trained run; leave it out of training")
    experiment = checks.experiment(config, training=True)
    _check_weights(experiment)
    folder = workdir.writable(folder)
    lock = checkpoint.lock(folder) if jax.process_index() == 0 else contextlib.nullcontext()
    with workdir.stop_signals() as stopped, lock:
        workdir.prepare(folder, config)
        keep = dict(keep=options["keep"], keep_every=options["keep_every"] or None)
        manager = _in_background(partial(checkpoint.manager, folder / "checkpoints", **keep))
        start, first = 0, []
        run = place(experiment, state_shapes(experiment))
        draw = sampling.generator(experiment)
        try:
            if (folder / "checkpoints").exists():
                start, *first = checkpoint.restore(manager(), run.target) or (0,)
            if start:
                print(f"resuming at step {start} of {options['steps']}", file=sys.stderr, flush=True)
            step = start
            if start < options["steps"]:
                run = compiled_ahead(experiment, run)
                first = first or [initial_state(experiment)]

                def save(step, state, wait=False):
                    checkpoint.save(manager(), step, run.whole(state), wait=wait)

                def show(state):
                    _show(experiment, parallel.on_this_host(run.whole(state)), folder, draw)

                def keep(step, state):
                    snapshots.keep(experiment, folder, step, run.whole(state))

                act = dict(save=save, show=show, keep=keep)
                state, step = _steps(experiment, run, first, start, folder, stopped, **act)
                save(step, state, wait=True)
                state = run.whole(state)
            else:
                state = first.pop()
        finally:
            checkpoint.close(manager())  # the save in flight would be lost at exit
        state = parallel.on_this_host(state)
        if step < options["steps"] or stopped(step):
            if jax.process_index() == 0:
                pictures.write_report(experiment, state, folder)
            print(f"stopped and saved at step {step}; the same command goes on", file=sys.stderr, flush=True)
            return workdir.STOPPED
        with workdir.signals_end_at_once():
            parallel.on_first_host(partial(_finish, experiment, state, folder, draw))
    return DONE


def _steps(experiment, run, first, start, folder, stopped, save, show, keep):
    """The steps from `start` on; returns the state and the number of steps done.

    `first` holds the state at `start`, and it is taken out: kept by the caller, it would lie beside every later one.
    """
    state = run.place(first.pop())
    options = experiment.config["train"]
    options = {**options, "snapshot_every": experiment.config["ema"]["snapshot_every"]}
    every = lambda step, name: options[name] and step % options[name] == 0  # noqa: E731
    one_host = jax.process_count() == 1  # several could see the folder differently
    if one_host and start and every(start, "sample_every") and not report.sample_path(folder, start).exists():
        show(state)  # the run was killed between the checkpoint and its picture
    pending = None
    first_host = jax.process_index() == 0
    rows = partial(report.open_writer, folder / "metrics.jsonl", start, tensorboard=options["tensorboard"])
    silent = report.Writer(lambda step, values: None, lambda: None)
    with rows() if first_host else silent as writer, report.progress(options["steps"], start) as bar:

        def record(step, metrics):
            # read one step late, while the device is already at work on the next
            row = {name: value.item() for name, value in jax.device_get(metrics).items()}
            bar.update(step, options["batch_size"], loss=row["loss"])
            if row["nonfinite_in_a_row"] and first_host:
                bar.log(f"step {step}: the gradient is not finite, no update made")
            too_many = row["nonfinite_in_a_row"] >= options["max_nonfinite"]
            if every(step, "log_every") or step == options["steps"] or too_many:
                writer.write(step, {**row, "images_per_second": bar.rate()})
            if too_many:
                raise FloatingPointError(
                    f"{row['nonfinite_in_a_row']} updates in a row up to step {step} were not finite; "
                    "lower optimizer.learning_rate or look at the data, then go on from the last checkpoint"
                )

        for step, (batch, keys) in enumerate(run.batches(start), start + 1):
            state, metrics = run.step(state, batch, keys)
            if pending:
                record(*pending)
            pending = step, metrics
            last = step == options["steps"] or stopped(step)
            if last or every(step, "checkpoint_every") or every(step, "sample_every"):
                record(*pending)  # a checkpoint never outruns its rows
                pending = None
            if every(step, "snapshot_every"):
                keep(step, state)
            if last:
                return state, step
            if every(step, "checkpoint_every"):
                save(step, state)
            if every(step, "sample_every"):
                show(state)
    raise RuntimeError("the data ended before the last step")


def _show(experiment, state, folder, draw):
    if jax.process_index() == 0:
        pictures.write(experiment, state, folder, draw)
        pictures.write_report(experiment, state, folder)


def _finish(experiment, state, folder, draw):
    """After the last step: pictures, the evaluation if the config asks for it and there is none yet, the report."""
    step = int(state.step)
    if not report.strip_path(folder, step).exists():
        path = pictures.write(experiment, state, folder, draw)
        pictures.write_strip(experiment, step, folder, path)
    try:
        if experiment.config["eval"]["after_training"] and not evaluation.done(experiment, folder, step):
            evaluation.evaluate(experiment, state, folder, draw)
    finally:
        pictures.write_report(experiment, state, folder)
    print(f"done: {step} steps; pictures and curves in {folder / 'report.html'}", flush=True)


def place(experiment: build.Experiment, state: TrainState) -> Run:
    """The training step of an experiment on all devices, by the config's `train.parallel`; `state` gives the shapes."""
    loss_fn = build.loss(experiment, sampling.network_apply(experiment.network))
    layout = flat.layout(experiment, state)
    if layout is None:
        return _placed(experiment, state, loss_fn)
    run = _placed(experiment, layout.shapes(state), layout.loss(loss_fn))
    return run._replace(
        place=lambda apart: run.place(layout.join(apart)),
        whole=lambda joined: _onto(_shardings(experiment, state), layout.split(run.whole(joined))),
        target=_target(experiment, state),
    )


def _placed(experiment, state, loss_fn):
    config = experiment.config
    step = partial(
        train_step,
        loss_fn=loss_fn,
        tx=build.optimizer(config),
        ema=build.emas(config),
        accumulate=config["train"]["accumulate"],
    )
    mesh, shardings, target = parallel.mesh(), _shardings(experiment, state), _target(experiment, state)
    if config["train"]["parallel"] == "pmap":

        def whole(state):
            return _onto(shardings, jax.device_get(parallel.unreplicate(state)))

        return Run(parallel.pmapped(step), parallel.replicate, whole, target, target, _batches(experiment, None))
    from diffax.compile import compiler_options

    jitted = parallel.data_parallel(step, mesh, shardings, compiler_options=compiler_options())
    return Run(jitted, partial(_onto, shardings), lambda state: state, target, target, _batches(experiment, mesh))


def compiled_ahead(experiment: build.Experiment, run: Run) -> Run:
    """`run`, whose step is traced now and compiled in a thread, while the first state and batch are made.

    The first step waits for it; so does the end of a process in which something fails meanwhile. Under `pmap` nothing
    is done ahead.
    """
    if experiment.config["train"]["parallel"] == "pmap":
        return run
    compiled = _in_background(run.step.lower(run.taken, *_input_targets(experiment)).compile)

    def step(state, batch, keys):
        compiled()  # raises what went wrong; `jit` finds the program in its own cache
        return run.step(state, batch, keys)

    return run._replace(step=step)


def _target(experiment, state):
    shardings = _shardings(experiment, state)
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), state, shardings)


def _shardings(experiment, state):
    split = parallel.fsdp if experiment.config["train"]["parallel"] == "fsdp" else parallel.replicated
    return split(state, parallel.mesh())


def _onto(shardings, state):
    return jax.tree.map(jax.device_put, state, shardings)


def _input_targets(experiment):
    """Shapes and shardings of a step's batch and keys, as the data set's first example has them."""
    from diffax import data

    size, split = experiment.config["train"]["batch_size"], NamedSharding(parallel.mesh(), PartitionSpec(parallel.AXIS))
    first = data.examples(experiment.dataset, [0])
    one = jax.eval_shape(lambda batch: (batch, jax.random.split(jax.random.key(0), 1)), first)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype, sharding=split), one)


def _batches(experiment, mesh):
    """from a step on: (batch, keys), split over the mesh, or as this host's arrays where there is none."""
    from diffax import data

    config = experiment.config
    size, hosts, host = config["train"]["batch_size"], jax.process_count(), jax.process_index()
    base = jax.random.key(config["seed"])
    split = None if mesh is None else NamedSharding(mesh, PartitionSpec(parallel.AXIS))
    first, count = (0, size) if mesh is not None else (host * size // hosts, size // hosts)
    make_keys = jax.jit(lambda step: example_keys(base, step, first, count), out_shardings=split)

    def batches(start):
        stream = data.batches(
            experiment.dataset,
            batch_size=size,
            seed=config["seed"],
            step=start,
            host=host,
            hosts=hosts,
            **config["pipeline"],
        )
        for step, batch in enumerate(stream, start):
            if mesh is not None:
                # what is still on its way when a step is called would take that step out of this thread on a CPU, and
                # with it all later ones: see `keep_memory`
                batch = jax.block_until_ready(parallel.global_batch(batch, mesh))
            yield batch, make_keys(step)

    return batches


def initial_state(experiment: build.Experiment) -> TrainState:
    """The state before the first step, from the config's seed, laid out over the devices as `train.parallel` says.

    Its values are the same on any number of devices.
    """
    from diffax.models import init

    params = init(experiment.network, _init_key(experiment), *input_shapes(experiment))
    params = build.trained(experiment, params)
    start = _start(experiment)
    shardings = _shardings(experiment, jax.eval_shape(start, params))
    params = _onto(shardings.params, params)  # the network alone must fit on one device; all else is made in its place
    return jax.jit(start, out_shardings=shardings)(params)


def state_shapes(experiment: build.Experiment) -> TrainState:
    """Shapes and dtypes of `initial_state`."""
    return jax.eval_shape(_start(experiment), build.trained(experiment, _network_shapes(experiment)))


def _network_shapes(experiment):
    from diffax.models import shapes

    return shapes(experiment.network, jax.eval_shape(lambda: _init_key(experiment)), *input_shapes(experiment))


def _init_key(experiment):
    return jax.random.fold_in(jax.random.key(experiment.config["seed"]), 2**31 - 1)  # no step's key


def _start(experiment):
    """The state before the first step, of its parameters."""
    tx, ema = build.optimizer(experiment.config), build.emas(experiment.config)

    @jax.jit  # traced once for shapes and values
    def start(params):
        return init_state(params, tx, ema)

    return start


def _check_weights(experiment):
    """Only the names of a network's parameters tell whether it normalizes its weights; before anything is written."""
    if experiment.config["optimizer"]["unit_weights"]:
        params = _network_shapes(experiment)
        try:
            jax.eval_shape(normalize_weights, params)
        except ValueError as error:
            raise ValueError(f"optimizer.unit_weights: {error}") from None


def input_shapes(experiment: build.Experiment, batch: int = 1) -> tuple:
    """Shapes and dtypes of the network's inputs: x_in, c_noise and the conditions."""
    x = jax.ShapeDtypeStruct((batch, *experiment.dataset.shape), jnp.float32)
    c_noise = jax.ShapeDtypeStruct((batch,), jnp.float32)
    cond = {k: jax.ShapeDtypeStruct((batch, *null.shape), null.dtype) for k, null in experiment.nulls.items()}
    return x, c_noise, cond


def parameter_count(tree: Any) -> int:
    """The number of values in a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _in_background(make):
    """Starts `make()` in a thread; the function returned waits for its result."""
    return ThreadPoolExecutor(1).submit(make).result
