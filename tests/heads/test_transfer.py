"""Going on from a trained head: what it predicts of its points stays, wherever they are in the new order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.every_head import EVERY, label
from support.small_heads import build, features, pyramid
from torch import Tensor, nn

from kpnet.heads import HEADS, Head, HeadOutput, PyramidInfo
from kpnet.heads.decoders import DECODERS
from kpnet.heads.decoders.top_down import TopDown
from kpnet.heads.transfer import load_head

OLD = ["eye_left", "eye_right", "nose", "ear_left", "ear_right"]
every_head = pytest.mark.parametrize("spec", EVERY, ids=label)
OF_POINTS = [spec for spec in EVERY if spec.get("points", True)]  # a finder predicts none


def trained(spec: Any, points: int = len(OLD)) -> Head:
    """A head none of whose numbers is an initial one, nor like another."""
    head = build(spec, points)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in head.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator) - 0.05)
    return head.double().eval()


def continued(spec: Any, old: Head, points: list[str], trained_points: list[str] = OLD) -> tuple[Head, Any]:
    head = build(spec, len(points)).double().eval()
    with torch.device("meta"):
        shape = HEADS.build(spec, pyramid(), len(trained_points))
    return head, load_head(head, shape, old.state_dict(), points, trained_points)


def predicted(head: Head) -> list[Tensor]:
    with torch.no_grad():
        found = head.infer(head([each.double() for each in features()]))
    return [found.keypoints, *(each for each in (found.covariance,) if each is not None)]


@pytest.mark.parametrize("spec", OF_POINTS, ids=label)
def test_the_same_points_in_another_order_are_predicted_alike(spec: Any) -> None:
    old = trained(spec)
    names = ["ear_right", "eye_right", "eye_left", "nose", "ear_left"]
    head, report = continued(spec, old, names)
    assert (report.taken, report.new_points, report.new_tensors) == (names, [], [])
    assert report.tensors == len(old.state_dict())
    for now, before in zip(predicted(head), predicted(old), strict=True):
        torch.testing.assert_close(now, before[:, [OLD.index(name) for name in names]], rtol=1e-9, atol=1e-12)


def looks_at_the_others(spec: dict[str, Any]) -> bool:
    """Whether the prediction of a point depends on the others' weights, so that it changes where they are new."""
    return spec["name"] == "temporal" or spec.get("stages", 1) > 1


@pytest.mark.parametrize("spec", [s for s in OF_POINTS if not looks_at_the_others(s)], ids=label)
def test_new_points_start_anew_and_the_others_go_on(spec: Any) -> None:
    old, names = trained(spec), ["tail", "nose", "eye_left", "paw"]
    head, report = continued(spec, old, names)
    assert (report.taken, report.new_points) == (["nose", "eye_left"], ["tail", "paw"])
    for now, before in zip(predicted(head), predicted(old), strict=True):
        torch.testing.assert_close(now[:, [1, 2]], before[:, [2, 0]], rtol=1e-9, atol=1e-12)
    fresh, state = build(spec, len(names)).double().state_dict(), head.state_dict()
    for name, blocks in head.point_blocks().items():
        for block in blocks:
            for point in (0, 3):
                rows = range(block.start + point * block.each, block.start + (point + 1) * block.each)
                index = torch.tensor(rows)
                kept = [each[name].index_select(block.axis, index) for each in (fresh, state)]
                assert torch.equal(*kept), (name, point)


@every_head
def test_every_weight_that_depends_on_the_points_is_said_to(spec: Any) -> None:
    """Another number of points changes the shape of exactly those tensors, by as many rows as they say."""
    small, large = build(spec, 5), build(spec, 7)
    changed = {name for name, tensor in small.state_dict().items() if tensor.shape != large.state_dict()[name].shape}
    assert set(small.point_blocks()) == set(large.point_blocks()) == changed
    for name, blocks in large.point_blocks().items():
        axis = blocks[0].axis
        grown = large.state_dict()[name].shape[axis] - small.state_dict()[name].shape[axis]
        assert grown == 2 * sum(block.each for block in blocks)


def test_numbers_are_no_names() -> None:
    """Points "0", "1", … of two data sets are other points, unless there are as many."""
    old = trained({"name": "regression"}, 3)
    _, report = continued({"name": "regression"}, old, ["0", "1"], ["0", "1", "2"])
    assert (report.taken, report.new_points) == ([], ["0", "1"])
    _, report = continued({"name": "regression"}, old, ["0", "1", "2"], ["0", "1", "2"])
    assert report.taken == ["0", "1", "2"]


def test_another_decoder_or_width_starts_anew() -> None:
    old_spec = {"name": "heatmap", "decoder": {"name": "top_down", "width": 8}}
    old = trained(old_spec)
    with torch.device("meta"):
        shape = HEADS.build(old_spec, pyramid(), len(OLD))
    for decoder in ({"name": "top_down", "width": 16}, {"name": "deconv", "width": 8}):
        spec = {"name": "heatmap", "decoder": decoder}
        head, fresh = build(spec), build(spec).state_dict()
        report = load_head(head, shape, old.state_dict(), OLD, OLD)
        assert any(name.startswith("decoder.") for name in report.new_tensors)
        for name in report.new_tensors:
            assert torch.equal(head.state_dict()[name], fresh[name])


def test_a_part_of_another_type_starts_anew_where_its_weights_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twin(TopDown):
        pass

    monkeypatch.setitem(DECODERS, "twin", Twin)
    old, head = trained({"name": "heatmap"}), build({"name": "heatmap", "decoder": "twin"})
    report = load_head(head, build({"name": "heatmap"}), old.state_dict(), OLD, OLD)
    assert set(report.new_tensors) == {name for name in head.state_dict() if name.startswith("decoder.")}
    assert report.taken == OLD


class Silent(Head):
    """A head that does not say which of its rows belong to a point."""

    def __init__(self, pyramid: PyramidInfo, num_keypoints: int) -> None:
        super().__init__()
        self.layer = nn.Linear(pyramid.channels[-1], 2 * num_keypoints)

    def forward(self, features: list[Tensor]) -> HeadOutput:
        return HeadOutput(self.layer(features[-1].mean((-2, -1))).unflatten(1, (-1, 2)))


def test_a_head_that_says_nothing_goes_on_with_the_same_points_alone() -> None:
    old, head = Silent(pyramid(), 2), Silent(pyramid(), 2)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    report = load_head(head, old, old.state_dict(), ["b", "a"], ["a", "b"])
    assert (report.tensors, report.new_points) == (0, ["b", "a"])
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    report = load_head(head, old, old.state_dict(), ["a", "b"], ["a", "b"])
    assert (report.tensors, report.taken) == (2, ["a", "b"])
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in head.state_dict().items())


def test_what_is_reported_is_bounded() -> None:
    names = [f"point_{i}" for i in range(50)]
    old = trained({"name": "regression"})
    _, report = continued({"name": "regression"}, old, [*OLD, *names])
    assert str(report).startswith(
        f"{len(old.state_dict())} tensors of the head, with 5 of 55 points by name; new points: "
    )
    assert str(report).endswith("point_7 and 42 more")
