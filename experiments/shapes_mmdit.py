"""Text to image by flow matching: scenes of colored shapes, a transformer whose attention joins picture and text.

Paper:    Stable Diffusion 3, arXiv:2403.03206 (MMDiT, flow matching with logit-normal times), in small.
Command:  python -m diffax.main --config=experiments/shapes_mmdit.py --workdir=runs/shapes_mmdit
Hardware: two CPU cores, 77 images/s over the first 115 steps, so 48 minutes for all.
Reached:  not run in full.
"""

from ml_collections import ConfigDict
from shapes_text import get_config as shapes_text


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    config = shapes_text(mode)
    config.data.size = 16
    if mode == "full":
        config.optimizer.decay_steps = config.train.steps = 7000
    config.process = dict(name="FlowMatching")
    config.prediction = dict(name="velocity")
    config.loss = dict(time=dict(name="logit_normal"), conditional=True, drop=0.1)
    text = dict(name="TextTransformer", width=128, layers=1, kernel=5)
    config.network = dict(name="MMDiT", patch=2, width=128, depth=5, heads=4, frequencies=64, text=text)
    config.optimizer.warmup = 200
    config.sample.sampler = dict(name="heun")
    config.sample.grid = dict(name="uniform_time", n=20)
    if mode == "quick":
        config.network.update(width=64, depth=2)
        config.optimizer.warmup = 20
        config.sample.grid.n = 10
    return config
