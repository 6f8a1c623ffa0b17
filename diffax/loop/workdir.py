"""What a workdir holds besides checkpoints: the config, and the signals that end a run in good order."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from diffax import config as configs
from diffax import report


def prepare(workdir: str | os.PathLike, config: Mapping) -> Path:
    """Makes the workdir and writes `config.json`, or holds `config` against the one that is there.

    Raises:
        ValueError: the folder cannot be written, or its config differs in a field that an update depends on.
    """
    workdir = Path(workdir).absolute()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".write_test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"workdir: cannot write to {workdir}: {error.strerror}; choose another folder") from None
    file = workdir / "config.json"
    if file.exists():
        different = configs.difference(report.read_json(file), config)
        if different:
            raise ValueError(
                f"config differs from the one that {workdir} was begun with: {'; '.join(different)}. "
                "Choose another --workdir, or set these back"
            )
    report.write_json(file, config)
    return workdir


def read_config(workdir: str | os.PathLike) -> dict:
    """The complete config that a workdir was begun with.

    Raises:
        ValueError: there is none.
    """
    file = Path(workdir) / "config.json"
    if not file.exists():
        raise ValueError(f"workdir: {workdir} holds no run (no config.json); train one there, or give its folder")
    return report.read_json(file)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turns the first SIGTERM or SIGINT into a flag that the loop reads between steps; a second SIGINT interrupts."""
    received = []

    def note(number, frame):
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        print(f"{signal.Signals(number).name}: stopping after this step, saving", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
