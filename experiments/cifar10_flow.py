"""Flow matching on CIFAR-10, unconditional, with the paper's settings.

Paper:    arXiv:2210.02747, App. E, Table 3 (FM with the optimal-transport path): FID 6.35 with an adaptive solver.
Prepare:  as cifar10_ddpm.py
Command:  python -m diffax.main --config=experiments/cifar10_flow.py --workdir=runs/cifar10_flow
Reached:  not run. The paper decays the rate linearly; this follows a cosine.
"""

from cifar10_ddpm import full, quick
from cifar10_ddpm import get_config as ddpm
from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    config = ddpm()
    config.process = dict(name="FlowMatching")
    config.prediction = dict(name="velocity")
    config.loss = dict(time=dict(name="uniform"), weight=dict(name="unit"))
    config.network.update(channels=256, head_dim=64, residual_resampling=True, adaptive=True, dropout=0.0)
    config.optimizer.update(learning_rate=5e-4, warmup=45_000, decay_steps=391_000, clip=float("inf"))
    config.train.update(steps=391_000, batch_size=256)
    config.sample.clip = float("inf")
    config.sample.sampler = dict(name="heun")
    config.sample.grid = dict(name="uniform_time", n=50)
    if mode == "quick":
        config.network.head_dim = 16
        config.optimizer.decay_steps = 200
        return quick(config)
    return full(config, mode)
