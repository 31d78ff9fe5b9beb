"""Write files so that a crash or a full disk leaves no half-written one."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import stat
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PARTIAL = ".kpnet-"  # beginning of the names of files that are being written; a killed process leaves one behind
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # Unicode's controls, surrogates, and separators of lines and paragraphs
_watchers: list[Callable[[Path, Path], None]] = []
_SHOWN = 40  # characters of the file's own name that are in it


def alike(path: str | Path) -> str:
    """Return what is the same for names that some file systems do not distinguish: A.png and a.png, é in two codes."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def expand_path(path: str | Path) -> str:
    """Replace `~` and environment variables (`$VAR`) at the start and within a path.

    Args:
        path: The path. One that exists as it is written stays, and so do an address and a variable that is not set.

    Returns:
        The path as text.
    """
    text = str(path)
    if os.path.lexists(text) or "://" in text:
        return text
    return os.path.expanduser(os.path.expandvars(text))


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file beside `path`, then rename it, so that `path` is never half-written."""
    with _beside(path, f"{path.name[:_SHOWN]}.part") as beside:
        beside.write_bytes(data)


def write_json(path: Path, values: Any) -> None:
    """Write `values` as indented JSON, all or nothing; a number that is not finite becomes null."""
    write_atomic(path, (json.dumps(plain(values), indent=2) + "\n").encode())


@contextmanager
def watching_writes(watcher: Callable[[Path, Path], None]) -> Iterator[None]:
    """Call a function with the path of each file that is written, and with that of its content, before it is there."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file with the same suffix, and rename it to `path` unless an error was raised."""
    with _beside(path, f"part.{path.name[-_SHOWN:]}") as beside:
        yield beside
        if not beside.stat().st_size:
            raise OSError(errno.EIO, "nothing was written")


@contextmanager
def _beside(path: Path, ending: str) -> Iterator[Path]:
    """Yield a new, empty file in the folder of `path`, and rename it to `path`, on the disk, unless an error is raised.

    It has the permissions of the file that it replaces.
    """
    beside = partial_path(path, ending)
    try:
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # follows no link; umask applies
        with suppress(FileNotFoundError):
            old = path.lstat().st_mode
            if stat.S_ISREG(old):
                beside.chmod(stat.S_IMODE(old))
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())  # or a power cut after the renaming could leave an empty file
        for watcher in tuple(_watchers):
            watcher(path, beside)
        os.replace(beside, path)
    except OSError as error:  # a full disk does not say which file
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def partial_path(path: Path, ending: str = "part") -> Path:
    """Return a path beside `path` for a file or folder that is being written, with a name that cannot be foreseen."""
    return path.with_name(f"{PARTIAL}{secrets.token_hex(8)}.{ending}")


def file_name(text: str, suffix: str = "") -> str:
    """Return a file name made of any text: what no file system takes becomes `_`, and at most 200 bytes are kept."""
    kept = "".join("_" if unicodedata.category(c) in _CONTROLS or c in "/\\" else c for c in text)
    return kept.encode()[: 200 - len(suffix)].decode(errors="ignore") + suffix


def append_durably(path: Path, data: bytes) -> None:
    """Append to a file, and wait until the disk has it; where the disk is full, the file stays as it was."""
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(size)
            raise OSError(error.errno, error.strerror, str(path)) from None


def plain(value: Any) -> Any:
    """Replace numbers that are not finite by None, as JSON has no NaN."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
