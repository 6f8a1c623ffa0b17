"""What a run shows of itself: rows of measurements, pictures, a page, and a line on the terminal."""

from diffax.report.html import write_report
from diffax.report.images import (
    grid,
    numbered,
    png_bytes,
    sample_path,
    save_animation,
    save_png,
    scatter,
    scatter_strip,
    shows,
    strip,
    strip_path,
)
from diffax.report.progress import Progress, progress
from diffax.report.writer import (
    Writer,
    npz_bytes,
    open_writer,
    read_columns,
    read_json,
    read_rows,
    to_json,
    write_bytes,
    write_json,
)

__all__ = [
    "Progress",
    "Writer",
    "grid",
    "npz_bytes",
    "numbered",
    "open_writer",
    "png_bytes",
    "progress",
    "read_columns",
    "read_json",
    "read_rows",
    "sample_path",
    "save_animation",
    "save_png",
    "scatter",
    "scatter_strip",
    "shows",
    "strip",
    "strip_path",
    "to_json",
    "write_bytes",
    "write_json",
    "write_report",
]
