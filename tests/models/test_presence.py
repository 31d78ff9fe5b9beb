"""Presence: the branch, its loss, and what a model with it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.recipes import SANDWICH

from kpnet import KpnetError, TestTime, build_model, load_model
from kpnet.heads import Keypoints
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.presence import PresenceBranch, presence_logits, presence_terms, with_presence

CONFIG: dict[str, Any] = {
    "backbone": SANDWICH,
    "head": {"name": "heatmap", "decoder": {"name": "top_down", "width": 8}},
    "in_channels": 1,
    "input_size": 32,
}
PAIR = {"names": ["left", "right", "nose"], "pairs": [["left", "right"]]}


def model_with(**more: Any) -> KeypointModel:
    torch.manual_seed(0)
    return build_model({**CONFIG, "presence": True, **more}, skeleton=PAIR)


def stirred(model: KeypointModel) -> KeypointModel:
    """Give the branch last weights that are not 0, so that it says something."""
    assert model.presence is not None
    torch.manual_seed(1)
    torch.nn.init.normal_(model.presence.last)
    torch.nn.init.normal_(model.presence.bias)
    return model


def batch(count: int = 4) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    present = torch.tensor([[1.0, 0.0, torch.nan]]).expand(count, 3).clone()
    xy = torch.rand(count, 3, 2, generator=g) - 0.5
    return {"image": torch.rand(count, 1, 32, 32, generator=g), "keypoints": xy, "present": present}


def test_the_rest_of_the_model_is_as_without_it() -> None:
    torch.manual_seed(0)
    plain, images = build_model(CONFIG, skeleton=PAIR), batch()["image"]
    model = stirred(model_with())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    without, found = plain.infer(images), model.infer(images)
    assert torch.equal(without.keypoints, found.keypoints)
    assert torch.equal(without.covariance, found.covariance)  # type: ignore[arg-type]
    assert without.presence is None
    assert found.presence is not None
    assert found.confidence is not None
    assert without.confidence is not None
    torch.testing.assert_close(found.confidence, without.confidence * found.presence)
    assert (found.presence - found.presence.mean()).abs().max() > 0.01
    assert model.point_values == ("presence",)
    assert plain.point_values == ()
    assert list(plain.loss_terms(batch()).named) == ["l1", "cross_entropy"]


def test_its_loss_is_the_mean_over_the_points_of_which_it_is_known() -> None:
    logits = torch.tensor([[0.3, -1.2, 5.0], [2.0, 0.0, -3.0]], requires_grad=True)
    present = torch.tensor([[1.0, 0.0, torch.nan], [torch.nan, 1.0, 1.0]])
    terms = presence_terms(logits, present, logits.detach(), 0.5)
    expected = [F.softplus(torch.tensor(value)) for value in (-0.3, -1.2, 0.0, 3.0)]
    assert float(terms.values.detach()) == pytest.approx(0.5 * float(torch.stack(expected).mean()))
    assert terms.counts.tolist() == [4]
    terms.values.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad == 0).tolist() == [[False, False, True], [True, False, False]]
    for nothing in (None, torch.full_like(present, torch.nan)):
        empty = presence_terms(logits, nothing, logits.detach(), 0.5)
        assert (empty.values.tolist(), empty.counts.tolist()) == ([0], [0])


def test_the_loss_of_a_model_has_the_term_and_learns_from_it() -> None:
    data, model = batch(), model_with()
    terms = model.loss_terms(data)
    assert float(terms.named["presence"].detach()) == pytest.approx(0.1 * 0.6931, abs=1e-4)  # of logits that are 0
    assert terms.counts[-1] == 8
    without = model.loss_terms({key: value for key, value in data.items() if key != "present"})
    torch.testing.assert_close(without.values.sum(), terms.values.sum() - terms.named["presence"])
    model.loss(data).backward()
    assert model.presence is not None
    assert model.presence.last.grad is not None
    assert model.presence.last.grad.abs().sum() > 0
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        model.loss(data).backward()
        optimizer.step()
    presence = model.infer(data["image"]).presence
    assert presence is not None
    assert presence[:, 0].min() > 0.8
    assert presence[:, 1].max() < 0.2


def test_points_and_spread_get_no_gradient_from_it() -> None:
    branch = PresenceBranch([4, 8], 3, 16)
    torch.nn.init.normal_(branch.last)
    maps = [torch.randn(2, 4, 8, 8, requires_grad=True), torch.randn(2, 8, 4, 4, requires_grad=True)]
    xy = torch.zeros(2, 3, 2, requires_grad=True)
    covariance = torch.eye(2).expand(2, 3, 2, 2).clone().requires_grad_()
    branch(maps, Keypoints(xy, covariance=covariance)).sum().backward()
    assert xy.grad is None
    assert covariance.grad is None
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in maps)


def test_each_point_is_read_where_it_is() -> None:
    """Only the cells at a point and the mean of the coarsest map matter."""
    torch.manual_seed(0)
    branch = PresenceBranch([4, 8], 2, 16)
    torch.nn.init.normal_(branch.last)
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)]
    at = Keypoints(torch.tensor([[[-0.5, -0.5], [0.5, 0.5]]]), covariance=0.01 * torch.eye(2).expand(1, 2, 2, 2))
    before = branch(maps, at)
    maps[0][:, 0, 5, 5] += 1  # its centre is at 3/8: it reaches the second point
    changed = branch(maps, at) != before
    assert changed.tolist() == [[False, True]]


@pytest.mark.parametrize("head", ["simcc", "offset", "rle", "gaussian_nll", "laplace_nll", "multi"])
def test_every_head_with_a_spread_can_have_it(head: str) -> None:
    parts: dict[str, Any] = {
        "multi": {"name": "multi", "heads": {"a": "simcc", "b": "rle"}},
        "offset": {"name": "offset", "stride": 4},
    }
    part = parts.get(head, head)
    model = model_with(head=part)
    assert model.infer(batch()["image"]).presence is not None
    assert "presence" in model.loss_terms(batch()).named


def test_a_temporal_head_can_have_it() -> None:
    head = {"name": "temporal", "head": {"name": "heatmap", "decoder": {"name": "top_down", "width": 8}}, "past": 1}
    model = stirred(model_with(head=head)).eval()
    clip = torch.rand(2, 4, 1, 32, 32)
    found = model.infer(clip).presence
    assert found is not None
    assert found.shape == (2 * 3, 3)
    output = model.output(clip).presence
    assert output is not None
    torch.testing.assert_close(output.sigmoid(), found)
    alone = model.infer(clip[1:, 1:4]).presence  # rows are the predicted frames, clip by clip
    torch.testing.assert_close(alone, found[4:])


@pytest.mark.parametrize(
    ("head", "message"), [("regression", 'head "regression" predicts no spread'), ("centers", "model.instances: true")]
)
def test_heads_that_cannot_have_it(head: str, message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        model_with(head=head)


def test_it_is_saved_loaded_and_taken_by_a_further_training(tmp_path: Path) -> None:
    model, images = stirred(model_with(presence={"hidden": 8})), batch()["image"]
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config.presence is not None
    assert loaded.config.presence.hidden == 8
    before, after = model.infer(images).presence, loaded.infer(images).presence
    torch.testing.assert_close(before, after)
    further = build_model({**CONFIG, "presence": {"hidden": 8}, "pretrained": str(tmp_path)}, skeleton=PAIR)
    torch.testing.assert_close(further.infer(images).presence, before)
    assert further.backbone.loaded is not None
    assert not further.backbone.loaded.unused
    wider = build_model({**CONFIG, "presence": True, "pretrained": str(tmp_path)}, skeleton=PAIR)
    assert wider.presence is not None
    assert (wider.presence.last == 0).all()


def test_mirrored_views_are_averaged() -> None:
    model, images = stirred(model_with()).eval(), batch()["image"]
    found = model.infer(images, TestTime(flip=True)).presence
    one, other = model.infer(images).presence, model.infer(images.flip(-1)).presence
    assert one is not None
    assert other is not None
    torch.testing.assert_close(found, (one + other[:, [1, 0, 2]]) / 2)


def test_logits_of_a_presence_are_those_it_came_from() -> None:
    logits = torch.tensor([[-30.0, -3.0, 0.2, 9.0, 30.0]])
    presence = with_presence(Keypoints(torch.zeros(1, 5, 2)), logits).presence
    assert presence is not None
    torch.testing.assert_close(presence_logits(presence)[:, 1:4], logits[:, 1:4], rtol=1e-3, atol=1e-3)
    assert presence_logits(presence).isfinite().all()
