"""The loss that is read a step late."""

from __future__ import annotations

import pytest
import torch

from kpnet.training.loss_monitor import LossMonitor


def test_what_was_sent_is_received_once() -> None:
    monitor = LossMonitor()
    assert monitor.receive() is None
    monitor.send(2, 7, torch.tensor([0.5, 0.25]), {"l1": torch.tensor(0.125), "kl": torch.tensor(0.375)})
    last = monitor.receive()
    assert last is not None
    assert last.is_finite()
    assert last.ranks.tolist() == [0.5, 0.25]
    assert last.describe() == "at epoch 3, step 7 (l1 0.125, kl 0.375)"
    assert monitor.receive() is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_loss_of_any_process_that_is_not_finite(value: float, rank: int) -> None:
    ranks = torch.zeros(2)
    ranks[rank] = value
    monitor = LossMonitor()
    monitor.send(0, 0, ranks)
    last = monitor.receive()
    assert last is not None
    assert not last.is_finite()
    assert last.describe() == "at epoch 1, step 0"


def test_what_a_step_changes_later_is_not_what_was_sent() -> None:
    loss, monitor = torch.ones(1), LossMonitor()
    monitor.send(0, 0, loss)
    loss.fill_(torch.nan)
    last = monitor.receive()
    assert last is not None
    assert last.is_finite()
