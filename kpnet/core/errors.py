"""The error kpnet raises for problems the user can fix."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from itertools import islice
from typing import Any

from kpnet.core.display import one_line

_COMPARED = 5000  # choices; more would take seconds
_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother, _repr.maxlong = 3, 60, 60, 40


def show(value: Any) -> str:
    """Return a value as it is written in Python, for a message: a long or deep one is cut."""
    return _repr.repr(value)


def shorten(text: str) -> str:
    """Return the text, cut to at most 40 characters for a message."""
    return text if len(text) <= 40 else text[:39] + "…"


class KpnetError(ValueError):
    """Raised for problems the user can fix: bad input, an unknown name, files that do not fit.

    The message is one line: the file, row or key, what was found, what was expected and the nearest fix. The command
    line prints it and ends with exit code 2.

    Args:
        message: The message. It is put on one line, with control characters escaped, the passwords of addresses
            hidden, and at most 2000 characters.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class NotFiniteError(KpnetError):
    """Raised when a loss or a prediction is not finite: a training that diverged, or NaN in an image."""


class UserInterruptError(KpnetError):
    """Raised when the user stops a command that can be continued; the command line ends with exit code 130."""


def few(items: Iterable[object], shown: int = 3) -> str:
    """Return the first items of a list for a message, and how many there are where they are more."""
    listed = [str(item) for item in items]
    return ", ".join(listed[:shown]) + (f", … {len(listed)} in all" if len(listed) > shown else "")


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """Return `' (did you mean "relu"?)'` for the closest of `choices`, or an empty string if none is close."""
    match = difflib.get_close_matches(str(name)[:100], list(islice(choices, _COMPARED)), n=1, cutoff=0.5)
    return f' (did you mean "{match[0]}"?)' if match else ""


def first_line(error: Exception | str, *, with_type: bool = False) -> str:
    """Return the first line of an error's message, at most 160 characters, or its type where it has no message."""
    text, name = str(error).strip(), type(error).__name__
    text = f"{name}: {text}" if with_type else text
    return (text or name).splitlines()[0][:160]
