"""The options of a section: their types and defaults, read from records and from the signatures of functions."""

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffax import build
from diffax.config.records import GRID_LEVELS, NAMES, RECORDS, SPECS

_PLAIN = (bool, int, float, str)


class Option(NamedTuple):
    """What is known of an option.

    `kind` is its type: bool, int, float, str or tuple; None is any plain data. `element` is that of a tuple's entries.
    `optional`: it may be None. `required`: it has no default; one that has no plain one is left to the function.
    """

    kind: type | None
    element: type | None = None
    optional: bool = False
    required: bool = False
    default: Any = None


def section_options(config: Mapping, where: str) -> dict[str, Option]:
    """The options that the section `where` may hold, those of the function that it names included.

    Raises:
        ValueError: the section names no function, or an unknown one; the message lists them.
    """
    options = {}
    if where in SPECS:
        options = spec_options(SPECS[where], spec_name(config, where), where)
        if SPECS[where] == "grid" and "n" in options and options["n"].required:
            options["n"] = Option(int, default=GRID_LEVELS)
    if where in RECORDS:
        hints = _hints(RECORDS[where])
        options |= {key: _option(hints[key], value) for key, value in RECORDS[where]._field_defaults.items()}
    return options


def spec_options(kind: str, name: str, where: str) -> dict[str, Option]:
    """The options of a spec: its name, and the parameters of the function that it names.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    function = build.find(kind, name, where)
    hints, options = _hints(function), {"name": Option(str)}
    for key, parameter in build.parameters(kind, function).items():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            options[key] = _option(hints.get(key, parameter.annotation), parameter.default)
    return options


def spec_name(config: Mapping, where: str) -> str:
    """The name of the function that the section `where` asks for, the default one where it says nothing."""
    name = find_section(config, where).get("name", NAMES.get(where))
    if name is None:
        raise ValueError(f"{where}.name: missing; one of {', '.join(sorted(build.choices(SPECS[where])))}")
    if not isinstance(name, str):
        raise ValueError(f"{where}.name: {name!r} is of type {type(name).__name__}, expected str")
    return name


def find_section(config: Mapping, where: str) -> Mapping:
    """The section at the dotted place `where`; an empty one if it is not there.

    Raises:
        ValueError: something else than a section is there.
    """
    for key in where.split("."):
        config = config.get(key, {})
        if not isinstance(config, Mapping):
            raise ValueError(f"{where}: {config!r} is of type {type(config).__name__}, expected a section of options")
    return config


def subsections(where: str) -> set[str]:
    """The keys of the sections right below `where`; "" is the top."""
    below = [place.split(".") for place in (*RECORDS, *SPECS)]
    depth = where.count(".") + 1 if where else 0
    return {place[depth] for place in below if len(place) > depth and ".".join(place[:depth]) == where}


def _hints(function):
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # annotations for type checkers alone
        return {}


def _option(annotation, default):
    if default is inspect.Parameter.empty:
        kind, element, optional = _kind(annotation)
        return Option(kind, element, optional, required=True)
    kind, element, optional = _kind(annotation)
    if isinstance(default, _PLAIN):
        return Option(type(default), None, optional, default=default)
    if type(default) is tuple:  # a NamedTuple is something else, such as an optimizer
        return Option(tuple, element, optional, default=default)
    return Option(kind, element, optional or default is None)


def _kind(annotation):
    """(type, type of the elements, whether None is allowed) of an annotation."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [_kind(part) for part in typing.get_args(annotation) if part is not types.NoneType]
        kind, element, _ = inner[0] if len(inner) == 1 else (None, None, False)
        return kind, element, types.NoneType in typing.get_args(annotation)
    origin = typing.get_origin(annotation) or annotation
    record = hasattr(origin, "_fields")  # a NamedTuple is made by a spec
    if inspect.isclass(origin) and origin is not str and issubclass(origin, Sequence) and not record:
        elements = set(typing.get_args(annotation)) - {Ellipsis}
        return tuple, elements.pop() if len(elements) == 1 and elements <= set(_PLAIN) else None, False
    return annotation if annotation in _PLAIN else None, None, False
