"""Score SDE on CIFAR-10: the variance-exploding SDE in continuous time, NCSN++ network, with the paper's settings.

Paper:    arXiv:2011.13456, Sec. 4.4 and App. H (NCSN++ cont., VE): FID 2.38 with 4 blocks, 2.20 with 8 (not run).
Prepare:  as cifar10_ddpm.py
Command:  python -m diffax.main --config=experiments/cifar10_ncsnpp.py --workdir=runs/cifar10_ncsnpp
Hardware: one node of GPUs or TPUs; wall time unknown (not run).
Reached:  not run. 62.8M parameters. Gradients are clipped as in cifar10_ddpm.py, of a mean over pixels.
"""

from cifar10_ddpm import full, quick
from cifar10_vp import get_config as ddpmpp
from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    config = ddpmpp()
    # the paper's 0.01 to 50 are of pixels in [0, 1]; here they are in [-1, 1]
    config.process = dict(name="VE", sigma_min=0.02, sigma_max=100.0)
    # the squared error of the score times sigma, its weight in the paper, is that of eps
    config.prediction = dict(name="eps", c_noise="log_nsr")
    config.network.update(fir=True, progressive_input=True, fourier=16.0)
    config.ema = dict(decays=(0.999,), warmup=False)
    # 1000 steps, each with one network call of the predictor and one of the corrector
    config.sample.sampler = dict(name="predictor_corrector", snr=0.16, corrections=1)
    return quick(config) if mode == "quick" else full(config, mode)
