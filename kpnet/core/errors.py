"""The error kpnet raises for problems the user can fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def shorten(text: str) -> str:
    """Return the text, cut to at most 40 characters for a message."""
    return text if len(text) <= 40 else text[:39] + "…"


class KpnetError(ValueError):
    """Raised for problems the user can fix: bad input, an unknown name, files that do not fit.

    The message is one line: the file, row or key, what was found, what was expected and the nearest fix. The command
    line prints it and ends with exit code 2.
    """


class NotFiniteError(KpnetError):
    """Raised when a loss or a prediction is not finite: a training that diverged, or NaN in an image."""


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """Return `' (did you mean "relu"?)'` for the closest of `choices`, or an empty string if none is close."""
    match = difflib.get_close_matches(str(name), list(choices), n=1, cutoff=0.5)
    return f' (did you mean "{match[0]}"?)' if match else ""


def first_line(error: Exception | str, *, with_type: bool = False) -> str:
    """Return the first line of an error's message, at most 160 characters, or its type where it has no message."""
    text, name = str(error).strip(), type(error).__name__
    text = f"{name}: {text}" if with_type else text
    return (text or name).splitlines()[0][:160]
