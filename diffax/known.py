"""What is known of a value when a function of it is traced: what cannot be meant is refused before it is compiled."""

import math

import jax


def numbers(value) -> list | None:
    """A number, array or list as a flat list of Python numbers; None where it is traced."""
    leaves = jax.tree.leaves(value)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return None
    flat = (leaf.ravel().tolist() if hasattr(leaf, "tolist") else [leaf] for leaf in jax.device_get(leaves))
    return [number for part in flat for number in part]


def holds(test, *values) -> bool:
    """Whether the values are known when traced, and a test of numbers holds for all of them."""
    lists = [numbers(value) for value in values]
    if any(one is None for one in lists):
        return False
    n = max(map(len, lists))
    return all(test(*row) for row in zip(*(one * (n // max(len(one), 1)) for one in lists)))


def check(allowed, remedy: str, **values) -> None:
    """Refuses values for which `allowed` does not hold; those that are traced pass.

    Raises:
        ValueError: the names, the values and the remedy.
    """
    if not (holds(allowed, *values.values()) or any(numbers(value) is None for value in values.values())):
        named = ", ".join(f"{name}={value}" for name, value in values.items())
        raise ValueError(f"{named}: {remedy}")


def check_number(allowed, remedy: str, **values) -> None:
    """`check`, which also refuses what is neither a number nor an array of them."""
    for name, value in values.items():
        known = numbers(value)
        one = jax.tree.structure(value) == jax.tree.structure(0)
        if not one or (known is not None and not all(isinstance(number, (int, float)) for number in known)):
            raise ValueError(f"{name}={value!r} is not a number: {remedy}")
    check(allowed, remedy, **values)


def check_scale(scale) -> None:
    """Refuses NaN and infinity."""
    check(math.isfinite, "every sample would be NaN; give a finite scale", scale=scale)


def check_count(name: str, value, least: int = 1, most: int | None = None) -> None:
    """Refuses what is not an integer from `least` to `most`.

    Raises:
        ValueError: the name, the value, and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        allowed = f"an integer, {least} or more" if most is None else f"an integer from {least} to {most}"
        raise ValueError(f"{name}={value!r} is not allowed: give {allowed}")
