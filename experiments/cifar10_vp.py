"""Score SDE on CIFAR-10: the variance-preserving SDE in continuous time, DDPM++ network, with the paper's settings.

Paper:    arXiv:2011.13456, Sec. 4.4 and App. H (DDPM++ cont., VP): FID 2.55 with 4 blocks, the best checkpoint's,
          of 950k steps in App. H.2 and 1.3M in the released config.
Prepare:  as cifar10_ddpm.py
Command:  python -m diffax.main --config=experiments/cifar10_vp.py --workdir=runs/cifar10_vp
Reached:  not run. Samples, as the paper's, are of Euler-Maruyama without a corrector (App. H.2).
"""

from cifar10_ddpm import full, quick
from cifar10_ddpm import get_config as ddpm
from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """mode: "full", or "quick" for the whole path in small."""
    config = ddpm()
    config.process = dict(name="VP", beta_min=0.1, beta_max=20.0)
    config.loss = dict(time=dict(name="uniform"), weight=dict(name="unit"))
    # DDPM++
    config.network.update(blocks=4, residual_resampling=True, skip_conv=True, skip_rescale=True, attend_once=True)
    config.train.steps = 950_000
    config.sample.clip = float("inf")
    config.sample.sampler = dict(name="euler_maruyama")
    return quick(config) if mode == "quick" else full(config, mode)
