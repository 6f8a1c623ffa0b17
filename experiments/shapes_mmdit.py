"""Text to image by flow matching: scenes of colored shapes, a transformer whose attention joins picture and text.

Paper:    Stable Diffusion 3, arXiv:2403.03206 (MMDiT, flow matching with logit-normal times), in small.
Command:  python -m diffax.main --config=experiments/shapes_mmdit.py --workdir=runs/shapes_mmdit
Hardware: two CPU cores.
Reached:  not run.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    if mode not in ("full", "quick"):
        raise ValueError(f"config: shapes_mmdit.py has no mode {mode!r}; one of full, quick")
    config = ConfigDict()
    config.seed = 0
    config.data = dict(name="shapes", size=16, objects=(1, 2), examples=1_000_000)

    config.process = dict(name="FlowMatching")
    config.prediction = dict(name="velocity")
    config.loss = dict(time=dict(name="logit_normal"), conditional=True, drop=0.1)
    config.network = dict(
        name="MMDiT",
        patch=2,
        width=128,
        depth=5,
        heads=4,
        frequencies=64,
        text=dict(name="TextTransformer", width=128, layers=1),
    )
    config.optimizer = dict(name="adam", learning_rate=1e-3, warmup=200, decay_steps=10_000, clip=1.0)
    config.ema = dict(decays=(0.999,))

    config.train = dict(steps=10_000, batch_size=32, log_every=10, checkpoint_every=1000, sample_every=2500)
    config.sample = dict(
        n=48, batch_size=64, sampler=dict(name="heun"), grid=dict(name="uniform_time", n=20), guidance=dict(scale=3.0)
    )
    config.eval = dict(n=500, batch_size=100, metrics=("caption_agreement",), conditions="test", reference=1000)
    if mode == "quick":
        config.optimizer.update(decay_steps=200, warmup=20)
        config.train.update(steps=200, batch_size=8, log_every=1, checkpoint_every=20, sample_every=100)
        config.eval.update(n=100)
    return config
