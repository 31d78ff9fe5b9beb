"""Collect the samples that a format cannot use: one warning for all of them, or an error for the first."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kpnet.core.errors import KpnetError

_log = logging.getLogger("kpnet")
_NAMED = 3  # in the warning; `Skipped.messages` and `Skipped.notes` have all


class Skipped:
    """The samples of a source that cannot be used, and what is odd about those that are used.

    Args:
        source: The file or folder that is read.
        strict: Raise at the first such sample.

    Attributes:
        messages: For each skipped sample one line with the reason.
        notes: For each other oddity one line, such as a point that is left out or an id that appears twice.
    """

    def __init__(self, source: Path, strict: bool = False) -> None:
        self.source, self.strict = source, strict
        self.messages: list[str] = []
        self.notes: list[str] = []

    def add(self, message: str) -> None:
        """Record a skipped sample, or raise KpnetError if `strict`."""
        self._raise_if_strict(message)
        self.messages.append(message)

    def note(self, message: str, *, lost: bool = False) -> None:
        """Record an oddity. If a label is `lost` by it, raise KpnetError if `strict`."""
        if lost:
            self._raise_if_strict(message)
        self.notes.append(message)

    def warn(self, kept: int) -> None:
        """Log a warning for all skipped samples and one for all notes; raise KpnetError if no sample is `kept`."""
        count = len(self.messages)
        if not kept:
            reason = f"; {count} skipped: {self.messages[0]}" if count else ""
            raise KpnetError(f"{self.source}: no usable labelled instances{reason}")
        if count:
            _log.warning("%s: %d skipped, %d kept: %s", self.source, count, kept, _few(self.messages))
        if self.notes:
            _log.warning("%s: %s", self.source, _few(self.notes))

    def _raise_if_strict(self, message: str) -> None:
        if self.strict:
            raise KpnetError(f"{self.source}: {message}")


@contextmanager
def silenced() -> Iterator[None]:
    """Log no warnings of what is skipped: the caller looks at `Skipped.messages` and `Skipped.notes` itself."""
    level = _log.level
    _log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _log.setLevel(level)


def _few(messages: Sequence[str]) -> str:
    count = len(messages)
    more = f"; and {count - _NAMED} more (kpnet data check names them)" if count > _NAMED else ""
    return "; ".join(messages[:_NAMED]) + more
