"""Settings of compiler and runtime: options by backend, the cache of compiled programs, memory that stays."""

import contextlib
import ctypes
import functools
import gc
import os
from pathlib import Path

import jax

_CPU_OPTIONS = {
    # XLA's CPU backend emits plain loops for the reductions of a backward pass; its library is several times faster.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    # Compiles the digits UNet in three quarters of the time of the default, 3, to a step that is no slower.
    "xla_backend_optimization_level": 1,
}


@functools.cache
def compiler_options() -> dict[str, str | int]:
    """Options for `jax.jit(..., compiler_options=...)` of a training step on the default backend.

    They change speed only. Empty on accelerators, and where this version of XLA does not know them.
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=_CPU_OPTIONS)(0)
    except jax.errors.JaxRuntimeError:
        return {}
    return _CPU_OPTIONS


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


def spare_imports() -> None:
    """Garbage is no longer looked for in what is imported by now, and elsewhere less often.

    Tracing makes many small objects and hardly a cycle, for which Python would search all of JAX's again and again:
    0.6 s of the digits experiment's start on two cores and 1.0 s of CIFAR-10's; so, 0.2 s.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def keep_memory() -> None:
    """On a CPU, what a program frees stays with the process, for its next call; call it before the first array is made.

    XLA's CPU backend allocates a program's scratch anew at each call, and glibc gives back to the system what is large
    or was allocated in another thread than the main one. DDPM's CIFAR-10 UNet at batch 8 thus takes 50,000 page faults
    a step. Here programs run in the thread that calls them, and its heap never shrinks: no page faults, a step in 0.82
    of the time (benchmarks/README.md). The process keeps the most that it ever held. Other C libraries, and
    accelerators, do as they do.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() == "cpu":
        trim_threshold, mmap_max = -1, -4  # of malloc.h
        with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
            libc = ctypes.CDLL(None)
            libc.mallopt(mmap_max, 0)
            libc.mallopt(trim_threshold, 2**31 - 1)
