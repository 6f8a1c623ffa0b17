"""DiT-XL/2 on latents of ImageNet at 256 x 256, class by class, with the paper's settings.

Paper:    arXiv:2212.09748, Sec. 4 and 5: 675M parameters; after 7M steps of 256 images FID 9.62 with 250 steps of the
          chain, 2.27 with guidance of scale 1.5 (not run).
Prepare:  latents float32 [32, 32, 4] of the VAE that the paper takes from Stable Diffusion, times 0.18215, with their
          labels, as a TensorFlow Datasets data set named imagenet_latents with the features `latent` and `label`:
          diffax has no such VAE yet. The paper flips its images at random before they are encoded; for that, store
          both.
Command:  python -m diffax.main --config=experiments/imagenet256_dit.py --workdir=runs/imagenet256_dit
Hardware: a TPU v3-256 in the paper, 5.7 steps a second; wall time here unknown (not run).
          `--config.network.dtype=bfloat16` saves time, `--config.network.remat=True` memory.
Reached:  not run.
"""

from cifar10_ddpm import full, quick
from cifar10_ddpm import get_config as ddpm
from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    config = ddpm()
    config.data = dict(name="tfds", dataset="imagenet_latents", split="train", image_key="latent")
    config.pipeline = dict(flip=False)
    objective = dict(name="hybrid_loss", lambda_vlb=0.001)
    config.loss = dict(objective=objective, time=dict(name="discrete"), conditional=True, drop=0.1)
    config.network = dict(name="DiT", patch=2, width=1152, depth=28, heads=16)
    config.optimizer = dict(name="adamw", learning_rate=1e-4, weight_decay=0.0, warmup=0, clip=float("inf"))
    config.train.update(steps=7_000_000, batch_size=256)
    config.sample.update(sampler=dict(name="ancestral"), guidance=dict(scale=1.5), clip=float("inf"))
    config.sample.grid.n = 250
    if mode == "quick":
        config = quick(config)
        config.network = dict(name="DiT", patch=2, width=64, depth=2, heads=4)
        config.optimizer.learning_rate = 1e-3
        config.sample.clip = 1.0  # of the synthetic images; latents have no bounds
        return config
    return full(config, mode)
