"""Writing files so that a crash or a full disk leaves no half one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, then rename: a crash or a full disk leaves no half file."""
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
    """The path of a file beside, with the same suffix, written piece by piece; renamed unless something failed."""
    beside = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:  # a full disk does not say which file
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is None."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
