"""Configs: filling in defaults, and refusing what cannot be meant before anything is built or compiled.

A config is plain data in sections. Sections with a `name` are specs, made by `diffax.build`; their defaults are those
of the named function's signature. The others are the records of `records.py`.
"""

from diffax.config.complete import complete, difference, plain
from diffax.config.file import load, override
from diffax.config.records import FREE, RECORDS, SPECS

__all__ = ["FREE", "RECORDS", "SPECS", "complete", "difference", "load", "override", "plain"]
