"""Errors that a person can mend.

Everything that is wrong with an input (a value, a file, a name) is raised as `NextsetError`, whose text is one line:
what was given, what is allowed, what to do. The command line prints that line and exits with code 2; programming
errors keep their own types and tracebacks.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NextsetError(ValueError):
    """An input that cannot be used. The message names value, limit and remedy in one line."""


class NextsetWarning(UserWarning):
    """Something that works but that a person may not expect, said in one line."""


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """A readable suggestion: `did you mean 'red'?`, or the first known names when nothing is close."""
    known = [str(k) for k in known]
    lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(str(name).lower(), lower, n=n, cutoff=0.5)
    inside = [k for k in lower if str(name).lower() in k][: n - len(close)]
    found = list(dict.fromkeys(lower[k] for k in [*close, *inside]))
    if found:
        return "did you mean " + " or ".join(repr(k) for k in found) + "?"
    listed = ", ".join(known[:8])
    return f"known: {listed}{', ...' if len(known) > 8 else ''}"


def check_range(
    name: str, value: float, low: float | None = None, high: float | None = None, *, remedy: str = ""
) -> None:
    """Raise `NextsetError` unless low <= value <= high (either bound may be None). NaN is always refused."""
    bad = value != value or (low is not None and value < low) or (high is not None and value > high)
    if bad:
        limit = (
            f"between {low} and {high}"
            if low is not None and high is not None
            else (f"at least {low}" if low is not None else f"at most {high}")
        )
        raise NextsetError(f"{name} is {value}, but must be {limit}" + (f"; {remedy}" if remedy else ""))
