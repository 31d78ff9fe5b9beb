"""What a head took from a trained one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kpnet.core.errors import shorten

SHOWN = 8  # names in a message


@dataclass(frozen=True)
class HeadReport:
    """What a head took from a trained one.

    Attributes:
        tensors: How many tensors were taken, whole or in part.
        taken: Names of the points whose weights were taken.
        new_points: Names of the points that start anew.
        new_tensors: Names of the tensors that start anew.
    """

    tensors: int
    taken: list[str]
    new_points: list[str]
    new_tensors: list[str]

    def __str__(self) -> str:
        points = len(self.taken) + len(self.new_points)
        parts = [f"{self.tensors} tensors of the head, with {len(self.taken)} of {points} points by name"]
        if self.new_points:
            parts.append(f"new points: {_listed(self.new_points)}")
        if self.new_tensors:
            parts.append(f"new tensors of the head: {_listed(self.new_tensors)}")
        return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(shorten(name) for name in names[:SHOWN]) + more
