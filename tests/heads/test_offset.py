"""The offset head: the votes of the cells near a point."""

from __future__ import annotations

import pytest
import torch
from support.small_heads import build, features

from kpnet import losses
from kpnet.heads.offset import OffsetOutput, vote_error


def test_votes_are_the_cells_own_centres_at_first_and_normalised() -> None:
    head = build({"name": "offset", "stride": 4}, 1).eval()
    output = head(features())
    assert isinstance(output, OffsetOutput)
    assert output.votes.shape == (2, 1, 12, 16, 2)
    assert output.votes[0, 0, 3, 5].tolist() == pytest.approx([(2 * 5 + 1) / 16 - 1, (2 * 3 + 1) / 12 - 1])
    best = output.logits.flatten(2).argmax(-1)
    argmax = build({"name": "offset", "stride": 4, "decoding": "argmax"}, 1).eval()
    argmax.load_state_dict(head.state_dict())
    expected = output.votes.flatten(2, 3)[torch.arange(2), 0, best[:, 0]]
    torch.testing.assert_close(argmax.infer(argmax(features())).keypoints[:, 0], expected)


def test_only_votes_near_the_target_are_trained() -> None:
    votes = torch.zeros(1, 1, 6, 8, 2, requires_grad=True)
    target, weight = torch.tensor([[[0.0, 0.0]]]), torch.ones(1, 1)  # between cells 3 and 4, 2 and 3
    value = vote_error(votes + 0.1, target, weight, 1.0, losses.mean_over_visible)
    value.backward()
    assert value.item() == pytest.approx(0.1)
    assert votes.grad is not None
    assert votes.grad.abs().sum(-1)[0, 0].nonzero().tolist() == [[2, 3], [2, 4], [3, 3], [3, 4]]
    assert torch.autograd.gradcheck(
        lambda v: vote_error(v, target.double(), weight.double(), 1.6, losses.mean_over_visible),
        torch.randn(1, 1, 6, 8, 2, dtype=torch.float64, requires_grad=True),
    )
    far = vote_error(votes, target + 9, weight, 1.0, losses.mean_over_visible)
    assert far.item() == 0  # no cell of the map is near


@pytest.mark.parametrize(("radius", "cells"), [(1.0, 4), (1.6, 12), (2.2, 16), (3.0, 32)])
def test_a_vote_is_near_within_the_radius_in_cells(radius: float, cells: int) -> None:
    """About a point between four cells: at 0.7, 1.6, 2.1 and 2.5 or 2.9 cells of it."""
    votes = torch.zeros(1, 1, 10, 12, 2, requires_grad=True)
    value = vote_error(votes + 0.1, torch.zeros(1, 1, 2), torch.ones(1, 1), radius, losses.mean_over_visible)
    value.backward()
    assert votes.grad is not None
    assert int((votes.grad.abs().sum(-1) > 0).sum()) == cells
