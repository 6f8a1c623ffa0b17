"""Complete configs: every default filled in, every value checked."""

from collections.abc import Mapping
from typing import Any

from diffax import build
from diffax.config.options import find_section, section_options, spec_name, spec_options, subsections
from diffax.config.ranges import check_range, check_together
from diffax.config.records import FREE, RECORDS, SPECS


def complete(config: Mapping) -> dict:
    """The config as a plain dict with every default filled in, checked. Numbers given for floats become floats.

    Raises:
        ValueError: the field's name, its value, and what is allowed.
    """
    full = {"seed": 0, **plain(config)}
    for key in full:
        known = {"seed", *subsections("")}
        if key not in known:
            raise ValueError(f"{key}: unknown section{build.unknown(key, known)}")
    full["seed"] = _checked("seed", full["seed"], int)
    check_range("seed", full["seed"])
    for where in sorted({*RECORDS, *SPECS}):
        _complete_section(make_section(full, where), full, where)
    check_together(full)
    return full


def plain(value: Any) -> Any:
    """A config as dicts of plain data: ConfigDicts opened, lists as tuples."""
    if hasattr(value, "items"):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(plain(inner) for inner in value)
    return value


def difference(old: Mapping, new: Mapping) -> list[str]:
    """The fields outside `FREE` in which two complete configs differ, each with both values."""
    a, b = dict(_leaves(plain(old))), dict(_leaves(plain(new)))
    lines = []
    for where in sorted(a.keys() | b.keys()):
        free = where in FREE or where.split(".")[0] in FREE
        if not free and a.get(where) != b.get(where):
            lines.append(f"{where}: {a.get(where)!r} there, {b.get(where)!r} now")
    return lines


def make_section(config: dict, where: str) -> dict:
    """The section at the dotted place `where`, made in place if it is not there."""
    find_section(config, where)
    for key in where.split("."):
        config = config.setdefault(key, {})
    return config


def _complete_section(section, full, where):
    options, below = section_options(full, where), subsections(where)
    if where in SPECS:
        section["name"] = spec_name(full, where)
    _fill(section, options, where, below)
    users_own = ":" in str(section.get("name", ""))
    records = getattr(RECORDS.get(where), "_fields", ())
    for key in (key for key in section if key not in below):
        for place, leaf in _leaves({key: section[key]}, where):
            check_range(place, leaf, users_own and key not in records)


def _fill(section, options, where, below=()):
    """Checks the values of a section, those of the specs within it too, and adds the defaults, in place."""
    for key, value in section.items():
        if key in below:
            continue
        if key not in options:
            raise ValueError(f"{where}.{key}: unknown option{build.unknown(key, {*options, *below})}")
        option, kind = options[key], build.NESTED.get(key)
        if value is not None or not option.optional:
            section[key] = _checked(f"{where}.{key}", value, option.kind, option.element)
        if kind and isinstance(value, Mapping):
            place = f"{where}.{key}"
            if not isinstance(value.get("name"), str):
                raise ValueError(f"{place}.name: missing; one of {', '.join(sorted(build.choices(kind)))}")
            _fill(section[key], spec_options(kind, value["name"], place), place)
    for key, option in options.items():
        if option.required and key not in section:
            raise ValueError(f"{where}.{key}: missing, {section['name']} needs it")
        if option.default is not None or option.optional:
            section.setdefault(key, option.default)


def _checked(where, value, kind, element=None):
    """The value, as `kind`; within a container, whatever it holds must be plain data too.

    A None within a mapping passes: it may be the default of an option there, which knows.
    """
    if isinstance(value, Mapping) and kind is None:
        inside = {key: inner for key, inner in value.items() if inner is not None}
        return {**value, **{key: _checked(f"{where}.{key}", inner, None) for key, inner in inside.items()}}
    if value is None or callable(value):
        raise ValueError(f"{where}: {value!r} is not plain data; leave the field out for its default")
    if kind is float and type(value) is int:
        return float(value)
    if kind is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        raise ValueError(f"{where}: {value!r} is of type {type(value).__name__}, expected {kind.__name__}")
    if isinstance(value, tuple):
        return tuple(_checked(f"{where}[{i}]", inner, element) for i, inner in enumerate(value))
    return value


def _leaves(tree, where=""):
    for key, value in tree.items():
        name = f"{where}.{key}" if where else key
        if isinstance(value, Mapping):
            yield from _leaves(value, name)
        else:
            yield name, value
