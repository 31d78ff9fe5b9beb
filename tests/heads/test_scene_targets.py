"""What the head `centers` learns from: which cells are whose, and which count for nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kpnet.coordinates import cell_centers, pixel_to_normalized
from kpnet.heads.scene_targets import SceneTargets, cells_at, counts, single_scene

SIZE = (12, 16)


def box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    """A box in cells, normalised."""
    corners = pixel_to_normalized(torch.tensor([[x0, y0], [x1, y1]], dtype=torch.float64), SIZE)
    return corners.flatten().tolist()


NONE = [math.nan] * 4


def scene(*boxes: list[float], points: int = 2, **more: Any) -> dict[str, Tensor]:
    """One image with instances whose points all lie at the centres of their boxes."""
    edges = torch.tensor([list(boxes)], dtype=torch.float64).view(1, -1, 4)
    there = edges.isfinite().all(-1)
    center = (edges[..., :2] + edges[..., 2:])[:, :, None].expand(-1, -1, points, -1) / 2
    visible = there[..., None].expand(-1, -1, points).clone()
    return {
        "boxes": edges,
        "keypoints": center.nan_to_num(),
        "visible": visible,
        "weight": visible.double(),
        **{name: torch.tensor([value]) for name, value in more.items()},
    }


def targets(given: dict[str, Tensor]) -> SceneTargets:
    return SceneTargets(given, SIZE, torch.float64)


def test_the_cell_of_a_centre_is_its_peak_and_the_gaussian_follows_the_box() -> None:
    wide = targets(scene(box(2, 3, 12, 6), NONE))
    assert wide.cell[0, 0].tolist() == [7, 5]
    assert wide.near[0, 0, 0].tolist() == [7, 5]
    assert wide.half.tolist() == [[5, 1]]
    maps, weight = wide.centers_map()
    assert maps.shape == (1, 1, *SIZE)
    assert maps[0, 0, 5, 7] == 1
    # sigma is 1 cell along x and the least, 0.6, along y; the centre lies half a cell above the cell's.
    assert maps[0, 0, 5, 8].item() == pytest.approx(math.exp(-0.5 - 0.5 * (0.5 / 0.6) ** 2))
    assert maps[0, 0, 3, 7].item() == pytest.approx(math.exp(-0.5 * (1.5 / 0.6) ** 2))
    assert (weight == 1).all()
    assert [int(each) for each in counts(scene(box(2, 3, 12, 6), NONE))] == [1, 1, 2]


def test_neighbours_off_the_map_are_nobodys() -> None:
    found = targets(scene(box(-4, -4, 3, 3)))
    assert found.cell[0, 0].tolist() == [0, 0]
    own = {tuple(c) for c, mine in zip(found.near[0, 0].tolist(), found.own[0, 0].tolist(), strict=True) if mine}
    assert own == {(0, 0), (1, 0), (0, 1), (1, 1)}
    assert int(found.own.sum()) == 4


def test_an_instance_larger_than_the_image_or_off_it_has_the_nearest_cell() -> None:
    assert targets(scene(box(-90, -90, 110, 100))).cell[0, 0].tolist() == [10, 5]
    assert targets(scene(box(20, 30, 40, 50))).cell[0, 0].tolist() == [15, 11]


def test_of_two_in_one_cell_the_nearer_has_it_and_of_equal_centres_the_larger() -> None:
    both = targets(scene(box(4.2, 5.2, 6.2, 7.2), box(3, 4, 7, 8)))
    assert both.cell[0].tolist() == [[5, 6], [5, 6]]
    assert both.own[0, :, 0].tolist() == [False, True]
    assert both.own[0, 0].any()  # the neighbours on its side
    assert (both.own.sum(1) == 1).all()
    same = targets(scene(box(4, 5, 6, 7), box(3, 4, 7, 8)))
    assert same.own[0].tolist() == [[False] * 9, [True] * 9]


def test_background_that_counts_for_nothing() -> None:
    y, x = cell_centers(SIZE[0]), cell_centers(SIZE[1])
    left = (x < 0).expand(SIZE)
    given = scene(box(9, 2, 13, 6), ignored=[[-1.0, -1.0, 0.0, 1.0], NONE])
    maps, weight = targets(given).centers_map()
    assert torch.equal(weight[0, 0] == 0, left)
    # A peak counts in an ignored region too.
    maps, weight = targets(scene(box(2, 2, 5, 6), ignored=[[-1.0, -1.0, 0.0, 1.0]])).centers_map()
    assert weight[0, 0][left].sum() == 1
    # Of a partly labelled image only what lies in the boxes is known.
    maps, weight = targets(scene(box(9, 2, 13, 6), partial=True)).centers_map()
    assert weight[0, 0].nonzero().tolist() == [[j, i] for j in range(2, 7) for i in range(9, 14)]
    assert (maps == 1).sum() == 1
    maps, weight = targets(scene(NONE, partial=True)).centers_map()
    assert not weight.any()
    assert y.shape == (12,)


def test_counts_of_images_without_instances() -> None:
    assert [int(each) for each in counts(scene(NONE, NONE))] == [1, 0, 0]
    assert [int(each) for each in counts(scene(NONE, partial=True))] == [0, 0, 0]
    assert [int(each) for each in counts(scene(box(1, 1, 4, 4), box(6, 6, 9, 9), partial=True))] == [2, 2, 4]


def test_weights() -> None:
    given = scene(box(1, 1, 5, 5), box(8, 2, 12, 6), NONE)
    given["weight"] = torch.tensor([[[0.5, 0.3], [2.0, 0.0], [7.0, 7.0]]])
    found = targets(given)
    assert found.weight.tolist() == [[[0.5, pytest.approx(0.3)], [2, 0], [0, 0]]]
    assert found.share[0].tolist() == pytest.approx([0.4, 2, 0])
    _, weight = found.centers_map()
    assert sorted(set(weight.flatten().tolist())) == pytest.approx([0.4, 1.2, 2])
    given["visible"][:] = False
    assert targets(given).share.tolist() == [[1, 1, 0]]  # boxes without points


def test_a_single_instance_has_the_box_around_its_points() -> None:
    points = torch.tensor(
        [[[0.0, 0.5], [0.5, -0.5], [math.nan, 9.0]], [[0.2, 0.2], [1.0, 1.0], [0.0, 0.0]], [[9.0] * 2] * 3]
    )
    weight = torch.tensor([[1.0, 2, 0], [1, 0, 0], [0, 0, 0]])
    found = single_scene(points, weight, SIZE)
    torch.testing.assert_close(found["boxes"][0, 0], torch.tensor([0.0, -0.5, 0.5, 0.5]))
    torch.testing.assert_close(found["boxes"][1, 0], torch.tensor([0.2 - 1 / 8, 0.2 - 1 / 6, 0.2 + 1 / 8, 0.2 + 1 / 6]))
    assert found["boxes"][2].isnan().all()
    assert found["partial"].tolist() == [False, False, True]
    assert [int(each) for each in counts(found)] == [2, 2, 3]


def test_cells_of_points() -> None:
    points = pixel_to_normalized(torch.tensor([[3.4, 2.6], [-3.0, 90.0], [math.nan, 1.0]]), SIZE)
    assert cells_at(points, SIZE).tolist() == [[3, 3], [0, 11], [0, 1]]
