"""Compiler settings: options by backend, and the cache of compiled programs."""

import functools
import os
from pathlib import Path

import jax

# XLA's CPU backend emits plain loops for the reductions of a backward pass; its library is several times faster.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def compiler_options() -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=...)` of a training step on the default backend.

    They change speed only. Empty on accelerators; those that this version of XLA does not know are left out.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in _CPU_OPTIONS.items() if _known(name, value)}


@functools.cache
def _known(name, value):
    try:
        jax.jit(lambda x: x, compiler_options={name: value})(0)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def enable_cache(directory: str | os.PathLike | None = None) -> None:
    """Keeps compiled programs on disk, so that the next launch of the same network starts in seconds.

    Args:
      directory: where; None is `diffax/programs` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache). A directory
        that the user chose by JAX_COMPILATION_CACHE_DIR stays. One that cannot be written leaves the cache off.
    """
    if directory is None:
        if jax.config.jax_compilation_cache_dir:
            return
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffax" / "programs"
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(directory, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(directory))
        # A launch compiles dozens of programs of some milliseconds each besides the step.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
