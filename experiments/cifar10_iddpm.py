"""Improved DDPM on CIFAR-10, unconditional: learned variances, cosine schedule, with the paper's settings.

Paper:    arXiv:2102.09672, Sec. 3 and App. A: FID 3.19 and 3.17 bits a dimension after 500k steps (not run).
Prepare:  as cifar10_ddpm.py
Command:  python -m diffax.main --config=experiments/cifar10_iddpm.py --workdir=runs/cifar10_iddpm
Hardware: one node of GPUs or TPUs; wall time unknown (not run).
Reached:  not run. `--config.sample.grid.n=100` samples with 100 of the 4000 steps.
"""

from cifar10_ddpm import full, quick
from cifar10_ddpm import get_config as ddpm
from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    config = ddpm()
    config.process = dict(name="DDPM", betas=dict(name="cosine_betas", n=4000))
    config.loss = dict(objective=dict(name="hybrid_loss", lambda_vlb=0.001), time=dict(name="discrete"))
    config.network.update(blocks=3, attention=(16, 8), head_dim=64, adaptive=True, dropout=0.3)
    config.optimizer.update(learning_rate=1e-4, warmup=0, clip=float("inf"))
    config.train.update(steps=500_000)
    config.sample.sampler = dict(name="ancestral")
    config.sample.grid.n = 4000
    if mode == "quick":
        config = quick(config)
        config.process.betas.n = 100
        config.network.update(head_dim=16)
        config.optimizer.learning_rate = 1e-3
        return config
    return full(config, mode)
