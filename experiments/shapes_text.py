"""Text to image: scenes of colored shapes by their captions, a U-Net with cross-attention to a text transformer.

Paper:    Latent diffusion, arXiv:2112.10752 (cross-attention), and Imagen, arXiv:2205.11487, in small; EDM,
          arXiv:2206.00364 (preconditioning, noise levels, loss); guidance, arXiv:2207.12598.
Command:  python -m diffax.main --config=experiments/shapes_text.py --workdir=runs/shapes
"""

from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    if mode not in ("full", "quick"):
        raise ValueError(f"config: shapes_text.py has no mode {mode!r}; one of full, quick")
    config = ConfigDict()
    config.seed = 0
    config.data = dict(name="shapes", size=16, objects=(1, 2), examples=1_000_000)

    config.process = dict(name="EDM")
    config.prediction = dict(name="edm", sigma_data=0.5)
    config.loss = dict(
        time=dict(name="lognormal", mean=0.0, std=1.4),
        weight=dict(name="edm", sigma_data=0.5),
        conditional=True,
        drop=0.1,
    )
    config.network = dict(
        name="UNet",
        channels=32,
        multipliers=(1, 2, 2),
        blocks=1,
        attention=(8, 4),
        cross_attention=(8, 4),
        head_dim=32,
        groups=8,
        adaptive=True,
        text=dict(name="TextTransformer", width=64, layers=2, head_dim=32),
    )
    config.optimizer = dict(name="adam", learning_rate=1e-3, warmup=100, decay_steps=10_000, clip=1.0)
    config.ema = dict(decays=(0.999,))

    config.train = dict(steps=10_000, batch_size=32, log_every=10, checkpoint_every=1000, sample_every=2500)
    config.sample = dict(
        n=48,
        batch_size=64,
        sampler=dict(name="dpmpp_2m"),
        grid=dict(name="karras", n=20, lo=0.01, hi=40.0),
        guidance=dict(scale=3.0),
    )
    config.eval = dict(n=500, batch_size=100, metrics=("caption_agreement",), conditions="test", reference=1000)
    if mode == "quick":
        config.optimizer.update(decay_steps=200)
        config.train.update(steps=200, log_every=1, checkpoint_every=20, sample_every=100)
        config.eval.update(n=100)
    return config
