"""Handwritten digits, class by class, with a diffusion transformer and classifier-free guidance.

Paper:    DiT, arXiv:2212.09748 (network); EDM, arXiv:2206.00364 (preconditioning, noise levels, loss).
Command:  python -m diffax.main --config=experiments/digits_dit.py --workdir=runs/digits_dit
Hardware: two CPU cores; 10 minutes, all but half a minute of it training, on a machine with other work.
Reached:  of 1000 samples, guided with scale 1.5, a support-vector classifier of the real digits reads 100 % as the
          class asked for; Fréchet distance of the pixels 0.320, real against real 0.320 (seed 0, jax 0.10.2).
"""

from digits import get_config as digits
from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    config = digits(mode)
    config.network = dict(name="DiT", patch=2, width=96, depth=4, heads=4, frequencies=64)
    config.optimizer.update(learning_rate=1e-3, warmup=100)
    config.ema.decays = (0.999,)
    if mode == "full":
        config.optimizer.decay_steps = 4000
        config.train.update(steps=4000, log_every=10, checkpoint_every=1000, sample_every=1000)
    return config
