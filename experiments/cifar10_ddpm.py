"""DDPM on CIFAR-10, unconditional, with the paper's settings. The other CIFAR-10 experiments start from this one.

Paper:    arXiv:2006.11239, Sec. 4 and App. B: 35.7M parameters, FID 3.17 after 800k steps.
Prepare:  the command prints how, the first time.
Command:  python -m diffax.main --config=experiments/cifar10_ddpm.py --workdir=runs/cifar10_ddpm
Hardware: a TPU v3-8 and 10.6 hours in the paper.
Reached:  not run.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small, on synthetic images that need no download."""
    config = ConfigDict()
    config.seed = 0
    config.data = dict(name="tfds", dataset="cifar10", split="train")
    config.pipeline = dict(flip=True)
    config.process = dict(name="DDPM", betas=dict(name="linear_betas", n=1000))
    config.prediction = dict(name="eps")
    config.loss = dict(time=dict(name="discrete"), weight=dict(name="unit"))
    config.network = dict(name="UNet", channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), dropout=0.1)
    config.optimizer = dict(name="adam", learning_rate=2e-4, warmup=5000, clip=1.0)
    config.ema = dict(decays=(0.9999,), warmup=False)
    config.train = dict(
        steps=800_000, batch_size=128, log_every=50, checkpoint_every=5000, sample_every=5000, keep_every=100_000
    )
    config.sample = dict(
        n=64,
        batch_size=64,
        clip=1.0,
        sampler=dict(name="ancestral", variance=1.0),
        grid=dict(name="uniform_time", n=1000),
    )
    config.eval = dict(n=50_000, batch_size=500, metrics=("pixel_frechet",))
    return quick(config) if mode == "quick" else full(config, mode)


def full(config: ConfigDict, mode: str) -> ConfigDict:
    """The config as it is; refuses modes other than "full"."""
    if mode != "full":
        raise ValueError(f"config: mode {mode!r} is unknown; one of full, quick")
    return config


def quick(config: ConfigDict) -> ConfigDict:
    """The same recipe on 16 x 16 synthetic images with a small network, 200 steps."""
    config.data = dict(name="fake", n=512, shape=(16, 16, 3))
    config.network.update(channels=16, groups=4, multipliers=(1, 2), attention=(8,), blocks=1)
    config.optimizer.warmup = 20
    config.train.update(steps=200, batch_size=16, log_every=1, checkpoint_every=20, sample_every=100, keep_every=0)
    config.sample.update(n=16, batch_size=16)
    config.sample.grid.n = 10
    config.eval.update(n=64, batch_size=16)
    return config
