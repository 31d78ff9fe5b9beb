"""What every dataset gives, whatever its format."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support.course import evaluate_model
from support.paths import SHARED
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kpnet import coordinates
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import KaggleCSV, KeypointDataset, SyntheticFaces
from kpnet.data.base import unit_images
from kpnet.data.transforms.augment import Augment
from kpnet.data.wrappers.concat import ConcatDataset, ConcatPart
from kpnet.data.wrappers.subset import Subset

FACES = SHARED / "data" / "faces15"
real_data = pytest.mark.skipif(not FACES.is_dir(), reason=f"no real faces at {FACES} (set KPNET_SHARED)")


class Given(KeypointDataset):
    """One image and its points, `n` times."""

    def __init__(self, image: np.ndarray, xy: Any, n: int = 4, **options: Any) -> None:
        super().__init__(**options)
        self.image, self.xy, self.n = image, np.asarray(xy, np.float64), n
        self.skeleton = Skeleton(tuple(f"p{k}" for k in range(len(xy))))

    def __len__(self) -> int:
        return self.n

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.image.copy(), self.xy.copy()


def blob(size: tuple[int, int], xy: Any, channels: int | None = None) -> np.ndarray:
    rows, columns = np.indices(size)
    image = 250 * np.exp(-((columns - xy[0]) ** 2 + (rows - xy[1]) ** 2) / (2 * 4.0**2))
    image = image.round().astype(np.uint8)
    return image if channels is None else np.repeat(image[..., None], channels, axis=2)


def centroid(image: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(image.shape)
    return np.array([(columns * image).sum(), (rows * image).sum()]) / image.sum()


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_dtypes_and_shapes(channels: int | None) -> None:
    item = Given(blob((40, 60), (20, 30), channels), [[20, 30], [np.nan, np.nan]])[2]
    assert set(item) == {"image", "keypoints", "visible", "weight", "index", "matrix"}
    assert {key: value.dtype for key, value in item.items() if key != "index"} == {
        "image": torch.float32, "keypoints": torch.float32, "visible": torch.bool, "weight": torch.float32,
        "matrix": torch.float32,
    }  # fmt: skip
    assert item["image"].shape == (channels or 1, 40, 60)
    assert item["keypoints"].shape == (2, 2)
    assert item["image"].max() == pytest.approx(250 / 255)
    assert item["index"] == 2


def test_missing_points_are_zero_and_weigh_nothing() -> None:
    item = Given(blob((8, 8), (4, 4)), [[3, 1], [np.nan, np.nan], [5, np.nan]])[0]
    assert item["visible"].tolist() == [True, False, False]
    assert item["weight"].tolist() == [1, 0, 0]
    assert item["keypoints"].tolist() == [[-1 / 8, -5 / 8], [0, 0], [0, 0]]  # (2x + 1) / 8 - 1


@pytest.mark.parametrize("source", [(40, 60), (60, 40), (50, 50), (37, 91)])
@pytest.mark.parametrize("target", [(96, 96), (64, 128), (33, 47), (24, 24)])
def test_the_letterbox_moves_points_with_the_picture(source: tuple[int, int], target: tuple[int, int]) -> None:
    point = np.array([0.4 * source[1], 0.55 * source[0]])
    data = Given(blob(source, point), [point], image_size=target)
    image, xy, matrix = data.sample_pixels(0)
    assert image.shape == target
    assert np.abs(centroid(image.astype(float)) - xy[0]).max() < 0.1
    assert np.allclose(coordinates.transform(xy, coordinates.invert(matrix)), [point], atol=1e-9)
    item = data[0]
    assert np.allclose(coordinates.normalized_to_pixel(item["keypoints"], target), xy, atol=1e-4)
    # The corners of the original lie on the edges of its copy.
    corners = np.array([[-0.5, -0.5], [source[1] - 0.5, source[0] - 0.5]])
    (left, top), (right, bottom) = coordinates.transform(corners, matrix)
    outside = np.ones(target, bool)
    outside[round(top + 0.5) : round(bottom + 0.5), round(left + 0.5) : round(right + 0.5)] = False
    assert not image[outside].any()
    assert right - left == pytest.approx(target[1]) or bottom - top == pytest.approx(target[0])


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    image = blob((30, 50), (20, 10))
    data = Given(image, [[20, 10]], image_size=(30, 50))
    pixels, xy, matrix = data.sample_pixels(0)
    assert np.array_equal(pixels, image)
    assert xy.tolist() == [[20, 10]]
    assert np.array_equal(matrix, np.eye(2, 3))


def test_grey_and_colour() -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    grey = Given(colour, [[0, 0]], in_channels=1)[0]["image"]
    expected = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)
    assert np.array_equal((grey[0] * 255).round().byte(), expected)
    three = Given(colour[..., 0], [[0, 0]], in_channels=3)[0]["image"]
    for channel in three:
        assert np.array_equal((channel * 255).round().byte(), colour[..., 0])
    with pytest.raises(KpnetError, match="4 channels"):
        Given(np.zeros((6, 5, 4), np.uint8), [[0, 0]], in_channels=3)[0]


def shift(image: np.ndarray, points: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    moved = np.random.default_rng(seed).integers(-3, 4, 2)
    return np.roll(image, moved[::-1], (0, 1)), points + np.array([*moved, 0])


def test_augmentation_draws_from_seed_epoch_and_index() -> None:
    def draws(seed: int, epoch: int) -> Tensor:
        data = Given(blob((20, 20), (10, 10)), [[10, 10]], n=8, transform=shift, seed=seed)
        data.set_epoch(epoch)
        return torch.stack([data[i]["keypoints"] for i in range(8)])

    first = draws(0, 0)
    assert torch.equal(first, draws(0, 0))
    assert not torch.equal(first, draws(0, 1))
    assert not torch.equal(first, draws(1, 0))
    assert len(torch.unique(first, dim=0)) > 3


def test_workers_that_live_on_see_the_new_epoch() -> None:
    data = Given(blob((20, 20), (10, 10)), [[10, 10]], n=4, transform=shift)
    loader = DataLoader(data, batch_size=4, num_workers=1, persistent_workers=True)
    for epoch in (0, 5):
        data.set_epoch(epoch)
        (batch,) = loader
        assert torch.equal(batch["keypoints"], torch.stack([data[i]["keypoints"] for i in range(4)]))
        assert batch["index"].tolist() == [0, 1, 2, 3]


def epochs(data: KeypointDataset, count: int, **options: Any) -> list[Tensor]:
    """The keypoints of each epoch, in the order of the samples, as somebody's own training loop sees them."""
    loader = DataLoader(data, batch_size=4, shuffle=True, **options)
    seen = []
    for _ in range(count):
        batches = list(loader)
        order = torch.cat([batch["index"] for batch in batches]).argsort()
        seen.append(torch.cat([batch["keypoints"] for batch in batches])[order])
    return seen


@pytest.mark.parametrize(
    "workers", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}], ids=["none", "new", "lasting"]
)
@pytest.mark.parametrize("copied", [False, True])
def test_a_plain_loop_sees_other_augmentations_in_each_epoch(workers: dict[str, Any], copied: bool) -> None:
    data: KeypointDataset = Given(blob((200, 200), (100, 100)), [[100, 100]], n=8, transform=wide_shift)
    data = copy.deepcopy(data) if copied else data
    torch.manual_seed(0)
    first = epochs(data, 4, **workers)
    assert len(torch.unique(torch.stack(first), dim=0)) == 4
    torch.manual_seed(0)
    assert all(map(torch.equal, first, epochs(data, 4, **workers)))
    torch.manual_seed(1)
    assert not torch.equal(first[0], epochs(data, 1, **workers)[0])


def wide_shift(image: np.ndarray, points: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return image, points + np.array([*np.random.default_rng(seed).uniform(-90, 90, 2), 0])


def test_without_augmentation_torchs_generator_is_left_alone() -> None:
    data = Given(blob((20, 20), (10, 10)), [[10, 10]])
    before = torch.get_rng_state()
    data[0]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))], ids=["deep", "pickle"]
)
def test_workers_of_a_copy_see_the_new_epoch(copied: Any) -> None:
    data = copied(Given(blob((20, 20), (10, 10)), [[10, 10]], n=4, transform=shift))
    loader = DataLoader(data, batch_size=4, num_workers=1, persistent_workers=True)
    for epoch in (0, 5):
        data.set_epoch(epoch)
        (batch,) = loader
        assert torch.equal(batch["keypoints"], torch.stack([data[i]["keypoints"] for i in range(4)]))


def test_points_that_a_transform_moves_off_the_image_are_not_visible() -> None:
    right = np.array([0.2, 0, 0])
    data = Given(
        blob((20, 20), (5, 5)), [[5, 5], [19.4, 3]], transform=lambda image, points, seed: (image, points + right)
    )
    assert data[0]["visible"].tolist() == [True, False]
    assert data[0]["keypoints"][1].tolist() == [0, 0]


class Constant(nn.Module):
    def __init__(self, xy: Tensor) -> None:
        super().__init__()
        self.xy = xy

    def forward(self, images: Tensor) -> Tensor:
        return self.xy.expand(len(images), 15, 2).reshape(len(images), 30)


def check_course_score(dataset: KeypointDataset) -> float:
    truth = torch.stack([dataset[i]["keypoints"] for i in range(len(dataset))]).double()
    mean = truth.mean(0)
    score = evaluate_model(Constant(mean.float()), dataset)
    assert score == pytest.approx(1 / (2 * float((truth - mean).square().mean())), rel=1e-4)
    return score


def test_the_courses_evaluation_loop_on_synthetic_faces() -> None:
    assert check_course_score(SyntheticFaces(20, seed=0)) > 1


@real_data
def test_the_courses_evaluation_loop_on_the_courses_file() -> None:
    score = check_course_score(KaggleCSV(FACES / "val.csv"))
    assert 18 < score < 25  # the mean face; with the file's own mean a little better than with training's 21


def test_what_a_format_does_not_say_of_a_sample() -> None:
    data = Given(blob((8, 8), (4, 4)), [[3, 1], [np.nan, np.nan]])
    assert data.box(0) is None
    assert data.instance(0) == 0
    assert data.visibility(0).tolist() == [2, 0]


class Boxed(Given):
    """Two samples an image, each with a box; the second point is hidden."""

    def image_name(self, index: int) -> str:
        return f"image {index // 2}"

    def instance(self, index: int) -> int:
        return index % 2

    def box(self, index: int) -> np.ndarray | None:
        return np.array([index, 0, index + 3, 5.0])

    def visibility(self, index: int) -> np.ndarray:
        return np.array([2, 1], np.uint8)


def test_boxes_instances_and_visibility_come_through_joining_and_folds() -> None:
    boxed = Boxed(blob((8, 8), (4, 4)), [[3, 1], [4, 2]])
    plain = Given(blob((8, 8), (4, 4)), [[3, 1], [4, 2]], n=2)
    skeleton = Skeleton(("p1", "p0"))
    joined = ConcatDataset(skeleton, [ConcatPart("plain", plain), ConcatPart("boxed", boxed)])
    assert joined.box(0) is None
    box = joined.box(4)
    assert box is not None
    assert box.tolist() == [2, 0, 5, 5]
    assert [joined.instance(i) for i in range(6)] == [0, 0, 0, 1, 0, 1]
    assert joined.image_name(2) == joined.image_name(3) != joined.image_name(4)
    assert [joined.visibility(i).tolist() for i in (0, 4)] == [[2, 2], [1, 2]]
    fold = Subset(joined, np.array([5, 1]))
    box = fold.box(0)
    assert box is not None
    assert box.tolist() == [3, 0, 6, 5]
    assert fold.box(1) is None
    assert fold.instance(0) == 1
    assert fold.visibility(0).tolist() == [1, 2]


class Hidden(Given):
    """Its first point is hidden."""

    def visibility(self, index: int) -> np.ndarray:
        return np.where(np.isfinite(self.xy).all(-1), [1, 2, 2, 2], 0).astype(np.uint8)


@pytest.mark.parametrize(("missing", "unlabelled"), [("unknown", None), ("absent", 0.0)])
def test_which_points_are_present(missing: Any, unlabelled: float | None) -> None:
    data = Hidden(blob((8, 8), (4, 4)), [[3, 1], [4, 2], [9, 2], [np.nan, np.nan]])
    assert "present" not in data[0]
    before = data[0]
    data.missing = missing
    skeleton = Skeleton(("p1", "p3", "p0"))
    joined = ConcatDataset(skeleton, [ConcatPart("hidden", data)])
    joined.missing = missing
    for found, expected in (
        (data, [0.0, 1.0, 0.0, unlabelled]),  # hidden, seen, outside of the image, without a label
        (Subset(data, np.array([2])), [0.0, 1.0, 0.0, unlabelled]),
        (joined, [1.0, unlabelled, 0.0]),
    ):
        present = found[0]["present"]
        assert present.dtype == torch.float32
        assert [None if np.isnan(value) else value for value in present.tolist()] == expected
    assert all(np.array_equal(value, data[0][key]) for key, value in before.items())


def test_what_augmentation_moves_out_or_covers_is_not_present() -> None:
    data = Given(blob((20, 20), (5, 5)), [[5, 5], [19.4, 3], [2, 2]])
    data.missing = "unknown"
    data.transform = lambda image, points, seed: (image, points + np.array([0.2, 0, 0, 0]))
    assert data[0]["present"].tolist() == [1, 0, 1]
    hole = {"hole_height_range": [20, 20], "hole_width_range": [20, 20], "p": 1}
    data.transform = Augment([{"CoarseDropout": hole}], data.skeleton)
    item = data[0]
    assert item["present"].tolist() == [0, 0, 0]
    assert item["visible"].all()
    assert item["weight"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_become_the_same_grey_values(channels: int) -> None:
    """A copy gives bytes, in the epoch of the dataset; converted, they are what the dataset gives."""
    dataset = SyntheticFaces(2, in_channels=channels, transform=Augment(["D4"], SyntheticFaces(1).skeleton))
    in_bytes = dataset.in_bytes()
    dataset.set_epoch(3)
    item, raw = dataset[1], in_bytes[1]
    assert raw["image"].dtype == torch.uint8
    assert torch.equal(unit_images(raw["image"]), item["image"])
    assert torch.equal(raw["keypoints"], item["keypoints"])
    assert unit_images(item["image"]) is item["image"]
    assert dataset[1]["image"].dtype == torch.float32
