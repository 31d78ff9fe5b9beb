"""The temporal head: what it sees, which frames it predicts, and that a video is predicted as its windows are."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from support.small_heads import build, features, total
from torch import Tensor

from kpnet import KpnetError, Predictor, TestTime, build_model, load_config
from kpnet.config.loading import load_config as load
from kpnet.data import SyntheticClips
from kpnet.data.build import build_splits
from kpnet.data.wrappers.windows import Windows
from kpnet.heads import window_of
from kpnet.heads.temporal import TemporalHead, TemporalOutput
from kpnet.models.build import load_model
from kpnet.models.ensemble import Ensemble
from kpnet.models.keypoint_model import KeypointModel

LAYERS = ["lstm", "gru", "rnn", "conv"]


def head(layer: str = "lstm", past: int = 2, future: int = 1, **options: Any) -> TemporalHead:
    built = build({"name": "temporal", "layer": layer, "past": past, "future": future, "width": 8, **options})
    assert isinstance(built, TemporalHead)
    torch.nn.init.normal_(built.last.weight)
    return built.eval()


def clip(frames: int, batch: int = 2, seed: int = 0) -> list[Tensor]:
    return [each.unflatten(0, (batch, frames)) for each in features(batch * frames, seed=seed)]


def model(layer: str = "lstm", **options: Any) -> KeypointModel:
    torch.manual_seed(0)
    inner = {"name": "heatmap", "decoder": {"name": "top_down", "width": 8}}
    built = build_model(
        backbone={"name": "conv_sandwich", "channels": [4, 8]},
        head={"name": "temporal", "layer": layer, "width": 8, "past": 2, "future": 1, "head": inner, **options},
        in_channels=1,
        input_size=32,
        skeleton="facial15",
    )
    torch.nn.init.normal_(built.head.last.weight)  # type: ignore[union-attr,arg-type]
    return built.eval()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_clip_is_predicted_where_the_window_is_inside(layer: str) -> None:
    temporal, maps = head(layer), clip(7)
    whole = temporal(maps).xy.unflatten(0, (2, 4))  # frames 2 to 5
    for b, frame in itertools.product(range(2), range(2, 6)):
        alone = temporal([each[b : b + 1, frame - 2 : frame + 2] for each in maps])
        assert alone.xy.shape == (1, 5, 2)
        torch.testing.assert_close(alone.xy[0], whole[b, frame - 2])
        torch.testing.assert_close(alone.frame.xy, temporal.head([each[b, frame][None] for each in maps]).xy)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("past", "future"), [(2, 1), (3, 0), (0, 2)])
def test_every_frame_of_the_window_counts_and_no_other(layer: str, past: int, future: int) -> None:
    """By the gradient of one prediction with respect to each frame."""
    temporal = head(layer, past, future)
    maps = [each.requires_grad_() for each in clip(7, batch=1)]
    predicted = range(past, 7 - future)
    output = temporal(maps)
    assert len(output.xy) == len(predicted)
    for row, frame in enumerate(predicted):
        (gradient,) = torch.autograd.grad(output.xy[row].square().sum(), maps[-1], retain_graph=True)
        seen = gradient.flatten(2).abs().sum(-1)[0] > 0
        assert seen.tolist() == [frame - past <= t <= frame + future for t in range(7)]


def test_it_begins_as_the_inner_head_and_a_still_image_stands_still() -> None:
    fresh = build({"name": "temporal", "past": 2, "width": 8}).eval()
    assert isinstance(fresh, TemporalHead)
    output = fresh(clip(5))
    assert torch.equal(output.xy, output.frame.xy)
    temporal, maps = head(), features(3)
    still = [each[:, None].expand(-1, 4, *each.shape[1:]) for each in maps]
    torch.testing.assert_close(temporal(maps).xy, temporal(still).xy)


def test_the_taps_are_a_filter_of_the_points_over_time() -> None:
    """With equal ones, the prediction is the mean of the window's points."""
    temporal = head()
    torch.nn.init.zeros_(temporal.last.weight)
    torch.nn.init.constant_(temporal.taps, 1 / 4)
    maps = clip(7, batch=1)
    inner = temporal.head([each[0] for each in maps]).xy
    expected = torch.stack([inner[i : i + 4].mean(0) for i in range(4)])
    torch.testing.assert_close(temporal(maps).xy, expected)


def test_moving_all_frames_alike_moves_the_prediction_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer sees points relative to the predicted frame's."""
    temporal = head(appearance=0, head={"name": "regression", "activation": "none"})
    output = temporal(clip(6))
    forward = type(temporal.head).forward

    def shifted(self: Any, maps: list[Tensor]) -> Any:
        given = forward(self, maps)
        given.xy = given.xy + torch.tensor([0.3, -0.2])
        return given

    monkeypatch.setattr(type(temporal.head), "forward", shifted)
    moved = temporal(clip(6))
    torch.testing.assert_close(moved.xy, output.xy + torch.tensor([0.3, -0.2]))
    assert output.offset.abs().max() > 1e-3


def test_the_prediction_is_the_inner_heads_but_for_the_points() -> None:
    temporal = head(
        head={"name": "multi", "heads": {"a": "rle", "b": {"name": "heatmap", "stages": 2, "decoding": "dark"}}}
    )
    output = temporal(clip(4))
    prediction, inner = temporal.infer(output), temporal.head.infer(output.frame)
    assert torch.equal(prediction.keypoints, inner.keypoints + output.offset)
    assert torch.equal(prediction.covariance, inner.covariance)  # type: ignore[arg-type]
    assert torch.equal(prediction.heatmaps, inner.heatmaps)  # type: ignore[arg-type]
    assert prediction.heatmaps is not None
    assert len(prediction.heatmaps) == 2
    target, weight = torch.rand(2, 5, 2), torch.ones(2, 5)
    terms = temporal.loss(output, target, weight)
    assert set(terms) == {"l1", "frame.a.nll", "frame.b.l1", "frame.b.cross_entropy"}
    torch.testing.assert_close(terms["l1"], (output.xy - target).abs().mean())


@pytest.mark.parametrize("layer", LAYERS)
def test_it_learns_to_average_what_the_inner_head_cannot(layer: str) -> None:
    """Noise on a point that stands still: over five frames its variance is a fifth."""
    temporal = head(layer, past=4, future=0, appearance=0, head={"name": "regression", "activation": "none"}, width=32)
    torch.nn.init.zeros_(temporal.last.weight)
    draw = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([*temporal.layer.parameters(), *temporal.last.parameters()], 3e-3)
    errors = []
    for _ in range(250):
        place = torch.rand(64, 1, 5, 2, generator=draw) - 0.5
        xy = (place + 0.05 * torch.randn(64, 5, 5, 2, generator=draw)).flatten(2)
        found = xy[:, -1].unflatten(1, (5, 2)) + temporal.correct(xy)
        error = (found - place[:, 0]).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item() / 0.05**2)
    assert np.mean(errors[-20:]) < 0.5
    assert errors[0] > 0.9


@pytest.mark.parametrize("layer", LAYERS)
def test_saved_and_loaded(layer: str, tmp_path: Any) -> None:
    before, images = model(layer), torch.rand(2, 5, 1, 32, 32)
    before.save(tmp_path)
    after = load_model(tmp_path)
    assert after.frame_window == (2, 1)
    torch.testing.assert_close(after.infer(images).keypoints, before.infer(images).keypoints)
    assert before(images).shape == (4, 15, 2)
    assert before(images[:, 0]).shape == (2, 15, 2)


def test_wrong_clips_and_options() -> None:
    for images, message in (
        (torch.rand(2, 3, 1, 32, 32), "clips of at least 4 frames, the head's window, got 3"),
        (torch.rand(2, 5, 3, 32, 32), r"expected images \(B, 1, H, W\)"),
    ):
        with pytest.raises(KpnetError, match=message):
            model()(images)
    still = build_model(backbone="conv_sandwich", head="heatmap", num_keypoints=2, in_channels=1, input_size=32)
    with pytest.raises(KpnetError, match=r"expected images \(B, 1, H, W\)"):
        still(torch.rand(2, 5, 1, 32, 32))
    for options, message in (
        ({"past": 0}, "there is no other frame"),
        ({"head": "temporal"}, "found another temporal one"),
        ({"layer": "lsmt"}, "layer"),
        ({"past": -1}, "past"),
    ):
        with pytest.raises(KpnetError, match=message):
            build({"name": "temporal", **options})
    with pytest.raises(KpnetError, match="has to contain the others"):
        build({"name": "multi", "heads": {"a": "temporal", "b": "rle"}})
    with pytest.raises(KpnetError, match="same window of frames"):
        Ensemble([model(), model(past=3)])


@pytest.mark.parametrize("batch_size", [1, 3, 4, 32])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_video_is_predicted_as_its_windows_are(batch_size: int, count: int) -> None:
    draw = np.random.default_rng(0)
    frames = [draw.integers(0, 255, (24, 40, 3), dtype=np.uint8) for _ in range(count)]
    predictor = Predictor(model(), batch_size=batch_size, device="cpu")
    found = list(predictor.track(iter(frames)))
    assert len(found) == count
    alone = Predictor(model(), batch_size=32, device="cpu")
    for t in range(count):
        window = [frames[min(max(i, 0), count - 1)] for i in range(t - 2, t + 2)]
        # Of a clip of four frames the third is the only one with a whole window.
        views = list(alone.track(iter(window)))
        np.testing.assert_allclose(found[t].keypoints, views[2].keypoints, atol=1e-3)
        assert found[t].confidence is not None
        assert found[t].keypoints.shape == (1, 15, 2)


def test_views_of_a_clip() -> None:
    """Mirrored, scaled and shifted as each of its frames would be."""
    views, images = TestTime(flip=True, scales=(0.9, 1.0), shift=1.0).views(), torch.rand(2, 3, 1, 16, 16)
    for view in views:
        shown = view.apply(images)
        for t in range(3):
            torch.testing.assert_close(shown[:, t], view.apply(images[:, t]))
    assert model().infer(torch.rand(1, 6, 1, 32, 32), TestTime(flip=True)).keypoints.shape == (3, 15, 2)


def test_windows_of_a_dataset() -> None:
    clips = SyntheticClips(2, frames=4, size=32)
    windows = Windows(clips, (2, 1))
    assert len(windows) == 8
    assert [windows.frames(i).tolist() for i in (0, 3, 4, 6)] == [
        [0, 0, 0, 1],
        [1, 2, 3, 3],
        [4, 4, 4, 5],
        [4, 5, 6, 7],
    ]
    item = windows[6]
    assert torch.equal(item["image"], torch.stack([clips[i]["image"] for i in (4, 5, 6, 7)]))
    assert torch.equal(item["keypoints"], clips[6]["keypoints"])
    assert item["index"] == 6
    with pytest.raises(IndexError):
        windows[8]


def test_frames_of_a_window_are_augmented_alike() -> None:
    transforms = [{"Affine": {"rotate": [-30, 30], "scale": [0.7, 1.3], "p": 1.0}}]
    spec = {"name": "temporal", "past": 3, "head": "heatmap"}
    values = {
        "model": {"backbone": "conv_sandwich", "head": spec, "in_channels": 1, "input_size": 64},
        "data": {"format": "synthetic_clips", "train": 2, "val": 1, "transforms": transforms},
    }
    train, val = build_splits(load_config(values), window_of(spec))
    assert val is not None
    train.set_epoch(0)
    plain = SyntheticClips(2, size=96, image_size=(64, 64), in_channels=1)
    for index in (5, 30):
        before = torch.stack([plain[i]["image"] for i in range(index - 3, index + 1)])
        after = train[index]["image"]
        assert after.shape == (4, 1, 64, 64)
        # One affine map takes the predicted frame's points to where they are now; it takes the other frames there too.
        old, new = (dataset[index]["keypoints"].numpy() for dataset in (plain, train))
        seen = train[index]["visible"].numpy()
        matrix, *_ = np.linalg.lstsq(np.c_[old, np.ones(15)][seen], new[seen], rcond=None)
        inverse = np.linalg.inv(np.c_[matrix, [0, 0, 1]])[:, :2].T
        grid = torch.nn.functional.affine_grid(
            torch.tensor(inverse).float().expand(4, 2, 3), [4, 1, 64, 64], align_corners=False
        )
        expected = torch.nn.functional.grid_sample(before, grid, align_corners=False)
        off = (after - expected).abs().mean((1, 2, 3))
        assert off.max() < 0.04, off  # noise, which is interpolated here and there
        assert (after - before).abs().mean() > 2 * off.max()
    first = train[5]["image"]
    train.set_epoch(1)
    assert not torch.equal(train[5]["image"], first)
    assert val[0]["image"].shape == (4, 1, 64, 64)


def test_data_that_has_no_clips() -> None:
    values = {
        "model": {"backbone": "conv_sandwich", "head": "temporal", "in_channels": 1},
        "data": {"format": "synthetic", "train": 4, "val": 2},
    }
    with pytest.raises(KpnetError, match=r'head "temporal" learns from consecutive frames.*synthetic_clips'):
        build_splits(load(values), window_of("temporal"))
    both = {**values, "data": {"format": "synthetic_clips", "train": 2, "fold": {"index": 0, "of": 2}}}
    with pytest.raises(KpnetError, match="would split clips"):
        build_splits(load(both), window_of("temporal"))
    parts = [{"file": 3, "format": "synthetic"}, {"file": 2, "limit": 30}, 1]
    mixed = {**values, "data": {"format": "synthetic_clips", "train": parts}}
    train, val = build_splits(load(mixed), window_of("temporal"))
    assert val is None
    expected = [0, 1, 2, *[3] * 24, *[4] * 6, *[5] * 24]
    _, ids = np.unique(train.clips(), return_inverse=True)
    assert ids.tolist() == expected


def test_a_loss_reaches_every_part() -> None:
    temporal = model().train()
    output = temporal.output(torch.rand(2, 4, 1, 32, 32))
    assert isinstance(output, TemporalOutput)
    total(temporal.head.loss(output, torch.rand(2, 15, 2), torch.ones(2, 15))).backward()
    assert all(p.grad is not None for p in temporal.parameters())
