"""The three modes of the launcher: train, sample, evaluate (config, workdir)."""

from diffax.loop.modes import dry_run, evaluate, sample
from diffax.loop.training import train

__all__ = ["dry_run", "evaluate", "sample", "train"]
