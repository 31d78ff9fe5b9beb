"""Collect the samples that a format cannot use: one warning for all of them, or an error for the first."""

from __future__ import annotations

import logging
from pathlib import Path

from kpnet.core.errors import KpnetError

_log = logging.getLogger("kpnet")
_NAMED = 3  # in the warning; `Skipped.messages` has all


class Skipped:
    """The samples of a source that cannot be used.

    Args:
        source: The file or folder that is read.
        strict: Raise at the first such sample.

    Attributes:
        messages: For each skipped sample one line with the reason.
    """

    def __init__(self, source: Path, strict: bool = False) -> None:
        self.source, self.strict = source, strict
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """Record a skipped sample, or raise KpnetError if `strict`."""
        if self.strict:
            raise KpnetError(f"{self.source}: {message}")
        self.messages.append(message)

    def warn(self, kept: int) -> None:
        """Log one warning for all skipped samples, or raise KpnetError if none of the samples is `kept`."""
        count = len(self.messages)
        if not kept:
            reason = f"; {count} skipped: {self.messages[0]}" if count else ""
            raise KpnetError(f"{self.source}: no usable labelled instances{reason}")
        if count:
            named = "; ".join(self.messages[:_NAMED])
            more = f"; and {count - _NAMED} more (kpnet data check names them)" if count > _NAMED else ""
            _log.warning("%s: %d skipped, %d kept: %s%s", self.source, count, kept, named, more)
