"""EDM2-S on ImageNet at 64 x 64, class by class, with the paper's settings of config G but for the loss's weighting.

Paper:    arXiv:2312.02696, Sec. 2 and 3, App. B: 280.2M parameters, FID 1.58 with 63 network calls, 1074M images
          (not run).
Prepare:  the command prints how, the first time.
Command:  python -m diffax.main --config=experiments/imagenet64_edm2.py --workdir=runs/imagenet64_edm2
Hardware: a cluster: batches of 2048, 524k steps; wall time unknown (not run). `--config.network.dtype=bfloat16` saves
          time, `--config.network.remat=True` and `--config.train.accumulate` memory.
Reached:  not run. The launcher trains one network, so the weight is EDM's alone: the paper divides by a second, small
          network's estimate of the loss at each level besides (`diffax.losses.uncertainty`, in a loop of your own).
          After training, `--mode=eval --config.sample.width=0.075` and other widths find the best average, from 128
          snapshots of two averages, 1.1 GB each.
"""

from cifar10_ddpm import full, quick
from cifar10_ddpm import get_config as ddpm
from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    config = ddpm()
    config.data = dict(name="tfds", dataset="imagenet_resized/64x64", split="train")
    config.pipeline = dict(flip=False)
    config.process = dict(name="EDM")
    config.prediction = dict(name="edm", sigma_data=0.5)
    weight = dict(name="edm", sigma_data=0.5)
    config.loss = dict(time=dict(name="lognormal", mean=-0.8, std=1.6), weight=weight, conditional=True, drop=0.0)
    config.network = dict(name="UNetEDM2", channels=192)
    # 1074M images in batches of 2048, of which 10M are the warm-up
    config.optimizer = dict(name="adam", b2=0.99, learning_rate=0.01, warmup=4883, decay_after=35_000)
    config.optimizer.update(clip=float("inf"), unit_weights=True)
    config.ema = dict(decays=(), widths=(0.05, 0.1), snapshot_every=4096)
    config.train.update(steps=524_288, batch_size=2048)
    config.sample.clip = float("inf")
    config.sample.sampler = dict(name="heun")
    config.sample.grid = dict(name="karras", n=32, lo=0.002, hi=80.0)
    if mode == "quick":
        config = quick(config)
        config.network = dict(name="UNetEDM2", channels=16, multipliers=(1, 2), blocks=1, attention=(8,), head_dim=16)
        config.ema.snapshot_every = 100
        return config
    return full(config, mode)
