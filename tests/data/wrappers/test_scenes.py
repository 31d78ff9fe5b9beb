"""Whole images: the image is the oracle for points and boxes, and what is known beyond the samples counts."""

from __future__ import annotations

import logging
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support.format_files import brightest, coco_values, write_coco
from torch.utils.data import DataLoader, default_collate

from kpnet.config.schema import Fold
from kpnet.coordinates import invert, normalized_to_pixel, transform
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import COCO, KeypointDataset, SyntheticScenes
from kpnet.data.croppers import build_cropper
from kpnet.data.cropping import Cropper
from kpnet.data.surroundings import Surroundings
from kpnet.data.transforms.augment import Augment
from kpnet.data.wrappers.concat import ConcatDataset, ConcatPart
from kpnet.data.wrappers.scenes import Scenes, WithScenes
from kpnet.data.wrappers.subset import Subset, take_fold

SIDES = Skeleton(("left", "right", "nose"), (("left", "right"),))
BOXES = np.array([[19.5, 11.5, 59.5, 33.5], [69.5, 39.5, 95.5, 77.5]])  # drawn as rectangles in green and in blue
POINTS = np.array([[[26.0, 18.0], [52.0, 20.0], [40.0, 30.0]], [[74.0, 46.0], [90.0, 48.0], [80.0, 72.0]]])


def picture(points: np.ndarray = POINTS, boxes: np.ndarray = BOXES) -> np.ndarray:
    """Uint8 (100, 120, 3): dots in red, and each of two boxes in a channel of its own."""
    y, x = np.mgrid[:100, :120]
    image = np.zeros((100, 120, 3))
    for px, py in points.reshape(-1, 2)[np.isfinite(points).all(-1).ravel()]:
        image[..., 0] = np.maximum(image[..., 0], 250 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8))
    for channel, (x0, y0, x1, y1) in enumerate(boxes[:2], start=1):
        image[..., channel] = 250.0 * ((x > x0) & (x < x1) & (y > y0) & (y < y1))
    return image.round().astype(np.uint8)


class Drawn(KeypointDataset):
    """Images `a` with two instances, `b` with one, `c` with one that has no points but a box; `d` is empty."""

    def __init__(self, *, boxes: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.skeleton = SIDES
        absent = np.full((3, 2), np.nan)
        self.rows = [("a", POINTS[0], BOXES[0]), ("b", POINTS[0], BOXES[0]), ("a", POINTS[1], BOXES[1])]
        self.rows += [("c", absent, BOXES[1])]
        self.boxes = boxes

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self) -> np.ndarray:
        return np.array([np.isfinite(points).all(-1) for _, points, _ in self.rows])

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        own = [i for i, row in enumerate(self.rows) if row[0] == self.rows[index][0]]
        shown = POINTS if len(own) == 2 else self.rows[index][1]
        return picture(shown, BOXES if len(own) == 2 else self.rows[index][2][None]), self.rows[index][1].copy()

    def image_name(self, index: int) -> str:
        return self.rows[index][0]

    def box(self, index: int) -> np.ndarray | None:
        return self.rows[index][2].copy() if self.boxes else None

    def surroundings(self) -> list[Surroundings]:
        crowd = np.array([[0.0, 0.0, 30.0, 20.0]])
        return [Surroundings("b", "b", ignored=crowd), Surroundings("d", "d", partial(np.zeros, (50, 40, 3), np.uint8))]


def augment(*transforms: Any) -> Augment:
    return Augment(list(transforms), SIDES)


def always(name: str, **arguments: Any) -> dict[str, Any]:
    return {name: {**arguments, "p": 1.0}}


def pixels(values: torch.Tensor, size: tuple[int, int] = (100, 120)) -> np.ndarray:
    return normalized_to_pixel(values.double().numpy().reshape(*values.shape[:-1], -1, 2), size)


def instances(item: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Points (K, 2), visible (K,) and box (2, 2) in pixels of each instance of an item."""
    there = item["boxes"].isfinite().all(-1)
    assert not item["visible"][~there].any()
    assert not item["weight"][~there].any()
    points, boxes = pixels(item["keypoints"])[:, :, 0], pixels(item["boxes"])
    return [(points[k], item["visible"][k].numpy(), boxes[k]) for k in there.nonzero()[:, 0].tolist()]


MOVES = {
    "nothing": (),
    "flip": (always("HorizontalFlip"),),
    "upside down": (always("VerticalFlip"),),
    "half a turn": (always("Rotate", limit=[180, 180]),),
    "larger": (always("Affine", scale=[1.3, 1.3], translate_px={"x": [-5, -5], "y": [5, 5]}),),
    "wider": (always("Affine", scale={"x": [0.8, 0.8], "y": [1.1, 1.1]}),),
    "quarter turn": (always("Affine", rotate=[90, 90], scale=[0.8, 0.8]),),
    "both": (always("Affine", rotate=[-90, -90], scale=[0.7, 0.7]), always("HorizontalFlip")),
}


@pytest.mark.parametrize("name", MOVES)
def test_points_lie_on_their_dots_and_boxes_on_what_was_drawn(name: str) -> None:
    scenes = Scenes(Drawn(), (100, 120), 3, augment(*MOVES[name]))
    item = scenes[0]
    image = (item["image"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    found = instances(item)
    assert len(found) == 2
    for channel, (points, visible, box) in enumerate(found, start=1):
        assert visible.all()
        for point in points:
            assert np.abs(brightest(image, point) - point).max() < 0.3
        ys, xs = np.nonzero(image[..., channel] > 125)
        drawn = np.array([[xs.min() - 0.5, ys.min() - 0.5], [xs.max() + 0.5, ys.max() + 0.5]])
        np.testing.assert_allclose(box, drawn, atol=0.6)


def test_left_and_right_swap_in_each_instance() -> None:
    plain, mirrored = (
        instances(Scenes(Drawn(), (100, 120), 3, augment(*MOVES[name]))[0]) for name in ("nothing", "flip")
    )
    for (before, _, _), (after, _, _) in zip(plain, mirrored, strict=True):
        np.testing.assert_allclose(
            after, (119 - before[[1, 0, 2], 0])[:, None] * [1, 0] + before[[1, 0, 2]] * [0, 1], atol=1e-3
        )


def test_a_mirrored_turn_does_not_inflate_the_box_of_one_side() -> None:
    """Mirrored, the left point is in the place of the right one, which was absent before."""
    data = Drawn()
    data.rows = [("b", np.array([[50.0, 40.0], [np.nan] * 2, [np.nan] * 2]), np.array([40.0, 30.0, 60.0, 50.0]))]
    turn = augment(always("HorizontalFlip"), always("Rotate", limit=[30, 30]))
    _, visible, box = instances(Scenes(data, (100, 120), 3, turn)[0])[0]
    assert visible.tolist() == [False, True, False]
    np.testing.assert_allclose(box[1] - box[0], 20, rtol=1e-3)


def test_a_turn_does_not_inflate_boxes() -> None:
    """The box around the turned corners would be larger by half; the one around the points with its margins is not."""
    turned = Scenes(Drawn(), (100, 120), 3, augment(always("Affine", rotate=[45, 45], scale=[0.8, 0.8])))
    for (_, _, box), before in zip(instances(turned[0]), BOXES, strict=True):
        before_area = np.prod(before[2:] - before[:2]) * 0.8**2
        corners = np.hypot(*(before[2:] - before[:2])) * 0.8
        area = np.prod(box[1] - box[0])
        assert area < 1.35 * before_area
        assert (box[1] - box[0] < corners).all()


def test_the_whole_image_in_its_place_without_augmentation() -> None:
    scenes = Scenes(Drawn(), (64, 64), 1)
    assert [scenes.image_name(i) for i in range(len(scenes))] == ["a", "b", "c", "d"]
    batch = default_collate([scenes[i] for i in range(len(scenes))])
    assert batch["image"].shape == (4, 1, 64, 64)
    assert batch["boxes"].shape == (4, 2, 4)
    assert batch["keypoints"].shape == (4, 2, 3, 2)
    assert batch["visible"].shape == batch["weight"].shape == (4, 2, 3)
    assert batch["partial"].tolist() == [False] * 4
    assert batch["boxes"].isfinite().all(-1).sum(1).tolist() == [2, 1, 0, 0]
    assert batch["ignored"].isfinite().all(-1).sum(1).tolist() == [0, 1, 1, 0]  # b: a crowd, c: without points
    truth, item = scenes.truth(0), scenes[0]
    back = transform(pixels(item["boxes"], (64, 64)), invert(item["matrix"].double().numpy()))
    np.testing.assert_allclose(back.reshape(-1, 4), truth.boxes, atol=1e-3)
    np.testing.assert_array_equal(truth.boxes, BOXES)
    np.testing.assert_array_equal(truth.points, POINTS)
    np.testing.assert_array_equal(truth.areas, [40 * 22, 26 * 38])
    assert scenes.truth(2).ignored.tolist() == [BOXES[1].tolist()]
    assert scenes.truth(3).boxes.shape == (0, 4)
    assert scenes.labels().tolist() == [[True] * 3, [True] * 3, [False] * 3, [False] * 3]


def test_without_boxes_they_are_those_of_the_points() -> None:
    truth = Scenes(Drawn(boxes=False), (64, 64), 1).truth(0)
    np.testing.assert_array_equal(truth.boxes, np.concatenate([POINTS.min(1), POINTS.max(1)], -1))


def test_what_leaves_the_image_is_neither_right_nor_wrong() -> None:
    """The first instance's centre is moved off the image, and later all of it."""
    for shift, ignored in ((-45, 1), (-70, 0)):
        item = Scenes(Drawn(), (100, 120), 3, augment(always("Affine", translate_px={"x": [shift] * 2, "y": [0, 0]})))[
            0
        ]
        assert len(instances(item)) == 1
        assert int(item["ignored"].isfinite().all(-1).sum()) == ignored


def test_without_augmentation_an_instance_about_a_point_off_the_image_stays() -> None:
    """So that the samples of whole images are those of the crops, one for one."""
    data = Drawn(boxes=False)
    data.rows[0] = ("a", POINTS[0] - (80, 0), BOXES[0])
    item = Scenes(data, (100, 120), 3)[0]
    points, visible, _ = instances(item)[0]
    np.testing.assert_allclose(points, POINTS[0] - (80, 0), atol=1e-2)
    assert points[:, 0].max() < 0
    assert visible.all()
    assert len(instances(item)) == 2


def test_points_outside_are_not_visible_and_their_instance_stays() -> None:
    item = Scenes(Drawn(), (100, 120), 3, augment(always("Affine", translate_px={"x": [-35] * 2, "y": [0, 0]})))[0]
    _, visible, box = instances(item)[0]
    assert visible.tolist() == [False, True, True]
    np.testing.assert_allclose(box, BOXES[0].reshape(2, 2) - (35, 0), atol=1e-2)


def test_draws_follow_from_seed_epoch_and_index_in_bytes_and_in_workers() -> None:
    scenes = Scenes(Drawn(), (32, 32), 1, augment(always("Affine", rotate=[-90, 90])), seed=3)
    scenes.set_epoch(2)
    first, again = scenes[1], pickle.loads(pickle.dumps(scenes))[1]
    other = Scenes(Drawn(), (32, 32), 1, augment(always("Affine", rotate=[-90, 90])), seed=3).in_bytes()
    other.set_epoch(2)
    assert other[1]["image"].dtype == torch.uint8
    torch.testing.assert_close(first["boxes"], again["boxes"], equal_nan=True)
    torch.testing.assert_close(first["boxes"], other[1]["boxes"], equal_nan=True)
    other.set_epoch(3)
    assert not torch.equal(first["keypoints"], other[1]["keypoints"])


def test_crops_and_scenes_as_one_dataset() -> None:
    data = Drawn(image_size=(32, 32), in_channels=1, transform=augment(always("Affine", rotate=[-90, 90])), seed=1)
    data.cropper = build_cropper(data, "instance", 1.25, 0.1, 0.15)
    both = WithScenes(data, Scenes(data, (48, 64), 1))
    assert len(both) == 4  # three labelled instances on four images
    data.set_epoch(0)
    both.set_epoch(0)
    for index, sample in enumerate((0, 1, 2)):
        torch.testing.assert_close(both[index]["image"], data[sample]["image"])
    assert [both[i]["scene"]["index"] for i in range(4)] == [0, 1, 2, 3]
    assert both[3]["keypoints"].shape == (3, 2)
    assert not torch.equal(both[0]["keypoints"], both[3]["keypoints"])  # the same sample, drawn anew
    for batch in DataLoader(both.in_bytes(), 2):
        assert batch["image"].shape == (2, 1, 32, 32)
        assert batch["scene"]["image"].shape == (2, 1, 48, 64)
        assert batch["scene"]["image"].dtype == torch.uint8


def test_a_scene_that_is_repeated_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Drawn, "surroundings", lambda self: [])
    turn = augment(always("Affine", rotate=[-90, 90]))
    data = Subset(Drawn(image_size=(32, 32), transform=turn), np.array([0, 2]))  # both on one image
    both = WithScenes(data, Scenes(data, (48, 64)))
    both.set_epoch(0)
    assert len(both.scenes) == 1
    first, second = both[0]["scene"], both[1]["scene"]
    assert first["index"] == second["index"] == 0
    assert not torch.equal(first["keypoints"], second["keypoints"])
    torch.testing.assert_close(both[0]["scene"]["keypoints"], first["keypoints"])


@pytest.mark.parametrize("repeated", ["instances", "scenes"])
def test_repetitions_take_turns_over_the_epochs(repeated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images to three instances, or three instances to two images; until an epoch is set it is the first."""
    if repeated == "scenes":
        monkeypatch.setattr(Drawn, "surroundings", lambda self: [])
    data: KeypointDataset = Drawn() if repeated == "instances" else Subset(Drawn(), np.arange(3))
    both = WithScenes(data, Scenes(data, (48, 64)))
    count, images = len(both), len(both.scenes)
    assert (count, images) == ((4, 4) if repeated == "instances" else (3, 2))

    def seen() -> list[tuple[int, int]]:
        items = [both[index] for index in range(count)]
        for item in items:
            np.testing.assert_array_equal(item["keypoints"], data[item["index"]]["keypoints"])
        return [(item["index"], item["scene"]["index"]) for item in items]

    epochs = [seen()]
    for epoch in range(6):
        both.set_epoch(epoch)
        epochs.append(seen())
    assert epochs[0] == epochs[1]
    every = [pair for epoch in epochs[1:] for pair in epoch]
    for place, size in ((0, 3), (1, images)):
        assert np.ptp(np.bincount([pair[place] for pair in every], minlength=size)) == 0


def test_parts_keep_what_they_know() -> None:
    """Each file has its own augmentation and may be partly labelled; the same names are not the same images."""
    flip = augment(*MOVES["flip"])
    joined = ConcatDataset(SIDES, [ConcatPart("x", Drawn(), transform=flip), ConcatPart("y", Drawn(), partial=True)])
    scenes = Scenes(joined, (100, 120), 3)
    names = [scenes.image_name(i) for i in range(len(scenes))]
    assert names == ["x:a", "x:b", "x:c", "y:a", "y:b", "x:d"]  # y:c and y:d have no instance, and are partly labelled
    assert [bool(scenes[i]["partial"]) for i in range(6)] == [False, False, False, True, True, False]
    first, later = (instances(scenes[names.index(name)])[0][2] for name in ("x:a", "y:a"))
    np.testing.assert_allclose(first[:, 0], 119 - later[::-1, 0], atol=1e-3)
    assert scenes.transform_of(5) is flip


def test_a_limit_leaves_images_partly_labelled() -> None:
    scenes = Scenes(ConcatDataset(SIDES, [ConcatPart("x", Drawn(), count=2)]), (64, 64))
    assert {scenes.image_name(i): scenes.truth(i).partial for i in range(len(scenes))} == {"a": True, "b": False}


def test_folds_share_no_image_with_and_without_instances() -> None:
    data = SyntheticScenes(24, size=64, seed=1)
    seen: list[str] = []
    for index in range(3):
        sides = [take_fold(data, Fold(index=index, of=3), held=held) for held in (False, True)]
        train, val = ({s.image_name(i) for i in range(len(s))} for s in (Scenes(side, (64, 64)) for side in sides))
        assert not train & val
        assert len(train | val) == 24
        assert not any(truth.partial for truth in map(Scenes(sides[1], (64, 64)).truth, range(len(val))))
        seen += val
    assert sorted(seen) == sorted(map(str, range(24)))


def test_some_samples_of_an_image_leave_it_partly_labelled() -> None:
    scenes = Scenes(Subset(Drawn(), np.array([0, 1])), (64, 64))
    assert [scenes.truth(i).partial for i in range(2)] == [True, False]


def test_coco_images_without_instances(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = coco_values()
    nothing = [0] * 9
    for number, name in enumerate(
        ["empty.png", "crowd.png", "bare.png", "open.png", "boxless.png", "none.png", "missing.png"]
    ):
        values["images"].append({"id": number, "file_name": name, "height": 20, "width": 30})
    values["images"][-4]["kpnet"] = {"partial": True}
    values["annotations"] += [
        {"id": 50, "image_id": 1, "category_id": 1, "iscrowd": 1, "keypoints": nothing, "bbox": [2, 3, 10, 8]},
        {"id": 51, "image_id": 2, "category_id": 1, "iscrowd": 0, "keypoints": nothing, "bbox": [5, 5, 4, 4]},
        {"id": 52, "image_id": 4, "category_id": 1, "iscrowd": 0, "keypoints": nothing},
        {"id": 53, "image_id": 100, "category_id": 1, "iscrowd": 1, "keypoints": nothing, "bbox": [60, 1, 10, 9]},
        {"id": 54, "image_id": 101, "category_id": 1, "iscrowd": 0, "keypoints": [1, 1, 2], "bbox": [1, 1, 9, 9]},
        {"id": 55, "image_id": 102, "category_id": 1, "iscrowd": 0, "keypoints": [1, 1, 2]},
        {"id": 56, "image_id": 5, "category_id": 1, "iscrowd": 0, "keypoints": nothing, "bbox": [0, 0, 0, 0]},
    ]
    path = write_coco(tmp_path, values)
    for name in ("empty", "crowd", "bare", "open", "boxless", "none"):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.zeros((20, 30), np.uint8))
    data = COCO(path)
    assert len(data) == 4  # the samples are as without them
    assert len(data.ignored.image_ids) == 1
    with caplog.at_level(logging.WARNING, logger="kpnet"):
        scenes = Scenes(data, (64, 64), 1)
    assert "1 images without an instance cannot be read, and are left out: missing.png" in caplog.text
    truth = {scenes.image_name(i): scenes.truth(i) for i in range(len(scenes))}
    assert set(truth) == {"a.png", "b.png", "c.png", "empty.png", "crowd.png", "bare.png", "none.png"}
    assert {name: each.ignored.tolist() for name, each in truth.items() if len(each.ignored)} == {
        "a.png": [[59.5, 0.5, 69.5, 9.5]],
        "b.png": [[0.5, 0.5, 9.5, 9.5]],  # an annotation that cannot be used
        "crowd.png": [[1.5, 2.5, 11.5, 10.5]],
        "bare.png": [[4.5, 4.5, 8.5, 8.5]],
    }
    assert [name for name, each in truth.items() if each.partial] == ["c.png"]  # nobody knows where that one is
    areas = [row["area"] for row in coco_values()["annotations"]]
    np.testing.assert_allclose(truth["a.png"].areas, areas[:2])
    assert scenes[list(truth).index("empty.png")]["image"].shape == (1, 64, 64)
    assert str(scenes.image_file(list(truth).index("empty.png"))).endswith("images/empty.png")


@pytest.mark.parametrize("empty", [False, True])
def test_an_instance_without_points_and_box_leaves_its_image_partly_labelled(tmp_path: Path, empty: bool) -> None:
    values = coco_values()
    values["images"].append({"id": 1, "file_name": "lost.png"})
    for box, image in (({}, 1), ({}, 100), ({"bbox": [0, 0, 0, 0]}, 101)):
        values["annotations"].append({"id": 50 + image, "image_id": image, "category_id": 1, **box})
    path = write_coco(tmp_path, values)
    cv2.imwrite(str(tmp_path / "images" / "lost.png"), np.zeros((20, 30), np.uint8))
    scenes = Scenes(COCO(path, empty=empty), (64, 64))
    partial = {scenes.image_name(i): scenes.truth(i).partial for i in range(len(scenes))}
    assert partial == {"a.png": True, "b.png": True, "c.png": False}


def test_images_that_nobody_has_looked_at_are_not_empty(tmp_path: Path) -> None:
    """In a file of `kpnet label`, an image without annotations is one that waits."""
    values = coco_values() | {"info": {"kpnet_label": 1}}
    values["images"].append({"id": 1, "file_name": "new.png"})
    values["annotations"].append(
        {"id": 60, "image_id": 2, "category_id": 1, "keypoints": [0] * 9, "bbox": [0, 0, 0, 0]}
    )
    values["images"].append({"id": 2, "file_name": "none.png"})
    path = write_coco(tmp_path, values)
    for name in ("new", "none"):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.zeros((20, 30), np.uint8))
    scenes = Scenes(COCO(path), (64, 64))
    assert [scenes.image_name(i) for i in range(len(scenes))][3:] == ["none.png"]


def test_instances_that_a_setting_leaves_out_are_no_background(tmp_path: Path) -> None:
    data = COCO(write_coco(tmp_path), complete_only=True)  # c.png lacks a point
    scenes = Scenes(data, (64, 64))
    assert [scenes.image_name(i) for i in range(len(scenes))] == ["a.png", "b.png", "c.png"]
    assert len(scenes.truth(2).ignored) == 1


def test_cached_images_are_those_of_the_scenes(tmp_path: Path) -> None:
    data = COCO(write_coco(tmp_path))
    plain = Scenes(data, (64, 64))[0]["image"]
    data.cache_images(10**6)
    for _ in range(2):
        torch.testing.assert_close(Scenes(data, (64, 64))[0]["image"], plain)


def test_nothing_to_learn_from_is_an_error() -> None:
    data = Drawn()
    data.rows = data.rows[:0]
    data.surroundings = lambda: []  # type: ignore[method-assign]
    data.labels = lambda: np.zeros((0, 3), bool)  # type: ignore[method-assign]
    data.cropper = Cropper("instance", fallback_side=1.0)
    with pytest.raises(KpnetError, match="no image has a labelled instance, or is known to have none"):
        Scenes(data, (64, 64))
