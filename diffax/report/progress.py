"""How far a run is: a live bar on a terminal, plain lines elsewhere, both with the same figures."""

import math
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO

_WINDOW = 30.0  # seconds that the speed is taken over
_SHORTEST = 0.01  # seconds that tell a speed: a step read one late is followed at once by the one it waited for


class Progress(NamedTuple):
    """What `progress` returns; usable in a ``with``, which closes it.

    update(done, images=0, /, **figures): ``done`` of the total are done, ``images`` more than at the last call. Figures
      are numbers or strings; a JAX scalar is fetched from the device only when it is shown.
    log(message): prints a line without breaking the bar.
    rate(): images a second, None before the second step: the median over the last 30 seconds, so that a pause (a
      checkpoint, a sample grid) does not count, and neither does the first step with its compilation.
    close(): shows the last state if it was not shown yet.
    """

    update: Callable[..., None]
    log: Callable[[str], None]
    rate: Callable[[], float | None]
    close: Callable[[], None]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def progress(
    total: int,
    start: int = 0,
    *,
    noun: str = "step",
    interval: float = 5.0,
    file: TextIO | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Progress:
    """Shows the way from ``start`` to ``total``: a bar (tqdm) on a terminal, else lines such as

        step 120/1500  loss 0.1234  812 images/s  1 min 50 s left

    Call ``update(step, batch_size, loss=loss)`` on the result after every step.

    Args:
      total: the number at the end.
      start: the number already done (a resumed run).
      noun: what is counted: "step", or "image" when sampling.
      interval: seconds between plain lines; the first two steps and the last are always shown.
      file: stream, by default stderr.
      clock: seconds, for tests.
    """
    file = sys.stderr if file is None else file
    show, log, end = _bar(total, start, file) if file.isatty() else _lines(file)
    gap = 0.2 if file.isatty() else interval
    if not file.isatty():
        log(f"{noun} {start}/{total}  compiling")  # minutes can pass before there is a figure
    meter = _meter(total, clock)
    done, shown, shown_at, images, figures = start, start, -math.inf, 0, {}

    def present():
        nonlocal shown, shown_at
        values = [f"{name} {_figure(value)}" for name, value in figures.items()]
        meter.mark(done, images)  # after the figures were fetched: only then is the step really done
        show(done, "  ".join([f"{noun} {done}/{total}", *values, *meter.texts()]))
        shown, shown_at = done, clock()

    def update(now_done, more_images=0, /, **now_figures):
        nonlocal done, images, figures
        done, images, figures = now_done, images + more_images, now_figures
        if done - start <= 2 or done >= total or clock() - shown_at >= gap:
            present()

    def close():
        if done != shown:
            present()
        end()

    return Progress(update, log, meter.rate, close)


class _Meter(NamedTuple):
    mark: Callable[[int, int], None]  # so many steps and images are done now
    rate: Callable[[], float | None]
    texts: Callable[[], list[str]]


def _meter(total: int, clock: Callable[[], float]) -> _Meter:
    begin, first, last, measured, speeds = clock(), None, None, None, deque()

    def mark(done, images):
        nonlocal first, last, measured
        now = last = (clock(), done, images)
        first, measured = first or now, measured or now
        if now[0] - measured[0] >= _SHORTEST:
            if images > measured[2]:
                speeds.append((now[0], (images - measured[2]) / (now[0] - measured[0])))
            measured = now
        while speeds and speeds[0][0] < now[0] - _WINDOW and len(speeds) > 5:
            speeds.popleft()

    def rate():
        return statistics.median(speed for _, speed in speeds) if speeds else None

    def texts():
        now, done, _ = last
        speed, passed = rate(), done - first[1]
        words = [] if speed is None else [f"{speed:,.0f} images/s" if speed >= 100 else f"{speed:.3g} images/s"]
        if done >= total:
            return [*words, f"{_duration(now - begin)} in all"]
        if passed > 0:
            return [*words, f"{_duration((now - first[0]) / passed * (total - done))} left"]
        return [*words, f"first after {_duration(now - begin)}, compilation included"]

    return _Meter(mark, rate, texts)


def _lines(file: TextIO):
    def say(message):
        print(message, file=file, flush=True)

    return lambda done, text: say(text), say, lambda: None


def _bar(total: int, start: int, file: TextIO):
    from tqdm import tqdm

    width = {"dynamic_ncols": True} if _columns(file) else {"ncols": 100, "nrows": 2}  # 0 columns would show nothing
    bar = tqdm(total=total, initial=start, file=file, bar_format="{percentage:3.0f}%|{bar}| {desc}", **width)

    def show(done, text):
        bar.n = done
        bar.set_description_str(text)

    return show, lambda message: tqdm.write(message, file=file), bar.close


def _columns(file: TextIO) -> int:
    try:
        return os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError):
        return 0


def _figure(value: Any) -> str:
    return value if isinstance(value, str) else f"{float(value):.4g}"


def _duration(seconds: float) -> str:
    """Two units at most: ``8.2 s``, ``2 min 05 s``, ``1 h 04 min``, ``3 d 04 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    for unit, name, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit:
            return f"{seconds // unit} {name} {seconds % unit // part:02d} {smaller}"
    return f"{seconds} s"
