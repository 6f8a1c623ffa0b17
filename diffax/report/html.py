"""``report.html``: one self-contained page on a run, rewritten as the run goes on.

Reads what lies in the workdir (``config.json``, ``metrics.jsonl``, ``samples/``, ``eval_<step>.json``) and needs no
network, no script and no other file. Any part may be missing or damaged: the page says so and shows the rest.
"""

import base64
import io
import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from diffax.report.chart import chart
from diffax.report.images import numbered
from diffax.report.style import SHEET
from diffax.report.writer import read_columns, read_json, write_bytes

_EARLIER = 8  # earlier sample grids shown small
_WIDEST = 1600  # pixels; larger pictures are reduced in the page, not in samples/
_DAMAGED = (OSError, ValueError, SyntaxError)  # SyntaxError: Pillow on some broken PNGs


def write_report(
    workdir: str | Path, *, title: str | None = None, total: int | None = None, facts: Mapping[str, Any] | None = None
) -> Path:
    """Writes ``<workdir>/report.html`` atomically from what the workdir holds at the moment.

    Args:
      workdir: the run's folder.
      title: heading; by default the folder's name.
      total: training steps planned; gives the page a progress bar and, until they are done, a reload every 30 s.
      facts: shown in the section Run, in order: ``command``, ``parameters`` (an int is also shown on top),
        ``hardware``, ``versions`` (a mapping), or any other name.

    Returns:
      The path written.

    Raises:
      FileNotFoundError: there is no such folder.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise FileNotFoundError(f"workdir {workdir} is no folder: give the folder of a run")
    facts, notes = facts or {}, []
    columns = _try(notes, {}, read_columns, workdir / "metrics.jsonl")
    config = _try(notes, {}, read_json, workdir / "config.json")
    cards = [(step, _try(notes, {}, read_json, path)) for step, path in numbered(workdir, "eval", ".json")]
    cards = [(step, card) for step, card in cards if isinstance(card, Mapping) and card]
    step = max((int(steps[-1]) for steps, _ in columns.values()), default=0)
    running = total is not None and step < total
    title = title or workdir.resolve().name
    body = [
        _header(title, step, total, bool(columns)),
        _tiles(columns, cards, facts),
        _samples(workdir, notes),
        _curves(columns),
        _evaluations(cards),
        _config(config if isinstance(config, Mapping) else {"config": config}),
        _section("Run", f'<div class="card">{_rows({n: _line(v) for n, v in facts.items()})}</div>' if facts else ""),
        "".join(f'<p class="note">{escape(note)}</p>' for note in notes),
    ]
    written = time.strftime("%Y-%m-%d %H:%M:%S %z")
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        + ('<meta http-equiv="refresh" content="30">' if running else "")
        + f"<title>{escape(title)}</title><style>{SHEET}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + f"\n<footer>Written by diffax, {written}.</footer></main></body></html>\n"
    )
    write_bytes(workdir / "report.html", page.encode())
    return workdir / "report.html"


def _try(notes: list[str], otherwise: Any, read, path: Path) -> Any:
    try:
        return read(path)
    except FileNotFoundError:
        return otherwise
    except _DAMAGED as error:
        notes.append(f"{path.name} cannot be shown: {error}")
        return otherwise


def _header(title: str, step: int, total: int | None, begun: bool) -> str:
    state = f"Step {step:,}" if begun else "No training rows yet"
    meter = ""
    if total:
        state += f" of {total:,}" if begun else ""
        meter = f'<div class="meter"><i style="width:{min(1, step / total):.2%}"></i></div>'
    return f'<header><h1>{escape(title)}</h1><p class="soft">{state}</p>{meter}</header>'


def _tiles(columns, cards, facts) -> str:
    tiles = []
    if "loss" in columns:
        values = columns["loss"][1]
        recent = values[-max(1, len(values) // 40) :]
        tiles.append(
            (_text(float(np.mean(recent))), "loss", f"mean of the last {len(recent)}" if len(recent) > 1 else "")
        )
    for name, score, floor in _scores(_own(cards)[1]) if cards else []:
        tiles.append(
            (_score(name, score), name.replace("_", " "), "" if floor is None else f"real data: {_text(floor)}")
        )
    speeds = columns.get("images_per_second", (None, np.empty(0)))[1]
    if np.isfinite(speeds).any():
        tiles.append((_text(float(np.median(speeds[np.isfinite(speeds)]))), "images a second", "median"))
    if isinstance(facts.get("parameters"), int):
        tiles.append((f"{facts['parameters']:,}", "parameters", ""))
    return _wrap("tiles", [f"<div><b>{b}</b><span>{escape(s)}</span><em>{escape(e)}</em></div>" for b, s, e in tiles])


def _samples(workdir: Path, notes: list[str]) -> str:
    grids, strips = (numbered(workdir / "samples", prefix, ".png") for prefix in ("step", "strip"))
    earlier = grids[:-1]
    if len(earlier) > _EARLIER:
        earlier = [earlier[i] for i in np.rint(np.linspace(0, len(earlier) - 1, _EARLIER)).astype(int)]
    newest = _picture(grids[-1], _WIDEST, notes) if grids else ""
    strip = _picture(strips[-1], _WIDEST, notes) if strips else ""
    earlier = _wrap("earlier", [_picture(found, 320, notes) for found in earlier])
    titled = [("Newest", newest), ("From noise to data", strip), ("Earlier", earlier)]
    cards = [f'<div class="card"><h3>{title}</h3>{part}</div>' for title, part in titled if part]
    columns = [cards[0], "".join(cards[1:])] if len(cards) > 1 else cards
    parts = [_wrap("pair" if len(cards) > 1 else "alone", [f"<div>{column}</div>" for column in columns])]
    return _section("Samples", "".join(parts))


def _picture(found: tuple[int, Path], widest: int, notes: list[str]) -> str:
    from PIL import Image

    step, path = found
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            caption = str(getattr(image, "text", {}).get("caption", "")) if widest == _WIDEST else ""
            size = image.size
            if size[0] > widest:
                size = widest, max(1, round(size[1] * widest / size[0]))
                buffer = io.BytesIO()
                image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
                data = buffer.getvalue()
    except _DAMAGED as error:
        notes.append(f"{path.name} cannot be shown: {error}")
        return ""
    source = base64.b64encode(data).decode()
    return (
        f'<figure><img src="data:image/png;base64,{source}" width="{size[0]}" height="{size[1]}" '
        f'alt="samples at step {step}"><figcaption><b>step {step:,}</b> {escape(caption)}</figcaption></figure>'
    )


def _curves(columns) -> str:
    constant = {n: v for n, (_, v) in columns.items() if n != "loss" and len(v) > 1 and (v == v[0]).all()}
    names = sorted((name for name in columns if name not in constant), key=lambda name: name != "loss")
    charts = [chart(name, *columns[name]) for name in names]
    first = f'<div class="card tall">{charts.pop(0)}</div>' if names and names[0] == "loss" else ""
    still = ", ".join(f"{escape(name)} {_text(float(values[0]))}" for name, values in constant.items())
    still = f'<p class="soft" style="margin-top:12px">Constant: {still}</p>' if still else ""
    return _section("Curves", first + _wrap("charts", [f'<div class="card">{c}</div>' for c in charts]) + still)


def _evaluations(cards) -> str:
    if not cards:
        return ""
    step, card = _own(cards)
    scores = [
        f"<div><b>{_score(name, score)}</b>{escape(name.replace('_', ' '))}"
        + (f" <small>real against real: {_text(floor)}</small>" if floor is not None else "")
        + "</div>"
        for name, score, floor in _scores(card)
    ]
    rest = {name: _line(value) for name, value in card.items() if name not in ("scores", "score", "step")}
    parts = f'<div class="card"><h3>Step {step:,}</h3>{_wrap("scores", scores)}{_rows(rest)}</div>'
    if len(cards) > 1:
        found = [(step, card, {name: score for name, score, _ in _scores(card)}) for step, card in cards]
        names = list(dict.fromkeys(name for *_, row in found for name in row))
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        lines = ""
        asked = [dict(_flat(_differences(card))) for _, card, _ in found]
        same = {name for name, value in asked[0].items() if all(of.get(name) == value for of in asked)}
        for (step, _, row), of in zip(found, asked):
            cells = "".join(f"<td>{_score(name, row[name]) if name in row else ''}</td>" for name in names)
            apart = _line({name: value for name, value in of.items() if name not in same})
            lines += f'<tr><td>{step:,}</td><td style="min-width:20em">{apart}</td>{cells}</tr>'
        table = f'<table class="many"><thead><tr><th>step</th><th>of</th>{head}</tr></thead>{lines}</table>'
        parts += f'<div class="card scroll"><h3>All evaluations</h3>{table}</div>'
    return _section("Evaluation", parts + _sweep(cards))


def _own(cards):
    """The first evaluation of the last step, as the run's config asks for it; others, of a sweep too, are beside it."""
    return next((step, card) for step, card in cards if step == cards[-1][0])


def _sweep(cards) -> str:
    """Charts of the scores of one evaluation against the scale of guidance, where three or more were tried."""

    def rest(card):
        guidance = {**card["sampler"]["guidance"], "scale": 0.0}
        kept = {name: value for name, value in card.items() if name not in ("scores", "versions")}
        return repr({**kept, "sampler": {**card["sampler"], "guidance": guidance}})

    def scale(card):
        return card["sampler"]["guidance"]["scale"]

    try:
        tried = {}
        for _, card in cards:
            tried.setdefault(rest(card), {})[scale(card)] = card
        tried = max(reversed(tried.values()), key=len)  # of equal ones the newest
    except (KeyError, TypeError):  # a card of another make
        return ""
    if len(tried) < 3:
        return ""
    columns = {}
    for value, card in sorted(tried.items()):
        for name, score, _ in _scores(card):
            columns.setdefault(name, []).append((value, score))
    drawn = [chart(name, *np.array(points).T, against="guidance scale") for name, points in columns.items()]
    charts = _wrap("charts", [f'<div class="card">{figure}</div>' for figure in drawn])
    return f'<h3 style="margin-top:18px">Against the scale of guidance</h3>{charts}'


def _differences(card):
    """What may tell the cards of one step apart; an empty list of labels, all classes in turn, says nothing."""
    names = ("samples", "seed", "ema", "labels", "conditions", "each", "sampler")
    return {name: card[name] for name in names if card.get(name) not in (None, [])}


def _scores(card: Mapping[str, Any]) -> list[tuple[str, float, float | None]]:
    """(name, score, its real-against-real floor or None)."""
    scores = card.get("scores", {"score": card.get("score")})
    scores = {n: v for n, v in scores.items() if isinstance(v, int | float)} if isinstance(scores, Mapping) else {}
    return [(n, v, scores.get(f"{n}_floor")) for n, v in scores.items() if not n.endswith("_floor")]


def _score(name: str, value: float) -> str:
    return f"{100 * value:.1f} %" if ("agreement" in name or "accuracy" in name) and 0 <= value <= 1 else _text(value)


def _config(config: Mapping[str, Any]) -> str:
    groups = {name: value for name, value in config.items() if isinstance(value, Mapping) and value}
    single = {name: value for name, value in config.items() if name not in groups}
    cards = [f'<div class="card">{_table(single)}</div>'] if single else []
    cards += [f'<div class="card"><h3>{escape(str(n))}</h3>{_table(value)}</div>' for n, value in groups.items()]
    return _section("Config", _wrap("groups", cards))


def _table(values: Mapping[str, Any]) -> str:
    return _rows({name: _text(value) for name, value in _flat(values)})


def _rows(texts: Mapping[str, str]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(str(name))}</th><td>{text}</td></tr>' for name, text in texts.items())
    return f"<table>{rows}</table>" if rows else ""


def _line(value: Any) -> str:
    """A value on one line: the parts of a mapping side by side."""
    if not isinstance(value, Mapping):
        return _text(value)
    parts = [f"<span><small>{escape(name)}</small> {_text(part)}</span>" for name, part in _flat(value)]
    return f'<div class="parts">{"".join(parts)}</div>'


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for name, value in values.items():
        name = f"{prefix}{name}"
        rows += _flat(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
    return rows


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.6g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value) if value else "empty"
    return escape(str(value))


def _wrap(kind: str, parts: list[str]) -> str:
    return f'<div class="{kind}">{"".join(parts)}</div>' if any(parts) else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""
