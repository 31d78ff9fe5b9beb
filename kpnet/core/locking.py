"""Locks of folders, so that two processes never work in one; a process that dies loses its lock."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from kpnet.core.errors import KpnetError

LOCK = ".kpnet.lock"  # name of the file in a folder


@contextmanager
def locked(path: Path, folder: Path, timeout: float = 0, *, remove: bool = False) -> Iterator[None]:
    """Hold a lock file.

    Args:
        path: The lock file.
        folder: What it guards, for the message.
        timeout: Seconds to wait for another process.
        remove: Remove the file at the end, before others can lock it. False: it is left behind.

    Raises:
        KpnetError: Another process holds it; the message names the process and its machine where they are known.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise KpnetError(
            f"{folder}: another kpnet process{_holder(path)} works in it; wait for it, or give another --out"
        ) from None
    try:
        if not isinstance(lock, SoftFileLock):  # where the file system has no locks; that file has a content of its own
            with suppress(OSError):
                path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        if remove:
            with suppress(OSError):  # Windows: it is open
                path.unlink()
        lock.release()


def _holder(path: Path) -> str:
    """Return the process that holds a lock, for a message; nothing where its file does not say."""
    try:
        text = path.read_text(encoding="utf-8")[:100]
    except (OSError, ValueError):
        return ""
    return f" ({text})" if text.startswith("process ") and text.isprintable() else ""
