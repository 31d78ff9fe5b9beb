"""Write files so that a crash or a full disk leaves no half-written one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def expand_path(path: str | Path) -> Path:
    """Replace `~` and environment variables (`$VAR`) at the start and within a path.

    Args:
        path: The path. One that exists as it is written stays, and so does a variable that is not set.

    Returns:
        The path.
    """
    text = str(path)
    if os.path.lexists(text) or "://" in text:
        return Path(path)
    return Path(os.path.expanduser(os.path.expandvars(text)))


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file beside `path`, then rename it, so that `path` is never half-written."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    except OSError as error:  # a full disk does not say which file
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write `values` as indented JSON, all or nothing; a number that is not finite becomes null."""
    write_atomic(path, (json.dumps(plain(values), indent=2) + "\n").encode())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file with the same suffix, and rename it to `path` unless an error was raised."""
    beside = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:  # a full disk does not say which file
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Replace numbers that are not finite by None, as JSON has no NaN."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
