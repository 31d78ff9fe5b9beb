"""How commands report what went wrong: one line for each problem, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from kpnet.core.errors import KpnetError


@contextmanager
def training_errors(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C and a failed write during a training into errors of one line.

    Args:
        folder: The run folder, named where an `OSError` names no file.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KpnetError("interrupted; the same command with --resume continues after the last full epoch") from None
    except OSError as error:  # a full disk does not say which file, inside a checkpoint
        raise OSError(error.errno, error.strerror or str(error), str(error.filename or folder)) from None


def exit_with_failures(failures: Sequence[str]) -> None:
    """Print each failed input as a line on stderr, and exit with code 1 if there is one."""
    for message in failures:
        print(f"kpnet: {message}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)
