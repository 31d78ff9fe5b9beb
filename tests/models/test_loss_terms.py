"""Two processes with half of a batch each take the steps of one process with all of it, for every head and loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.every_head import EVERY
from support.half_batches import POINTS, Wrapper, ranked, steps
from support.ranks import on_two_ranks

from kpnet.heads import HEADS, HeadOutput
from kpnet.losses import COORDINATE_LOSSES, ohkm
from kpnet.models.loss_terms import pair_terms


def every_loss() -> Iterator[dict[str, Any]]:
    """Every head of one kind with all of its losses, over all points and over the hardest."""
    for name in ("heatmap", "offset", "simcc", "regression", "rle", "gaussian_nll", "laplace_nll"):
        loss = dict.fromkeys(HEADS.find(name).loss_terms, 0.1)
        yield {"name": name, "loss": loss}
        yield {"name": name, "loss": loss, "hardest": 2}
    hardest = {"name": "heatmap", "hardest": 1}
    yield {"name": "multi", "heads": {"some": hardest, "all": "regression"}, "weights": {"some": 0.5}}
    yield {"name": "temporal", "past": 1, "head": hardest, "hardest": 3}
    yield {"name": "temporal", "past": 1, "head": "rle"}


def worst_difference(specs: list[dict[str, Any]], folder: Path) -> list[float]:
    """The largest difference of a weight between two processes and one, for each head."""
    differences = []
    for spec, both in zip(specs, on_two_ranks(ranked, folder, specs), strict=True):
        own = Wrapper(spec)
        one = steps(own, own, slice(None))
        differences.append(max((a - b).abs().max().item() for a, b in zip(one, both, strict=True)))
    return differences


def test_the_hardest_points_weigh_the_ranks(tmp_path: Path) -> None:
    """With the visible points instead, the weights would be a hundredth apart."""
    specs: list[dict[str, Any]] = [
        {"name": "regression", "loss": {"l1": 1.0}, "hardest": 2},
        {"name": "multi", "heads": {"a": "rle"}},
    ]
    assert max(worst_difference(specs, tmp_path)) < 1e-6


@pytest.mark.slow
def test_every_head_and_loss(tmp_path: Path) -> None:
    specs = [*EVERY, *every_loss()]
    found = worst_difference(specs, tmp_path)
    assert {str(spec): value for spec, value in zip(specs, found, strict=True) if not value < 1e-6} == {}


def test_a_term_of_a_head_of_ones_own_counts_the_visible_points() -> None:
    weight = torch.tensor([[1.0, 0, 2, 1], [0, 0, 0, 1]])
    terms = pair_terms({"a": torch.tensor(1.0), "x": torch.tensor(2.0)}, {"a": torch.tensor(3)}, weight)
    assert terms.values.tolist() == [1, 2]
    assert terms.counts.tolist() == [3, 4]
    nothing_else = pair_terms({"a": torch.tensor(1.0)}, {"a": torch.tensor(3)}, weight)
    assert nothing_else.counts.tolist() == [3, 0]


@pytest.mark.parametrize("hardest", [None, 1, 3])
def test_what_a_head_says_is_what_its_loss_divides_by(hardest: int | None) -> None:
    """All errors are 1 and all weights 2: the loss is 2, and its sum 2 for each point that counts."""
    own = Wrapper({"name": "regression", "loss": {"l1": 1.0}} | ({"hardest": hardest} if hardest else {}))
    weight = 2.0 * torch.tensor([[1.0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0] * 5])
    expected = {None: 5, 1: 2, 3: 4}[hardest]
    assert own.model.head.denominators(weight)["l1"] == expected
    marked = torch.full((3, POINTS, 2), 1.0, requires_grad=True)
    own.model.head.loss(HeadOutput(marked), torch.zeros(3, POINTS, 2), weight)["l1"].backward()
    assert marked.grad is not None
    assert (marked.grad.abs().sum(-1) > 0).sum() == expected


def test_every_reduction_of_a_loss_is_known() -> None:
    from kpnet.losses import points_averaged

    weight = torch.ones(4, 6)
    for reduce, count in ((ohkm(2), 8), (ohkm(9), 24)):
        assert points_averaged(weight, reduce) == count
        assert COORDINATE_LOSSES["l1"](torch.ones(4, 6, 2), torch.zeros(4, 6, 2), weight, reduce) == 1
