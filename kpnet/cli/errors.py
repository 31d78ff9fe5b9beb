"""How commands report what went wrong: one line for each problem, an exit code, and a report of a crash."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kpnet.core.console import echo
from kpnet.core.display import redact
from kpnet.core.errors import UserInterruptError, first_line
from kpnet.core.hub_address import format_path

if TYPE_CHECKING:
    from kpnet.models.test_time import TestTime

_LIBRARIES = ("kpnet", "torch", "lightning", "numpy", "opencv-python-headless", "timm", "albumentations", "pydantic")
_SHORTAGES = re.compile(  # torch on CPU and GPU, OpenCV
    r"can.t allocate memory|out of memory|not enough memory|insufficient memory|failed to allocate|array is too big|"
    r"maximum allowed dimension|storage size calculation overflowed",
    re.IGNORECASE,
)


@contextmanager
def training_errors(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C and a failed write during a training into errors of one line.

    Args:
        folder: The run folder, named where an `OSError` names no file.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise UserInterruptError(
            "interrupted; the same command with --resume continues after the last full epoch"
        ) from None
    except OSError as error:  # a full disk does not say which file, inside a checkpoint
        raise OSError(error.errno, error.strerror or str(error), str(error.filename or folder)) from None


def exit_with_failures(failures: Sequence[str]) -> None:
    """Print each failed input as a line on stderr, and exit with code 1 if there is one."""
    for message in failures:
        echo(f"kpnet: {message}", error=True)
    if failures:
        raise typer.Exit(1)


def warn_of_views(run: Path, model: Any, test_time: TestTime | None) -> None:
    """Print a line if a model's calibration or guarantee does not hold for the predictions of a command.

    Args:
        run: What the command was given, for the line.
        model: The model, or the ensemble.
        test_time: The views.
    """
    from kpnet.models.ensemble import lost_with_views

    if lost := lost_with_views(model, test_time):
        echo(
            f"kpnet: {format_path(run)}: its {lost} held for this model alone and for the test-time views that it was "
            "made with: these predictions are without it",
            error=True,
        )


def is_shortage_of_memory(error: Exception) -> bool:
    """Return whether an exception of Python, numpy, torch or OpenCV says that memory could not be allocated."""
    return isinstance(error, MemoryError) or bool(_SHORTAGES.search(str(error)))


def describe_crash(error: Exception) -> str:
    """Write a report of an exception that nobody foresaw, and return one line on both.

    The report is a new file in the folder for temporary files, which only the user can read: the traceback, versions
    and the command line, without passwords.

    Args:
        error: The exception.

    Returns:
        The line.
    """
    what = hide_secrets(first_line(error, with_type=True))
    versions = {name: _version(name) for name in _LIBRARIES}
    report = "\n".join(
        [
            f"command: {' '.join(sys.argv)}",
            f"python {platform.python_version()} on {platform.platform()}",
            *(f"{name} {version}" for name, version in versions.items()),
            "",
            *traceback.format_exception(error),
        ]
    )
    try:
        handle, path = tempfile.mkstemp(prefix="kpnet-crash-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(hide_secrets(report))
    except OSError as problem:
        return f"{what}; this is a bug in kpnet or a library; no report could be written: {problem}"
    return f"{what}; this is a bug in kpnet or a library, please report it with {path}"


def hide_secrets(text: str) -> str:
    """Hide the passwords of addresses in a text, and what the command line gives to --storage."""
    for option, value in pairwise([*sys.argv, ""]):
        name, sign, held = option.partition("=")
        if name == "--storage":
            secret = held if sign else value
            text = text.replace(secret, redact(secret) if "://" in secret else "***") if secret else text
    return redact(text)


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
