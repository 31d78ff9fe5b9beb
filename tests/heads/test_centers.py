"""The head that finds instances: peaks, boxes and points, and what it learns from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.drawn_scenes import draw_scenes
from support.small_heads import build, features, pyramid, total
from torch import Tensor

from kpnet.heads import HEADS
from kpnet.heads.centers import CentersHead, CentersOutput
from kpnet.heads.transfer import load_head

FINDER = {"name": "centers", "points": False}
SIZE = (12, 16)


def head_of(points: bool = True, keypoints: int = 2, **options: Any) -> CentersHead:
    head = build({"name": "centers", "points": points, **options}, keypoints)
    assert isinstance(head, CentersHead)
    return head.eval()


def cell_center(x: float, y: float) -> Tensor:
    return torch.tensor([(2 * x + 1) / SIZE[1] - 1, (2 * y + 1) / SIZE[0] - 1])


def made(peaks: list[list[tuple[int, int, float]]], half: float = 0.2, keypoints: int = 2) -> CentersOutput:
    """An output with peaks at cells x, y of a logit, in each of some images; points left and right of the centres."""
    centers = torch.full((len(peaks), 1, *SIZE), -8.0)
    offsets = torch.zeros(len(peaks), 2 * keypoints, *SIZE)
    offsets[:, 0], offsets[:, 2] = -half / 2, half / 2
    for i, cells in enumerate(peaks):
        for x, y, logit in cells:
            centers[i, 0, y, x] = logit
    extents = torch.full((len(peaks), 4, *SIZE), half)
    return CentersOutput(
        torch.zeros(len(peaks), keypoints, 2), centers, extents, offsets, torch.zeros(len(peaks), 2, *SIZE)
    )


@pytest.mark.parametrize("points", [True, False])
def test_peaks_are_found_with_their_boxes_best_first(points: bool) -> None:
    output = made([[(3, 4, 1.0), (10, 8, 3.0)], [], [(0, 0, 0.0)]])
    if not points:
        output.offsets = output.maps = None
    found = head_of(points, window=2).find(output)
    assert [len(each.scores) for each in found] == [2, 0, 1]
    torch.testing.assert_close(found[0].scores, torch.tensor([3.0, 1.0]).sigmoid())
    centers = torch.stack([cell_center(10, 8), cell_center(3, 4)])
    torch.testing.assert_close(found[0].boxes, torch.cat([centers - 0.2, centers + 0.2], 1))
    assert found[1].boxes.shape == (0, 4)
    if not points:
        assert found[0].keypoints is None
        return
    assert found[0].keypoints is not None
    assert found[1].keypoints is not None
    assert found[1].keypoints.shape == (0, 2, 2)
    # A flat map leaves the points where the offsets say.
    torch.testing.assert_close(
        found[0].keypoints[0, :, 0] - centers[0, 0], torch.tensor([-0.1, 0.1]), atol=0.02, rtol=0
    )


def test_threshold_and_limit() -> None:
    output = made([[(3, 4, 1.0), (8, 4, -1.0), (12, 8, 3.0)]])
    head = head_of()
    given = [(), (0.2,), (0.8,), (0.2, 1), (0.001, 500)]
    assert [len(head.find(output, *each)[0].scores) for each in given] == [2, 3, 1, 1, 3]
    assert len(head_of(threshold=0.2, max_instances=2).find(output)[0].scores) == 2


def test_drawn_instances_are_found_again() -> None:
    scene = draw_scenes(10)
    assert scene["boxes"].isfinite().all(-1).sum(-1).tolist() == [0, 1, 2, 3, 4] * 2


def test_an_image_without_instances_teaches_the_background_and_a_partial_one_nothing() -> None:
    head = head_of()
    output = head(features())
    scene = {
        "boxes": torch.full((2, 3, 4), torch.nan),
        "keypoints": torch.zeros(2, 3, 2, 2),
        "visible": torch.zeros(2, 3, 2, dtype=torch.bool),
        "weight": torch.ones(2, 3, 2),
        "partial": torch.tensor([False, True]),
    }
    assert isinstance(output, CentersOutput)
    output.centers.retain_grad()
    terms = head.scene_loss(output, scene)
    assert {name for name, value in terms.items() if value} == {"centers", "maps"}
    total(terms).backward()
    assert output.centers.grad is not None
    assert (output.centers.grad[0] > 0).all()
    assert (output.centers.grad[1] == 0).all()
    assert head.scene_denominators(scene)["centers"] == 1


def test_a_finder_goes_on_whole() -> None:
    torch.manual_seed(3)
    trained, head = HEADS.build(FINDER, pyramid(), 5), build(FINDER)
    report = load_head(head, trained, trained.state_dict(), ["a", "b"], ["a", "b"])
    assert report.new_tensors == []
    torch.testing.assert_close(head.eval()(features()).xy, trained.eval()(features()).xy)
