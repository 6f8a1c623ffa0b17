"""EDM on CIFAR-10, unconditional, with the paper's settings except its geometric augmentation (flips only).

Paper:    arXiv:2206.00364, Table 7, config F, VP architecture: FID 1.97 with 35 network calls, 200M images.
Prepare:  as cifar10_ddpm.py
Command:  python -m diffax.main --config=experiments/cifar10_edm.py --workdir=runs/cifar10_edm
Hardware: 8 V100 GPUs and two days in the paper.
Reached:  not run.
"""

from cifar10_ddpm import full, quick
from cifar10_ddpm import get_config as ddpm
from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    config = ddpm()
    config.process = dict(name="EDM")
    config.prediction = dict(name="edm", sigma_data=0.5)
    config.loss = dict(time=dict(name="lognormal", mean=-1.2, std=1.2), weight=dict(name="edm", sigma_data=0.5))
    # DDPM++ of other widths
    config.network.update(multipliers=(2, 2, 2), blocks=4, residual_resampling=True, dropout=0.13)
    config.network.update(skip_conv=True, skip_rescale=True, attend_once=True)
    # 200M images in batches of 512; a warm-up of 10M images; averages with a half-life of 0.5M images
    config.optimizer.update(learning_rate=1e-3, warmup=19_531, clip=float("inf"))
    config.ema = dict(decays=(0.99929,))
    config.train.update(steps=390_625, batch_size=512)
    config.sample.clip = float("inf")
    config.sample.sampler = dict(name="heun")
    config.sample.grid = dict(name="karras", n=18, lo=0.002, hi=80.0)
    return quick(config) if mode == "quick" else full(config, mode)
