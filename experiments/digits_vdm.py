"""Digits by a variational diffusion model: the ends of the noise schedule are learned with the network, by the bound.

Paper:    VDM, arXiv:2107.00630 (the bound as the loss, Eq. 11 and 17; Fourier features of the input, App. C; learned
          schedule, App. H). The first level and the features are the paper's for 256 gray levels, scaled to 17.
Command:  python -m diffax.main --config=experiments/digits_vdm.py --workdir=runs/digits_vdm
Hardware: two CPU cores; 6 minutes, of which 4.6 are training.
Reached:  1.770 ± 0.013 bits a dimension by the continuous-time bound, on the 359 held-out digits (± is the standard
          error over the digits); Fréchet distance of the pixels of 1000 samples 0.244, real against real 0.320 (seed 0,
          jax 0.10.2). Without the features of the input, and from the paper's first level, 3.758 ± 0.021.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    if mode not in ("full", "quick"):
        raise ValueError(f"config: digits_vdm.py has no mode {mode!r}; one of full, quick")
    config = ConfigDict()
    config.seed = 0
    config.data = dict(name="digits", split="train")

    config.process = dict(name="learned_schedule", n=64, gamma_min=-7.8)
    # told the level, not t, which comes to mean another level
    config.prediction = dict(name="eps", c_noise="quarter_log_nsr")
    config.loss = dict(objective=dict(name="vdm_loss"), time=dict(name="stratified"), learn_process=True)
    config.network = dict(
        name="UNet",
        channels=32,
        multipliers=(1, 2),
        blocks=1,
        attention=(4,),
        groups=8,
        adaptive=True,
        dropout=0.1,
        input_frequencies=(3, 4),
    )
    config.optimizer = dict(name="adamw", weight_decay=0.01, learning_rate=1e-3, warmup=100, decay_steps=3000, clip=1.0)
    config.ema = dict(decays=(0.999,))

    config.train = dict(steps=3000, batch_size=64, log_every=10, checkpoint_every=1000, sample_every=1000)
    config.sample = dict(n=100, batch_size=100, sampler=dict(name="ancestral"), grid=dict(name="uniform_time", n=100))
    config.eval = dict(n=1000, batch_size=100, metrics=("pixel_frechet",), likelihood=dict(examples=359, ode=False))
    if mode == "quick":
        config.optimizer.update(decay_steps=200)
        config.train.update(steps=200, batch_size=16, log_every=1, checkpoint_every=20, sample_every=100)
        config.sample.update(n=20, batch_size=20)
        config.sample.grid.n = 10
        config.eval.update(n=100, batch_size=20)
        config.eval.likelihood.examples = 8
    return config
