"""Experiment files, and what the command line overrides in them."""

import ast
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Mapping, Sequence

from diffax.config.complete import make_section, plain
from diffax.config.options import Option, find_section, section_options
from diffax.config.records import RECORDS, SPECS, TEXTS

_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def load(path: str) -> dict:
    """The config of an experiment file, "experiments/x.py" or "experiments/x.py:mode"; mode is "full" unless given.

    Raises:
        ValueError: no such file, a fault in it with its line, no `get_config`, or a mode that it does not know.
    """
    file, _, mode = path.partition(".py:") if ".py:" in path else (path.removesuffix(".py"), "", "full")
    file += ".py"
    if not os.path.isfile(file):
        raise ValueError(f"config: no file {file!r}; give an experiment file such as experiments/digits.py")
    before = list(sys.path)
    sys.path.insert(0, os.path.dirname(os.path.abspath(file)))  # experiments may start from their neighbors
    try:
        config = _run(file, mode)
    except Exception as error:
        message = str(error).removeprefix("config: ")
        if not isinstance(error, ValueError):
            message = f"{_line(file, error)}{type(error).__name__}: {message}"
        raise ValueError(f"config: {path}: {message}") from error
    finally:
        sys.path[:] = before
    return config


def override(config: Mapping, values: Sequence[tuple[str, str]]) -> dict:
    """`config` with the values, as text, of a command line: [("sample.sampler.name", "heun"), ...].

    A new name comes first: its section starts anew with the defaults of the function named.

    Raises:
        ValueError: a place within something that is no section.
    """
    config = plain(config)
    for where, text in sorted(values, key=lambda value: value[0].count(".")):
        section, _, key = where.rpartition(".")
        if key == "name" and section:
            _rename(make_section(config, section), section, text)
    for where, text in values:
        section, _, key = where.rpartition(".")
        if key != "name" or not section:
            holder = make_section(config, section) if section else config
            holder[key] = _read(text, _option(config, section, key), where in TEXTS)
    return config


def _run(file, mode):
    spec = importlib.util.spec_from_file_location("experiment", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError("it defines no get_config(mode)")
    takes_mode = inspect.signature(module.get_config).parameters
    if not takes_mode and mode != "full":
        raise ValueError(f"its get_config() has no modes, {mode!r} was asked for")
    config = plain(module.get_config(mode) if takes_mode else module.get_config())
    if not isinstance(config, dict):
        raise ValueError(f"get_config returned {config!r}, expected a ConfigDict")
    return config


def _line(file, error):
    if isinstance(error, SyntaxError):
        return ""  # says it itself
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"line {lines[-1]}: " if lines else ""


def _rename(section, where, name):
    if section.get("name") != name:
        kept = RECORDS[where]._fields if where in RECORDS else ()
        for key in [key for key in section if key not in kept]:
            del section[key]
        section["name"] = name


def _option(config, where, key):
    """What is known of the option; nothing of one within a nested spec, or an unknown one, which is refused later."""
    if not where:
        return Option(int) if key == "seed" else Option(None)
    if where not in RECORDS and where not in SPECS:
        return Option(None)
    find_section(config, where)
    return section_options(config, where).get(key, Option(None))


def _read(text, option, whole=False):
    """The value that a text stands for; the text itself where it is no such value, for the checks to refuse.

    Of a tuple the entries are between commas, or `whole` texts are one.
    """
    if option.optional and text == "None":
        return None
    if option.kind is str:
        return text
    if option.kind is bool:
        return _BOOLS.get(text.lower(), text)
    if option.kind in (int, float):
        try:
            return option.kind(text)
        except ValueError:
            return text
    value, texts = _literal(text), option.element is str
    if option.kind is not tuple:
        return value
    if isinstance(value, tuple) and not (texts and any(not isinstance(part, str) for part in value)):
        return value
    if whole:
        return (text,) if text else ()
    parts = [part.strip() for part in (value if isinstance(value, str) else text).split(",") if part.strip()]
    return tuple(parts if texts else map(_literal, parts))


def _literal(text):
    try:
        return plain(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text
