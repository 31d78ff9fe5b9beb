"""The head that finds instances: peaks, boxes and points, and what it learns from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.drawn_scenes import draw_scenes
from support.small_heads import build, features, pyramid, total
from torch import Tensor

from kpnet import build_model
from kpnet.core.errors import KpnetError
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
        assert found[0].points is None
        return
    assert found[0].points is not None
    assert found[1].points is not None
    assert found[1].points.keypoints.shape == (0, 2, 2)
    # A flat map leaves the points where the offsets say.
    torch.testing.assert_close(
        found[0].points.keypoints[0, :, 0] - centers[0, 0], torch.tensor([-0.1, 0.1]), atol=0.02, rtol=0
    )


def test_threshold_and_limit() -> None:
    output = made([[(3, 4, 1.0), (8, 4, -1.0), (12, 8, 3.0)]])
    head = head_of()
    given: list[tuple[float | None, int | None]] = [(None, None), (0.2, None), (0.8, None), (0.2, 1), (0.001, 500)]
    assert [len(head.find(output, *each)[0].scores) for each in given] == [2, 3, 1, 1, 3]
    assert len(head_of(threshold=0.2, max_instances=2).find(output)[0].scores) == 2


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
    assert {name for name, value in terms.items() if value} == {"centers"}
    total(terms).backward()
    assert output.centers.grad is not None
    assert (output.centers.grad[0] > 0).all()
    assert (output.centers.grad[1] == 0).all()
    assert head.scene_denominators(scene)["centers"] == 1


def test_repetitions_are_dropped_and_close_instances_stay() -> None:
    """Peaks two cells apart, with the same box and points, or each with its own."""
    for points in (True, False):
        output = made([[(5, 5, 2.0), (7, 5, 1.0)]], half=0.6)
        if not points:
            output.offsets = output.maps = None
        head = head_of(points, window=1)
        assert len(head.find(output)[0].scores) == 2
        shift = cell_center(7, 5)[0] - cell_center(5, 5)[0]
        output.extents[0, 0, 5, 7] += shift
        output.extents[0, 2, 5, 7] -= shift
        if output.offsets is not None:
            output.offsets[0, ::2, 5, 7] -= shift
        found = head.find(output)[0]
        torch.testing.assert_close(found.scores, torch.tensor([2.0]).sigmoid())


def test_a_hundred_instances_are_bounded() -> None:
    head = head_of()
    output = made([[(x, y, 1.0 + x / 100) for x in range(0, 16, 2) for y in range(0, 12, 2)]], half=0.05)
    assert len(head.find(output)[0].scores) == 48
    assert head.find(output, None, 5)[0].scores.tolist() == [torch.tensor(1.14).sigmoid()] * 5


def test_points_of_known_boxes_are_those_that_their_cells_predict() -> None:
    head = head_of()
    output = head(features())
    boxes = torch.full((2, 3, 4), torch.nan)
    boxes[0, 1] = torch.cat([cell_center(4, 6) - 0.1, cell_center(4, 6) + 0.1])
    boxes[1, 0] = torch.cat([cell_center(9, 2) - 0.3, cell_center(9, 2) + 0.3])
    found = head.read(output, boxes)
    assert found.confidence is not None
    assert found.covariance is not None
    assert (found.keypoints.shape, found.confidence.shape) == ((2, 3, 2, 2), (2, 3, 2))
    assert found.covariance.shape == (2, 3, 2, 2, 2)
    assert found.keypoints.isfinite().all()
    output.centers[:] = -9.0
    output.centers[0, 0, 6, 4] = output.centers[1, 0, 2, 9] = 5.0
    single = head.infer(output)
    torch.testing.assert_close(single.keypoints, torch.stack([found.keypoints[0, 1], found.keypoints[1, 0]]))
    [_, second] = head.find(output)
    assert second.points is not None
    torch.testing.assert_close(second.points.covariance, found.covariance[1, :1])
    finder = head_of(points=False)
    read = finder.read(finder(features()), boxes)
    assert read.confidence is None
    assert torch.equal(read.keypoints[..., 0, :], read.keypoints[..., 1, :])


def test_no_instance_touches_the_others() -> None:
    """The loss of two images is the mean of theirs over their instances and points, however the rows are filled."""
    scene = draw_scenes(2, most=3, size=48, seed=4)
    scene = {name: value for name, value in scene.items() if name != "image"}
    spec = {"name": "centers", "loss": {"centers": 1, "extents": 1, "offsets": 1, "cross_entropy": 1, "wing": 1}}
    head = HEADS.build(spec, pyramid((48, 48)), 3).eval()
    output = head(features(2, (48, 48)))
    both, counted = head.scene_loss(output, scene), head.scene_denominators(scene)
    mirrored = {name: value.flip(1) for name, value in scene.items()}
    sums = dict.fromkeys(both, 0.0)
    for i in range(2):
        one = {name: value[i : i + 1] for name, value in mirrored.items()}
        part = head(  # the features of one image
            [each[i : i + 1] for each in features(2, (48, 48))]
        )
        for name, value in head.scene_loss(part, one).items():
            sums[name] += value.item() * max(1, head.scene_denominators(one)[name].item())
    assert counted["centers"] == 2  # an image without instances, and one with one
    for name, value in both.items():
        assert value.item() == pytest.approx(sums[name] / counted[name].item(), rel=1e-5), name


def test_weights_of_instances_and_points() -> None:
    """Each term is linear in the weights where the instances stay the same."""
    scene = {name: value for name, value in draw_scenes(5, size=48).items() if name != "image"}
    head = HEADS.build("centers", pyramid((48, 48)), 3).eval()
    output = head(features(5, (48, 48)))
    head.loss_weights = dict.fromkeys(("extents", "offsets", "cross_entropy", "l1"), 1.0)
    whole = head.scene_loss(output, scene)
    halved = head.scene_loss(output, scene | {"weight": scene["weight"] / 2})
    for name, value in whole.items():
        assert value > 0
        torch.testing.assert_close(halved[name], value / 2)


def test_of_two_instances_in_one_cell_the_nearer_is_learnt() -> None:
    head = head_of(loss={"centers": 1, "extents": 1, "offsets": 1, "l1": 1})
    near, far = cell_center(5, 6), cell_center(5.3, 6.3)
    scene = {
        "boxes": torch.stack([torch.cat([each - 0.3, each + 0.3]) for each in (far, near)])[None],
        "keypoints": torch.stack([far.expand(2, 2), near.expand(2, 2)])[None],
        "visible": torch.ones(1, 2, 2, dtype=torch.bool),
        "weight": torch.ones(1, 2, 2),
    }
    output = made([[(5, 6, 3.0)]])
    assert output.offsets is not None
    output.offsets.zero_().requires_grad_()
    head.scene_loss(output, scene)["l1"].backward()
    assert output.offsets.grad is not None
    assert head.scene_loss(output, scene)["l1"].item() == pytest.approx(0, abs=1e-5)  # the nearer one's points


def test_scenes_of_another_shape_are_refused() -> None:
    head = head_of()
    output = head(features())
    scene = {"boxes": torch.zeros(2, 3, 4), "keypoints": torch.zeros(2, 3, 7, 2)}
    with pytest.raises(ValueError, match=r"boxes \(2, M, 4\) and keypoints \(2, M, 2, 2\), got \(2, 3, 4\) and "):
        head.scene_loss(output, scene)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": False, "loss": {"centers": 1, "extents": 1, "l1": 1}}, "loss: l1 of points, and there are none"),
        ({"loss": {"centers": 1, "extents": 1, "l1": 0}}, "trains a part of it: add offsets, cross_entropy"),
        ({"loss": {"centers": 1, "offsets": 1}}, "nothing trains a part of it: add extents, cross_entropy"),
        ({"threshold": 1.0}, "threshold: Input should be less than 1"),
        ({"max_instances": 0}, "max_instances: Input should be greater than 0"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        head_of(**options)


@pytest.mark.parametrize("points", [True, False])
def test_it_compiles_without_breaks(points: bool) -> None:
    head = head_of(points, 3).train()
    scene = {name: value for name, value in draw_scenes(2, size=48).items() if name != "image"}
    scene["ignored"], scene["partial"] = torch.full((2, 1, 4), torch.nan), torch.tensor([False, True])

    def step(maps: list[Tensor]) -> Tensor:
        return total(head.scene_loss(head(maps), scene))

    maps = features(2, (48, 48))
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(maps), step(maps))
    compiled(maps).backward()


def test_bfloat16_is_decoded_in_float32() -> None:
    head = head_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(features())
        assert output.centers.dtype == torch.bfloat16
        found = head.find(output, 0.01)[0]
    assert found.points is not None
    assert found.points.covariance is not None
    given = (found.boxes, found.scores, found.points.keypoints, found.points.covariance)
    assert {each.dtype for each in given} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("points", [True, False])
def test_drawn_instances_are_found_again(points: bool) -> None:
    """16 images of 128 x 128 pixels with 0 to 4 instances, in 20 seconds of one thread."""
    scene = draw_scenes(16)
    torch.manual_seed(0)
    backbone = {"name": "conv_sandwich", "channels": [16, 32, 64], "norm": "batch"}
    head = {"name": "centers", "points": points}
    model = build_model(backbone=backbone, head=head, num_keypoints=3, in_channels=1, input_size=128)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=220)
    for _ in range(220):
        rows = torch.randperm(16)[:8]
        batch = {name: value[rows] for name, value in scene.items()}
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    errors = []
    for i, found in enumerate(model.find(scene["image"])):
        there = scene["boxes"][i].isfinite().all(-1)
        true, points_there = scene["boxes"][i][there], scene["keypoints"][i][there]
        assert len(found.boxes) == len(true)
        if not len(true):
            continue
        order = (found.boxes[:, None] - true).abs().mean(-1).argmin(0)
        assert sorted(order.tolist()) == list(range(len(true)))
        assert (found.boxes[order] - true).abs().mean() * 64 < 1.5
        if found.points is not None:
            errors.append((found.points.keypoints[order] - points_there).norm(dim=-1).mean() * 64)
    assert bool(errors) == points
    if points:
        assert torch.stack(errors).mean() < 0.7


def test_a_finder_goes_on_whole() -> None:
    torch.manual_seed(3)
    trained, head = HEADS.build(FINDER, pyramid(), 5), build(FINDER)
    report = load_head(head, trained, trained.state_dict(), ["a", "b"], ["a", "b"])
    assert report.new_tensors == []
    torch.testing.assert_close(head.eval()(features()).xy, trained.eval()(features()).xy)
