"""Compiler settings: options by backend, and the cache of compiled programs."""


def compiler_options() -> dict:
    """Options of `jax.jit` for the present backend."""
    return {}


def enable_cache() -> None:
    """Keeps compiled programs for the next launch."""
