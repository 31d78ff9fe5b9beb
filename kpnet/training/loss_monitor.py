"""The loss of each step, read a step late, so that a GPU never waits for the processor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepLoss:
    """The loss of one step, on the CPU.

    Attributes:
        epoch: Number of the epoch, from 0.
        step: Number of optimizer steps taken before it.
        ranks: The loss of each process, (ranks,).
        terms: Name to term of this process's loss; empty for a loss of one term.
    """

    epoch: int
    step: int
    ranks: Tensor
    terms: dict[str, float]

    def is_finite(self) -> bool:
        """Return whether the loss of every process is finite."""
        return all(map(math.isfinite, self.ranks.tolist()))

    def describe(self) -> str:
        """Return where the step was, and the terms of its loss."""
        named = ", ".join(f"{name} {value:g}" for name, value in self.terms.items())
        return f"at epoch {self.epoch + 1}, step {self.step}" + (f" ({named})" if named else "")


class LossMonitor:
    """Sends the loss of a step to the CPU without waiting for it; it is read once the next step is under way.

    A loss that is read at once makes the processor wait until the device has computed it, and then the device wait for
    the processor.
    """

    def __init__(self) -> None:
        self._sent: tuple[int, int, Tensor, tuple[str, ...], torch.cuda.Event | None] | None = None

    def send(self, epoch: int, step: int, ranks: Tensor, terms: Mapping[str, Tensor] = {}) -> None:
        """Send the loss of a step.

        Args:
            epoch: Number of the epoch, from 0.
            step: Number of optimizer steps taken before it.
            ranks: The loss of each process, (ranks,).
            terms: Name to term of this process's loss, scalars.
        """
        values = torch.cat([ranks.detach().float(), *(term.detach().float().view(1) for term in terms.values())])
        event = None
        if values.is_cuda:
            values = values.to("cpu", non_blocking=True)  # into pinned memory
            event = torch.cuda.Event()
            event.record()
        self._sent = (epoch, step, values.cpu(), tuple(terms), event)

    def receive(self) -> StepLoss | None:
        """Return the loss that was sent last, once; None if there is none."""
        if self._sent is None:
            return None
        epoch, step, values, names, event = self._sent
        self._sent = None
        if event is not None:
            event.synchronize()
        split = len(values) - len(names)
        return StepLoss(epoch, step, values[:split], dict(zip(names, values[split:].tolist(), strict=True)))
