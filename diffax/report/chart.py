"""A line chart as HTML and inline SVG: raw values, a smoothed line, axes, a read-out under the pointer. No script.

The drawing stretches to any width; labels are text beside it, so they stay readable on a phone.
"""

import html
import math

import numpy as np

_UNIT = 1000  # side of the drawing's coordinates; the page stretches them to the space there is
_BINS = 600  # more values than this are drawn as bins: smallest to largest raw value, mean of the smoothed line
_SPOTS = 60  # places with a read-out


def chart(name: str, steps: np.ndarray, values: np.ndarray, against: str = "step") -> str:
    """Draws one column of measurements against the step, or something else.

    The line is `smoothed`; a column without noise (a learning rate) is drawn as it is. The value axis is logarithmic
    when a linear one would squeeze most positive values against its floor. Values that are not finite are marked in
    red at the top.

    Args:
      name: what is measured, any text.
      steps: [n] in any order.
      values: [n].
      against: what `steps` are, for who cannot see the drawing.

    Returns:
      A ``<figure>``.
    """
    order = np.argsort(steps, kind="stable")
    steps, values = np.asarray(steps, np.float64)[order], np.asarray(values, np.float64)[order]
    finite = np.isfinite(values)
    if not finite.any():
        return f'<figure class="chart">{_caption(name, "no finite value")}</figure>'
    x, y = steps[finite], np.clip(values[finite], -1e150, 1e150)  # so that differences and quotients stay finite
    y = np.where(np.abs(y) < 1e-150, 0.0, y)
    line = smoothed(y)
    log = bool(y.min() > 0) and _log_helps(line)
    low, high = _range(y, line, log)
    left, right = (steps[0], steps[-1]) if steps[-1] > steps[0] else (steps[0] - 1, steps[0] + 1)
    warp = np.log10 if log else np.asarray

    def across(step):
        return (step - left) / (right - left) * _UNIT

    def down(value):
        return (warp(high) - warp(value)) / (warp(high) - warp(low)) * _UNIT

    y_ticks = _log_ticks(low, high) if log else _ticks(low, high)
    x_ticks = [tick for tick in _ticks(left, right, 5) if tick == round(tick)]
    drawing = _rules(x_ticks, y_ticks, across, down) + _raw(across(x), down(y)) + _line(across(x), down(line))
    drawing += _bad(across(steps[~finite]))
    told = f"{name} against {against}, {len(values)} values, smoothed {_number(line[-1])} at {against} {x[-1]:g}"
    label = html.escape(told)
    return (
        f'<figure class="chart">{_caption(name, _note(finite, log), _number(line[-1]))}'
        f'<div class="plot"><div class="ylabels">{_labels(y_ticks, down, "top")}</div><div class="area">'
        f'<svg viewBox="0 0 {_UNIT} {_UNIT}" preserveAspectRatio="none" role="img" aria-label="{label}">{drawing}</svg>'
        f"{_spots(x, y, line, across, against)}</div>"
        f'<div class="xlabels">{_labels(x_ticks, across, "left", _count)}</div></div></figure>'
    )


def smoothed(values: np.ndarray) -> np.ndarray:
    """Moving average [n] of values [n], taken twice: a triangular window of ceil(n / 60) ≤ 200 neighbors on each side.

    At the start, where a loss falls fast, the window is symmetric and so narrower; at the end one side is cut off.
    Few values, and values without noise (neighboring differences hardly change), are returned as they are.
    """
    n = len(values)
    if n < 40 or np.median(np.abs(np.diff(values, 2))) <= 0.05 * np.median(np.abs(np.diff(values))):
        return values
    index = np.arange(n)
    half = np.minimum(index, min(200, math.ceil(n / 60)))
    first, last = index - half, np.minimum(index + half, n - 1)
    for _ in range(2):
        mean = values.mean()
        total = np.concatenate([[0.0], np.cumsum(values - mean)])  # without the mean: sums keep their digits
        values = mean + (total[last + 1] - total[first]) / (last + 1 - first)
    return values


def _log_helps(line: np.ndarray) -> bool:
    low, middle, high = np.quantile(line, [0.0, 0.5, 1.0])
    return bool(high > 8 * low and middle - low < 0.15 * (high - low))


def _range(y: np.ndarray, line: np.ndarray, log: bool) -> tuple[float, float]:
    low = min(np.quantile(y, 0.005), line.min())
    high = max(np.quantile(y, 0.995), line.max())
    if log:
        low = max(low, y.min())
        return low * (low / high) ** 0.04, high * (high / low) ** 0.04
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        spread = 0.1 * abs(high) or 1.0
        return low - spread, high + spread
    if 0 <= low < 0.4 * high:
        low = 0.0
    room = 0.04 * (high - low)
    return (low if low == 0 else low - room), high + room


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = min((unit * k for k in (1, 2, 5, 10)), key=lambda size: abs(math.log(size / rough)))
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = []
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [k * 10.0**d for d in decades for k in factors if low <= k * 10.0**d <= high]
        if len(ticks) >= 4:
            break
    return ticks[:: math.ceil(len(ticks) / 8)] if len(ticks) > 1 else _ticks(low, high)


def _rules(x_ticks, y_ticks, across, down) -> str:
    path = "".join(f"M0,{down(tick):.1f}h{_UNIT}" for tick in y_ticks)
    return f'<path class="rules" d="{path}{"".join(f"M{across(tick):.1f},0v{_UNIT}" for tick in x_ticks)}"/>'


def _raw(x: np.ndarray, y: np.ndarray) -> str:
    """Dots, or for many values the band from the smallest to the largest of each bin."""
    y = np.clip(y, -_UNIT, 2 * _UNIT)  # the frame cuts off what is outside
    if len(x) <= _BINS:
        kind = "few" if len(x) <= 60 else "dots"
        return f'<path class="{kind}" d="{"".join(f"M{a:.1f},{b:.1f}h0" for a, b in zip(x, y))}"/>'
    edges = _edges(len(x))
    middle = [(a + b) / 2 for a, b in zip(x[edges[:-1]], x[edges[1:] - 1])]
    top, bottom = np.minimum.reduceat(y, edges[:-1]), np.maximum.reduceat(y, edges[:-1])
    around = [*zip(middle, top), *reversed([*zip(middle, bottom)])]
    return f'<path class="band" d="M{"L".join(f"{a:.1f},{b:.1f}" for a, b in around)}Z"/>'


def _line(x: np.ndarray, y: np.ndarray) -> str:
    if len(x) > _BINS:
        edges = _edges(len(x))
        size = np.diff(edges)
        x, y = (np.add.reduceat(values, edges[:-1]) / size for values in (x, y))
    return f'<path class="line" d="M{"L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))}"/>'


def _edges(n: int) -> np.ndarray:
    return np.linspace(0, n, _BINS + 1).astype(int)


def _bad(x: np.ndarray) -> str:
    x = np.unique(np.rint(x))  # one mark a place, however many values
    return f'<path class="bad" d="{"".join(f"M{a:.0f},0v40" for a in x)}"/>' if len(x) else ""


def _note(finite: np.ndarray, log: bool) -> str:
    n, bad = len(finite), int((~finite).sum())
    notes = ["1 value" if n == 1 else f"{n:,} values", "log scale" if log else "", f"{bad:,} not finite" if bad else ""]
    return " · ".join(note for note in notes if note)


def _spots(x: np.ndarray, y: np.ndarray, line: np.ndarray, across, against: str) -> str:
    places = across(x) / _UNIT
    kept = np.arange(len(x))
    if len(x) > _SPOTS:
        kept = np.unique([np.argmin(np.abs(places - (i + 0.5) / _SPOTS)) for i in range(_SPOTS)])
    edges = [0.0, *(places[kept][1:] + places[kept][:-1]) / 2, 1.0]
    spots = []
    for k, left, right in zip(kept, edges, edges[1:]):
        at = f"{x[k]:,.0f}" if against == "step" else f"{x[k]:g}"
        text = f"{html.escape(against)} {at}<br>{_number(y[k])}, mean {_number(line[k])}"
        side = "l" if left < 0.5 else "r"
        spots.append(f'<i class="{side}" style="left:{left:.2%};width:{right - left:.2%}"><b>{text}</b></i>')
    return "".join(spots)


def _caption(name: str, note: str, latest: str = "") -> str:
    return (
        f"<figcaption><b>{html.escape(name)}</b> <span>{latest}</span> <small>{html.escape(note)}</small></figcaption>"
    )


def _labels(ticks: list[float], place, side: str, text=None) -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else None
    text = text or (lambda tick: _number(tick, step))
    return "".join(f'<span style="{side}:{place(tick) / _UNIT:.2%}">{text(tick)}</span>' for tick in ticks)


def _number(value: float, step: float | None = None) -> str:
    """A number as short as it stays exact enough: ``0.0312``, ``1.5e-5``, ``2.4e+7``."""
    if value and not 1e-4 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if step:
        digits = max(4, 1 + math.ceil(math.log10(max(abs(value), step) / step)))
        return f"{round(value, 12):.{digits}g}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _count(value: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.6g}{name}"
    return f"{value:g}"
