"""Pictures of samples as PNG: grids, denoising strips, scatter plots of 2-D points."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffax.report.writer import write_bytes

LOUD = (255, 0, 255)  # marks what is not a number
_GAP = (58, 62, 68)
_COLORS = ("#2f6fde", "#e8743b", "#19a979", "#d94a64", "#8e5bd0", "#13a4b4", "#b0812c", "#5c7f1f", "#c0399f", "#6c8893")


def grid(
    images: np.ndarray, columns: int | None = None, *, pad: int = 2, scale: int | None = None, gap: tuple = _GAP
) -> np.ndarray:
    """Lays images out in rows, the first at the top left.

    Args:
      images: float [n, height, width, 1 or 3], pixels in [-1, 1]; what is outside is clipped, what is not finite is
        shown in magenta.
      columns: images in a row; by default as square as can be.
      pad: width of the gaps, in pixels of the result.
      scale: every pixel becomes scale × scale; by default the smallest that makes images at least 48 pixels high, more
        where a row of them has room in 480.
      gap: color of the gaps and of unused cells.

    Returns:
      uint8 [height, width, 3].

    Raises:
      ValueError: wrong shape or dtype, no images.
    """
    pixels = _pixels(images)
    n, height, width, _ = pixels.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    scale = scale or max(1, math.ceil(48 / height), 480 // (columns * width))
    rows = math.ceil(n / columns)
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale + pad, width * scale + pad
    canvas = np.empty((rows * height + pad, columns * width + pad, 3), np.uint8)
    canvas[:] = gap
    for i, image in enumerate(pixels):
        top, left = i // columns * height + pad, i % columns * width + pad
        canvas[top : top + height - pad, left : left + width - pad] = image
    return canvas


def strip(trajectory: np.ndarray, *, columns: int = 12, pad: int = 2, scale: int | None = None) -> np.ndarray:
    """A denoising strip: one row a sample, one column a step, from noise at the left to data at the right.

    A step whose root mean square exceeds 1 is divided by it: noise of level 80 still looks like noise, and data in
    [-1, 1] stay as they are.

    Args:
      trajectory: float [steps, images, height, width, 1 or 3]; of more than ``columns`` steps an even choice is shown,
        always with the first and the last.
      columns: the most columns.
      pad: see `grid`.
      scale: see `grid`.

    Returns:
      uint8 [height, width, 3].

    Raises:
      ValueError: the trajectory has another number of axes, and as `grid`.
    """
    trajectory = _chosen(trajectory, 5, columns).astype(np.float64)
    trajectory = trajectory / np.maximum(_level(trajectory), 1.0)
    steps, n = trajectory.shape[:2]
    return grid(trajectory.swapaxes(0, 1).reshape(n * steps, *trajectory.shape[2:]), steps, pad=pad, scale=scale)


def scatter(
    points: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    reference: np.ndarray | None = None,
    limit: float | None = None,
    size: int = 480,
    axes: bool = True,
) -> np.ndarray:
    """A scatter plot of 2-D points, colored by label, on a square frame with axes.

    Points outside the frame and points that are not finite are not drawn but counted in the picture's corner.

    Args:
      points: float [n, 2].
      labels: int [n]; without them all points have one color.
      reference: float [m, 2], drawn in gray underneath (the real data).
      limit: the axes run from -limit to limit; by default from the reference, or else from the points.
      size: side of the picture in pixels.
      axes: False leaves out the axes' figures and the counts, for a small picture.

    Returns:
      uint8 [size, size, 3].

    Raises:
      ValueError: wrong shapes.
    """
    points = _plane(points, "points")
    reference = np.empty((0, 2)) if reference is None else _plane(reference, "reference")
    labels = np.zeros(len(points), int) if labels is None else np.asarray(labels)
    if labels.shape != points.shape[:1]:
        raise ValueError(f"labels have shape {labels.shape}, points {points.shape}: one label a point is needed")
    limit = limit or _limit(reference if len(reference) else points)
    colors = [_COLORS[label % len(_COLORS)] for label in labels.astype(int)]
    return _draw(points, colors, reference, limit, size, axes)


def scatter_strip(
    trajectory: np.ndarray, labels: np.ndarray | None = None, *, panels: int = 6, columns: int = 3, **options
) -> np.ndarray:
    """A denoising strip of 2-D points [steps, n, 2]: small scatter plots row by row, from noise to data.

    All have the last step's scale, where the data are. As in `strip`, a step that is wider than the data (in root mean
    square) is divided down to their width. ``options`` go to `scatter`; an even choice of ``panels`` steps is shown.
    """
    trajectory = _chosen(trajectory, 3, panels).astype(np.float64)
    options = {"size": 240, "axes": False, "limit": _limit(_plane(trajectory[-1], "trajectory[-1]"))} | options
    level = _level(trajectory)
    shrink = np.maximum(level / np.where(level[-1:] > 0, level[-1:], 1.0), 1.0)
    pictures = [scatter(points, labels, **options) for points in trajectory / shrink]
    pictures += [np.full_like(pictures[0], 255)] * (-len(pictures) % columns)
    return np.vstack([np.hstack(pictures[i : i + columns]) for i in range(0, len(pictures), columns)])


def save_png(path: str | Path, array: np.ndarray, text: Mapping[str, str] | None = None) -> None:
    """Writes a uint8 array [height, width] or [height, width, 3] as PNG, atomically; folders are made.

    ``text`` is kept in the file as PNG text; the entry ``caption`` is shown under the picture in ``report.html``.
    """
    write_bytes(path, png_bytes(array, text))


def png_bytes(array: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """The file that `save_png` writes."""
    from PIL import Image, PngImagePlugin

    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            f"a picture of shape {array.shape}, {array.dtype}: uint8 [height, width(, 3)], as `grid` gives"
        )
    entries = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        entries.add_itxt(key, str(value))
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", pnginfo=entries)
    return buffer.getvalue()


def save_animation(
    path: str | Path, trajectory: np.ndarray, columns: int | None = None, *, seconds: float = 3.0
) -> None:
    """Writes the way from noise to data as an animated GIF or WebP, by the file's suffix, atomically; it ends on the
    data, for a second, and begins again.

    Args:
      trajectory: as of `strip`, all of its steps; shown as there.
      columns: of each picture, as of `grid`.
      seconds: the length of the way.
    """
    from PIL import Image

    trajectory = _chosen(trajectory, 5, len(trajectory)).astype(np.float64)
    trajectory = trajectory / np.maximum(_level(trajectory), 1.0)
    frames = [Image.fromarray(grid(step, columns)) for step in trajectory]
    times = [max(20, round(1000 * seconds / len(frames)))] * (len(frames) - 1) + [1000]
    buffer = io.BytesIO()
    kind = Path(path).suffix.lower().removeprefix(".").upper()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=times, loop=0)
    write_bytes(path, buffer.getvalue())


def shows(shape: Sequence[int]) -> bool:
    """Whether examples of this shape are images that `grid` and `strip` show: [height, width, 1 or 3]."""
    return len(shape) == 3 and shape[-1] in (1, 3)


def sample_path(workdir: str | Path, step: int) -> Path:
    """Where the sample grid of a step lies: ``samples/step_00001000.png``."""
    return Path(workdir) / "samples" / f"step_{step:08d}.png"


def strip_path(workdir: str | Path, step: int) -> Path:
    """Where the denoising strip of a step lies: ``samples/strip_00001000.png``."""
    return Path(workdir) / "samples" / f"strip_{step:08d}.png"


def numbered(folder: str | Path, prefix: str, suffix: str) -> list[tuple[int, Path]]:
    """(step, path) of the files ``<prefix>_<step>[_<number>]<suffix>`` of a folder, in order; [] without one."""
    pattern = re.compile(re.escape(prefix) + r"_(\d+)(?:_(\d+))?" + re.escape(suffix))
    folder = Path(folder)
    found = [(pattern.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    order = sorted((int(match[1]), int(match[2] or 1), path) for match, path in found if match)
    return [(step, path) for step, _, path in order]


def _pixels(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if not shows(images.shape[1:]) or 0 in images.shape:
        raise ValueError(f"images have shape {images.shape}: [n, height, width, 1 or 3] with n ≥ 1 is needed")
    if images.dtype.kind in "biu":
        raise ValueError(f"images are {images.dtype}: floats in [-1, 1] are needed, as `x / 127.5 - 1` of 8 bits")
    images = images.astype(np.float32)
    finite = np.isfinite(images).all(axis=-1)
    levels = np.rint((np.clip(np.where(finite[..., None], images, 0.0), -1, 1) + 1) * 127.5).astype(np.uint8)
    pixels = np.broadcast_to(levels, (*levels.shape[:3], 3)).copy()
    pixels[~finite] = LOUD
    return pixels


def _chosen(trajectory: np.ndarray, axes: int, columns: int) -> np.ndarray:
    trajectory = np.asarray(trajectory)
    if trajectory.ndim != axes or 0 in trajectory.shape:
        raise ValueError(f"the trajectory has shape {trajectory.shape}: {axes} axes, [steps, n, ...], are needed")
    count = min(max(2, columns), len(trajectory))
    return trajectory[np.rint(np.linspace(0, len(trajectory) - 1, count)).astype(int)]


def _level(trajectory: np.ndarray) -> np.ndarray:
    """Root mean square of each step's finite values, with the trajectory's axes."""
    square = np.where(np.isfinite(trajectory), trajectory, 0.0) ** 2
    return np.sqrt(square.mean(axis=tuple(range(1, trajectory.ndim)), keepdims=True))


def _plane(points: np.ndarray, name: str) -> np.ndarray:
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{name} have shape {points.shape}: [n, 2] is needed")
    return points.astype(np.float64)


def _limit(points: np.ndarray) -> float:
    """A round number a little above almost all coordinates, so that one stray point does not shrink the picture."""
    reach = np.abs(points[np.isfinite(points).all(axis=1)]).max(axis=1, initial=0.0)
    reach = 1.15 * float(np.quantile(reach, 0.99)) if reach.size else 0.0
    if not reach:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(reach))
    return next(unit * k for k in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if unit * k >= reach * (1 - 1e-9))


def _draw(
    points: np.ndarray, colors: list[str], reference: np.ndarray, limit: float, size: int, axes: bool
) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    fine = 3  # drawn three times as large and reduced: Pillow's shapes are not anti-aliased
    side, margin = size * fine, round((0.09 if axes else 0.03) * size) * fine
    picture = Image.new("RGB", (side, side), "#ffffff")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(10, size // 36) * fine)
    inner = side - 2 * margin

    def place(x, y):
        return margin + (x / limit + 1) / 2 * inner, margin + (1 - y / limit) / 2 * inner

    for tick in (-limit, -limit / 2, 0.0, limit / 2, limit):
        (x, y), shade = place(tick, tick), "#d5d9de" if tick == 0 else "#eef0f2"
        draw.line([(x, margin), (x, side - margin)], fill=shade, width=fine)
        draw.line([(margin, y), (side - margin, y)], fill=shade, width=fine)
        if axes:
            draw.text((x, side - margin + 4 * fine), f"{tick:g}", fill="#5f6873", font=font, anchor="ma")
            draw.text((margin - 5 * fine, y), f"{tick:g}", fill="#5f6873", font=font, anchor="rm")
    radius = fine * size / 480 * min(3.0, max(1.2, 60 / math.sqrt(len(points) + 1)))
    for cloud, paints in ((reference, ["#c9ced6"] * len(reference)), (points, colors)):
        inside = (np.abs(cloud) <= limit).all(axis=1)
        for (x, y), paint in zip(cloud[inside], [c for c, seen in zip(paints, inside) if seen]):
            x, y = place(x, y)
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=paint)
    draw.rectangle([margin, margin, side - margin, side - margin], outline="#9aa2ac", width=fine)
    broken = int((~np.isfinite(points).all(axis=1)).sum())
    outside = int((np.abs(points) > limit).any(axis=1).sum())
    note = ", ".join(f"{count} {what}" for count, what in ((broken, "not finite"), (outside, "outside")) if count)
    if axes:
        paint = "#d000d0" if broken else "#5f6873"
        draw.text((side - margin, margin - 4 * fine), note, fill=paint, font=font, anchor="rd")
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))
