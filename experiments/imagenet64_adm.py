"""ADM on ImageNet at 64 x 64, class by class, with the paper's settings for its diffusion model.

Paper:    arXiv:2105.05233, Sec. 3 and 5, App. I: 296M parameters, FID 2.07 with 250 steps (not run).
Prepare:  the command prints how, the first time.
Command:  python -m diffax.main --config=experiments/imagenet64_adm.py --workdir=runs/imagenet64_adm
Hardware: a cluster: batches of 2048, 540k steps; wall time unknown (not run). `--config.train.accumulate` and
          `--config.network.remat=True` save memory, `--config.network.dtype=bfloat16` time.
Reached:  not run. The classifier that guides it, `diffax.models.Classifier(1000)`, is trained by
          `diffax.losses.classifier_loss` in a loop of your own: 300k steps of 1024 images in the paper (not run).
"""

from cifar10_ddpm import full, quick
from cifar10_ddpm import get_config as ddpm
from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    config = ddpm()
    config.data = dict(name="tfds", dataset="imagenet_resized/64x64", split="train")
    config.process = dict(name="DDPM", betas=dict(name="cosine_betas", n=1000))
    objective = dict(name="hybrid_loss", lambda_vlb=0.001)
    config.loss = dict(objective=objective, time=dict(name="discrete"), conditional=True, drop=0.0)
    config.network.update(channels=192, multipliers=(1, 2, 3, 4), blocks=3, attention=(32, 16, 8), head_dim=64)
    config.network.update(adaptive=True, residual_resampling=True, dropout=0.1)
    config.optimizer.update(learning_rate=3e-4, warmup=0, clip=float("inf"))
    config.train.update(steps=540_000, batch_size=2048)
    config.sample.sampler = dict(name="ancestral")
    config.sample.grid.n = 250
    if mode == "quick":
        config = quick(config)
        config.network.head_dim = 16
        config.optimizer.learning_rate = 1e-3
        return config
    return full(config, mode)
