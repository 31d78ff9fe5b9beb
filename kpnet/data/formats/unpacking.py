"""Refuse files that unpack to far more than they hold, before they fill the memory."""

from __future__ import annotations

from pathlib import Path

from kpnet.core.errors import KpnetError

MAX_GIB = 1.0
_RATIO = 20  # images and tables of real data shrink less


def check_unpacked_size(path: Path, what: str, size: int, max_gib: float) -> None:
    """Raise KpnetError if compressed data would be large in memory.

    Args:
        path: The compressed file.
        what: What would be unpacked, for the message.
        size: Its size in memory, in bytes.
        max_gib: Limit in GiB. Data that is at most twenty times as large as the file may be larger.
    """
    if not size <= max(max_gib * 2**30, _RATIO * path.stat().st_size):
        raise KpnetError(
            f"{path}: {what} would take {size / 2**30:.1f} GiB of memory, unpacked from "
            f"{path.stat().st_size / 2**20:.1f} MiB; the limit is {max_gib:g} GiB: save the file "
            "without compression, or set max_gib in data.format"
        )
