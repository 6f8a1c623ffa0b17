"""A local page that draws samples of a run: python -m diffax.demo --workdir=runs/shapes

The standard library's HTTP server and one page of our own: gradio would do it too,
with some forty packages behind it.
"""

from diffax.demo.drawing import Field, Studio, checked, studio
from diffax.demo.server import server

__all__ = ["Field", "Studio", "checked", "server", "studio"]
