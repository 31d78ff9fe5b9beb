"""Samples that cannot be used: left out and told in one line, or an error."""

from __future__ import annotations

import logging
from pathlib import Path

from kpnet.core.errors import KpnetError

_log = logging.getLogger("kpnet")
_NAMED = 3  # in the warning; `Skipped.messages` has all


class Skipped:
    """What was left out of `source`, and why, one message each. strict: the first is an error instead."""

    def __init__(self, source: Path, strict: bool = False) -> None:
        self.source, self.strict = source, strict
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """A sample that is left out; a KpnetError where `strict`."""
        if self.strict:
            raise KpnetError(f"{self.source}: {message}")
        self.messages.append(message)

    def tell(self, kept: int) -> None:
        """One warning for all; a KpnetError where not one sample is kept."""
        count = len(self.messages)
        if not kept:
            reason = f"; {count} cannot be used: {self.messages[0]}" if count else ""
            raise KpnetError(f"{self.source}: 0 labelled instances to use{reason}")
        if count:
            named = "; ".join(self.messages[:_NAMED])
            more = f"; and {count - _NAMED} more (kpnet data check names them)" if count > _NAMED else ""
            _log.warning("%s: %d left out, %d kept: %s%s", self.source, count, kept, named, more)
