"""What a workdir holds besides checkpoints: the config, and the signals that end a run in good order."""

import contextlib
import itertools
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax

from diffax import config as configs
from diffax import manifest, report

STOPPED = 3  # exit code


def prepare(workdir: str | os.PathLike, config: Mapping) -> Path:
    """Makes the workdir and writes `config.json`, or holds `config` against the one that is there.

    Raises:
        ValueError: the folder cannot be written, its config differs in a field that an update depends on, or more
            steps are done than `config` asks for.
    """
    workdir = writable(workdir)
    file = workdir / "config.json"
    if file.exists():
        different = configs.difference(read_config(workdir), config)
        if different:
            raise ValueError(
                f"config differs from the one that {workdir} was begun with: {'; '.join(different)}. "
                "Choose another --workdir, or set these back"
            )
    done, steps = max(manifest.finished(workdir / "checkpoints"), default=0), config["train"]["steps"]
    if done > steps:
        raise ValueError(f"train.steps: {steps} is less than the {done} steps done in {workdir}; give {done} or more")
    report.write_json(file, config)
    return workdir


def writable(workdir: str | os.PathLike) -> Path:
    """Makes the workdir if it is not there; returns its absolute path.

    Raises:
        ValueError: it cannot be made, or nothing can be written in it.
    """
    workdir = Path(workdir).absolute()
    if fault := unwritable(workdir):
        raise ValueError(f"workdir: cannot write to {workdir}: {fault}; choose another folder")
    return workdir


def unwritable(folder: Path) -> str:
    """Makes the folder if it is not there; why nothing can be written in it, or ""."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror


def read_config(workdir: str | os.PathLike) -> dict:
    """The complete config that a workdir was begun with; options that came later have their defaults.

    Raises:
        ValueError: there is none, or one with an option that is no more.
    """
    file = Path(workdir) / "config.json"
    if not file.exists():
        raise ValueError(f"workdir: {workdir} holds no run (no config.json); train one there, or give its folder")
    return configs.complete(report.read_json(file))


def unused(file: Path, same: Callable[[Path], bool]) -> Path:
    """`file`, or `file` with _2, _3, ... before its suffix: the first that is free or holds the `same`."""
    for number in itertools.count(1):
        numbered = file if number == 1 else file.with_stem(f"{file.stem}_{number}")
        if not numbered.exists() or same(numbered):
            return numbered


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[int], bool]]:
    """A function (step) -> whether to stop after it: SIGTERM or SIGINT came. A second SIGINT interrupts at once.

    Several hosts agree on the step, through JAX's preemption service, which itself listens for SIGTERM.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        yield multihost_utils.reached_preemption_sync_point
        return
    received: list[int] = []

    def note(number, frame):
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        _say(f"{signal.Signals(number).name}: stopping after this step, saving")

    with _handled_by(note):
        yield lambda step: bool(received)


@contextlib.contextmanager
def signals_end_at_once() -> Iterator[None]:
    """Within, SIGTERM and SIGINT exit with code 3: for work after the last step, which the next launch does again."""

    def leave(number, frame):
        _say(f"{signal.Signals(number).name}: all steps are done and saved; the same command goes on")
        raise SystemExit(STOPPED)

    with _handled_by(leave):
        yield


@contextlib.contextmanager
def _handled_by(handler):
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _say(message):
    # not print: a handler may run in the middle of another print, which Python refuses to nest
    os.write(2, f"{message}\n".encode())
