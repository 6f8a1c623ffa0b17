"""What was checked, what was expected, what was found: a table."""

from typing import NamedTuple


class Check(NamedTuple):
    """One line: `held` says whether what was `found` is what was `expected`."""

    what: str
    expected: str
    found: str
    held: bool


class Report(NamedTuple):
    """All lines of a thing. `report.held` is True when every line held; `print(report)` is the table."""

    subject: str
    checks: tuple[Check, ...]

    @property
    def held(self) -> bool:
        """Whether every check did."""
        return all(check.held for check in self.checks)

    @property
    def broken(self) -> tuple[str, ...]:
        """What did not hold, by name."""
        return tuple(check.what for check in self.checks if not check.held)

    def __str__(self):
        rows = [("", "what", "expected", "found")]
        rows += [("ok" if check.held else "NOT", *check[:3]) for check in self.checks]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        count = sum(not check.held for check in self.checks)
        end = "all held" if not count else f"{count} of {len(self.checks)} did not hold"
        return "\n".join([f"conformance of {self.subject}", *lines, end])


def number(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}"


def close(what: str, expected: float, found: float, tolerance: float) -> Check:
    """A number that must be within `tolerance` of another."""
    return Check(
        what, f"{number(expected)} ± {number(tolerance)}", number(found), bool(abs(found - expected) <= tolerance)
    )


def below(what: str, found: float, limit: float) -> Check:
    """An error that must be at most `limit`; NaN is not."""
    return Check(what, f"<= {number(limit)}", number(found), bool(found <= limit))


def true(what: str, held: bool, expected: str = "yes") -> Check:
    """A property that holds or not."""
    return Check(what, expected, "yes" if held else "no", bool(held))
