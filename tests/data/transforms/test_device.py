"""Augmentation on the device: the image is the oracle for points, and `Augment` for what is drawn."""

from __future__ import annotations

import warnings
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ks_2samp
from torch import Tensor

from kpnet.coordinates import normalized_to_pixel, pixel_to_normalized
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import unit_images
from kpnet.data.transforms.augment import Augment
from kpnet.data.transforms.device import DeviceAugment
from kpnet.data.transforms.device_steps import BUILDERS

NO_PAIRS = Skeleton(("nose", "chin"))
FACE = Skeleton(("left", "right", "nose"), (("left", "right"),))
SIZES = [(96, 96), (72, 120)]
CONTRAST = {"brightness_limit": 0.3, "contrast_limit": 0.3}

# Every builder with the arguments that change its arithmetic.
CASES: dict[str, list[dict[str, Any]]] = {
    **{name: [{}] for name in ("HorizontalFlip", "VerticalFlip", "Transpose", "D4", "SquareSymmetry")},
    "RandomRotate90": [{}],
    "Rotate": [{"limit": 60}, {"limit": 60, "border_mode": 4}, {"limit": 60, "border_mode": 2}],
    "ShiftScaleRotate": [{"shift_limit": 0.2, "scale_limit": 0.3, "rotate_limit": 45}],
    "Affine": [
        {"rotate": [-10, 40], "scale": [0.8, 1.1], "translate_percent": [-0.05, 0.12], "keep_ratio": True},
        {"scale": {"x": [0.6, 1.6], "y": [0.8, 1.3]}, "shear": [-5, 20], "translate_px": [-3, 7], "border_mode": 1},
        {"scale": {"x": [-1.2, -0.8], "y": [0.8, 1.2]}, "fill": 100},
    ],
    "RandomBrightnessContrast": [CONTRAST, {**CONTRAST, "brightness_by_max": False}],
    "GaussNoise": [{"std_range": [0.05, 0.15]}, {"mean_range": [-0.2, 0.2], "per_channel": False}],
    "GaussianBlur": [{"sigma_limit": [0.5, 2.5]}, {"sigma_limit": [1, 3], "blur_limit": [3, 8]}],
    "CoarseDropout": [
        {"num_holes_range": [1, 3], "hole_height_range": [0.1, 0.4], "hole_width_range": [0.2, 0.3], "fill": 130},
        {"hole_height_range": [5, 20], "hole_width_range": [9, 40], "fill": "random_uniform"},
        {"fill": "random"},
    ],
}
FLAT = [(name, arguments) for name, cases in CASES.items() for arguments in cases]
GEOMETRIC = FLAT[: next(i for i, case in enumerate(FLAT) if case[0] == "RandomBrightnessContrast")]
CHAINS: list[list[Any]] = [
    ["HorizontalFlip", {"Affine": {"rotate": [-40, 40], "scale": [0.8, 1.2], "p": 0.9}}],
    [
        "HorizontalFlip",
        "VerticalFlip",
        {"Rotate": {"limit": 30}},
        {"RandomBrightnessContrast": CONTRAST},
        "HorizontalFlip",
    ],
    [{"Rotate": {"limit": 20, "border_mode": 1}}, {"Affine": {"scale": [0.9, 1.1], "fill": 40}}, "HorizontalFlip"],
]


def always(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: {**arguments, "p": 1.0}}


def blobs(size: tuple[int, int], xy: Tensor, peaks: Any = 1.0, sigma: float = 2.0) -> Tensor:
    """Images (B, 1, H, W) with a blob at each of the pixels (B, K, 2)."""
    y, x = torch.arange(size[0])[:, None], torch.arange(size[1])
    square = (x - xy[..., 0, None, None]) ** 2 + (y - xy[..., 1, None, None]) ** 2
    return (torch.as_tensor(peaks)[..., None, None] * torch.exp(-square / (2 * sigma**2))).sum(1, keepdim=True)


def batch_of(images: Tensor, xy: Tensor, size: tuple[int, int], weight: Tensor | None = None) -> dict[str, Tensor]:
    visible = torch.ones(xy.shape[:2], dtype=torch.bool)
    weight = visible.float() if weight is None else weight
    return {"image": images, "keypoints": pixel_to_normalized(xy, size), "visible": visible, "weight": weight}


def run(specs: list[Any], batch: dict[str, Any], size: tuple[int, int], skeleton: Skeleton, seed: int = 0) -> Any:
    return DeviceAugment(specs, skeleton, size)(batch, torch.Generator().manual_seed(seed))


def test_cases_cover_the_table() -> None:
    assert set(CASES) == set(BUILDERS)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("specs", [[always(*case)] for case in GEOMETRIC] + CHAINS, ids=str)
def test_keypoint_stays_on_its_blob(specs: list[Any], size: tuple[int, int]) -> None:
    """To 0.1 px, for each blob that the image's edge does not cut and no border reflects."""
    if DeviceAugment(specs, FACE, size).missing:
        assert size[0] != size[1]
        assert next(iter(specs[0])) in ("Transpose", "D4", "SquareSymmetry", "RandomRotate90")
        return
    count = 60
    xy = (torch.rand(count, 1, 2) * 0.4 + 0.3) * torch.tensor([size[1], size[0]])
    after = run(specs, batch_of(blobs(size, xy), xy.repeat(1, 3, 1), size), size, FACE, 1)
    moved = normalized_to_pixel(after["keypoints"], size)[:, 2]
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    image = after["image"][:, 0] - after["image"][:, 0].amin((1, 2), keepdim=True)
    near = (x - moved[:, 0, None, None]) ** 2 + (y - moved[:, 1, None, None]) ** 2 < 12**2
    mass = torch.where(near & (image > 0.012), image, 0)
    center = torch.stack([(mass * at).sum((1, 2)) / mass.sum((1, 2)) for at in (x, y)], -1)
    room = (moved > 25).all(1) & (moved < torch.tensor([size[1] - 26, size[0] - 26])).all(1)
    assert room.sum() > count / 5
    assert (center - moved).norm(dim=-1)[room].max() < 0.1


@pytest.mark.parametrize("border", [0, 1, 2, 4])
@pytest.mark.parametrize("fill", [0, 90])
def test_a_warp_is_opencvs(border: int, fill: float) -> None:
    """Arguments without a choice: both sides have the same matrix. OpenCV rounds weights and grey values."""
    fixed = {"rotate": [25, 25], "scale": [0.8, 0.8], "translate_px": [4, 4], "shear": {"x": [8, 8], "y": [-5, -5]}}
    specs = [always("Affine", {**fixed, "border_mode": border, "fill": fill})]
    size, rng = (60, 84), np.random.default_rng(0)
    image = np.clip(rng.normal(128, 20, (60, 84)).cumsum(1) % 255, 0, 255).astype(np.uint8)
    image = np.repeat(np.repeat(image[::4, ::4], 4, 0), 4, 1)
    xy = rng.uniform(20, 40, (3, 2))
    expected, moved = Augment(specs, FACE)(image, xy, 0)
    batch = batch_of(unit_images(torch.from_numpy(image.copy())[None, None]), torch.from_numpy(xy).float()[None], size)
    after = run(specs, batch, size, FACE)
    difference = (after["image"][0, 0] * 255 - torch.from_numpy(expected).float()).abs()
    assert difference.max() < 9  # where two flat areas meet, by their contrast of 255 / 32
    assert difference.mean() < 0.6
    np.testing.assert_allclose(normalized_to_pixel(after["keypoints"][0], size).numpy(), moved, atol=1e-3)


def measures(image: np.ndarray, point: np.ndarray) -> list[float]:
    """Where a point is, and what an image's grey values are like."""
    grey = image.astype(float)
    steps = np.abs(np.diff(grey, axis=-1))
    return [*point[:2], grey.mean(), grey.std(), steps.mean(), (steps == 0).mean(), grey[20, 20], (grey == 255).mean()]


@pytest.mark.parametrize(("name", "arguments"), FLAT)
def test_what_is_drawn_is_albumentations(name: str, arguments: dict[str, Any]) -> None:
    """Kolmogorov-Smirnov tests of what 300 draws of each lead to."""
    size, count, specs = (40, 40), 300, [{name: {**arguments, "p": 0.6}}]
    rng = np.random.default_rng(1)
    smooth = cv2.GaussianBlur(rng.normal(size=size), (0, 0), 3)
    image = (70 + 110 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    xy = np.array([[14.0, 22], [26, 18], [20, 25]])
    augment = Augment(specs, FACE)
    drawn = [augment(image, xy, seed) for seed in range(count)]
    theirs = [measures(after, moved[2]) for after, moved in drawn]
    batch = batch_of(unit_images(torch.from_numpy(image)[None, None].repeat(count, 1, 1, 1)),
                     torch.from_numpy(xy).float()[None].repeat(count, 1, 1), size)  # fmt: skip
    after = run([*specs], batch, size, FACE, 5)
    images = (after["image"][:, 0] * 255).round().byte().numpy()
    points = normalized_to_pixel(after["keypoints"], size)[:, 2].numpy().round(3)
    ours = [measures(*each) for each in zip(images, points, strict=True)]
    for a, b in zip(np.round(theirs, 3).T, np.round(ours, 3).T, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of ties
            agree = ks_2samp(a, b).pvalue > 1e-4
        # A flip of a flat measure differs by the last digit alone; ties are one value.
        assert agree or np.abs(np.sort(a) - np.sort(b)).max() < 0.6


def test_a_mirrored_image_swaps_left_and_right() -> None:
    """Brightness says which blob is where: left 1, right 0.6, nose 0.3; weights and visibility go with their points."""
    size, count = (96, 96), 40
    xy = (torch.tensor([[0.65, 0.45], [0.35, 0.4], [0.5, 0.65]]) * 96).repeat(count, 1, 1)
    weight = torch.tensor([0.75, 0.5, 0.25]).repeat(count, 1)
    batch = batch_of(blobs(size, xy, torch.tensor([1.0, 0.6, 0.3]), sigma=3), xy, size, weight)
    specs = ["D4", {"Affine": {"rotate": [-20, 20], "shear": [-9, 9], "p": 0.8}}, "HorizontalFlip"]
    after = run(specs, batch, size, FACE)
    seen = F.grid_sample(after["image"], after["keypoints"][:, :, None], align_corners=False)[:, 0, :, 0]
    mirrored = seen[:, 0] < seen[:, 1]
    assert 5 < mirrored.sum() < 35
    order = torch.where(mirrored[:, None], torch.tensor([1, 0, 2]), torch.tensor([0, 1, 2]))
    torch.testing.assert_close(seen, torch.tensor([1.0, 0.6, 0.3])[order], atol=0.05, rtol=0)
    assert torch.equal(after["weight"], torch.tensor([0.75, 0.5, 0.25])[order])
    sides = [torch.linalg.det(xy[:, 1:] - xy[:, :1]) for xy in (after["keypoints"], batch["keypoints"])]
    assert torch.equal(sides[0] > 0, sides[1] > 0)  # as an image of the world that is no mirror's
    batch["visible"][:, 1] = False
    absent = run(specs, batch, size, FACE)
    assert torch.equal(absent["visible"], torch.tensor([True, False, True])[order])
    assert not absent["weight"][~absent["visible"]].any()


def test_a_point_that_leaves_the_image_is_absent() -> None:
    size, xy = (40, 60), torch.tensor([[[5.0, 5], [59.4, 20], [20, 20]]])
    batch = batch_of(torch.zeros(1, 1, 40, 60), xy, size)
    specs = [always("Affine", {"translate_px": {"x": [-6, -6], "y": [0, 0]}})]
    after = run(specs, batch, size, FACE)
    assert after["visible"].tolist() == [[False, True, True]]
    assert after["weight"].tolist() == [[0, 1, 1]]
    assert after["keypoints"][0, 0].tolist() == [0, 0]
    torch.testing.assert_close(normalized_to_pixel(after["keypoints"], size)[0, 1:], xy[0, 1:] - torch.tensor([6.0, 0]))
    assert torch.equal(run(["GaussNoise"], batch, size, FACE)["keypoints"], batch["keypoints"])


EVERY = ["D4", {"Affine": {"rotate": [-30, 30]}}, "RandomBrightnessContrast", "GaussNoise", "GaussianBlur",
         {"CoarseDropout": {"fill": "random"}}]  # fmt: skip


def test_draws_follow_from_the_generator() -> None:
    size, xy = (32, 32), torch.full((8, 3, 2), 16.0)
    batch = batch_of(torch.rand(8, 1, 32, 32), xy, size)
    first, again, other = (run(EVERY, batch, size, FACE, seed)["image"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_frames_of_a_clip_change_alike() -> None:
    size, xy = (32, 32), torch.full((5, 3, 2), 16.0)
    frame = torch.rand(5, 3, 32, 32)
    specs = [*EVERY, {"RandomBrightnessContrast": {"brightness_by_max": False}}]
    one, clip = (
        run(specs, batch_of(images, xy, size), size, FACE) for images in (frame, frame[:, None].repeat(1, 4, 1, 1, 1))
    )
    assert clip["image"].shape == (5, 4, 3, 32, 32)
    torch.testing.assert_close(clip["image"], one["image"][:, None].expand(-1, 4, -1, -1, -1))
    assert torch.equal(clip["keypoints"], one["keypoints"])


@pytest.mark.parametrize(
    ("specs", "stay", "line"),
    [
        (["HorizontalFlip", {"Affine": {"rotate": 9}}, "GaussNoise"], 0, None),
        (["CLAHE", "HorizontalFlip"], 1, "on the CPU stay CLAHE"),
        (["HorizontalFlip", "CLAHE", {"Rotate": {"limit": 9}}, {"OneOf": ["Blur", "GaussNoise"]}, "D4"], 4,
         "on the CPU stay CLAHE, OneOf, and with them 2 that come before the last of them in data.transforms"),
        ([{"Affine": {"fit_output": True}}], 1, "on the CPU stay Affine"),
        ([{"CoarseDropout": {"fill": "inpaint_ns"}}], 1, "on the CPU stay CoarseDropout"),
        ([{"Rotate": {"crop_border": True}}, {"Rotate": {"interpolation": 2}}], 2, "on the CPU stay Rotate, Rotate"),
    ],
)  # fmt: skip
def test_what_stays_on_the_cpu_is_named(specs: list[Any], stay: int, line: str | None) -> None:
    augment = DeviceAugment(specs, FACE, (96, 96))
    assert augment.on_cpu == specs[:stay]
    assert len(augment.steps) == len(specs) - stay
    assert augment.describe() == (None if line is None else f"data.device_transforms: {line}")


def test_transforms_of_clips_that_exchange_height_and_width_stay() -> None:
    assert DeviceAugment(["Transpose", "HorizontalFlip"], FACE, (96, 64)).missing == ["Transpose"]


def test_a_mirror_needs_pairs() -> None:
    with pytest.raises(KpnetError, match=r"mirrors the image.*pairs"):
        DeviceAugment(["HorizontalFlip"], NO_PAIRS, (96, 96))
    assert DeviceAugment([{"Affine": {"shear": [-50, 50]}}], NO_PAIRS, (96, 96)).missing == ["Affine"]
    assert not DeviceAugment([{"Affine": {"shear": [-40, 40]}}], NO_PAIRS, (96, 96)).missing


def test_points_outside_of_the_image_are_absent_though_nothing_moves() -> None:
    """As `Augment` has it for any transform."""
    batch = {
        "image": torch.rand(2, 1, 96, 96),
        "keypoints": torch.tensor([[[0.5, 0.5], [1.2, 0.0]]]).repeat(2, 1, 1),
        "visible": torch.ones(2, 2, dtype=torch.bool),
        "weight": torch.ones(2, 2),
    }
    augment = DeviceAugment([{"RandomBrightnessContrast": CONTRAST}], NO_PAIRS, (96, 96))
    found = augment(batch, torch.Generator().manual_seed(0))
    assert found["visible"].tolist() == [[True, False]] * 2
    assert found["weight"].tolist() == [[1, 0]] * 2
    torch.testing.assert_close(found["keypoints"][:, 0], batch["keypoints"][:, 0])


def test_points_under_a_hole_are_not_present_and_stay_visible() -> None:
    """On a white image with repeated borders, only a hole is black."""
    move = {"Affine": {"rotate": [-40, 40], "scale": [0.8, 1.2], "border_mode": 1, "p": 1}}
    hole = {"num_holes_range": [1, 3], "hole_height_range": [0.2, 0.4], "hole_width_range": [0.2, 0.4], "p": 1}
    specs = [move, "HorizontalFlip", {"CoarseDropout": hole}, move, "HorizontalFlip"]
    xy = torch.rand(200, 3, 2, generator=torch.Generator().manual_seed(0)) * 35 + 30
    batch = batch_of(torch.ones(200, 1, 96, 96), xy, (96, 96))
    batch["present"] = torch.ones(200, 3)
    after = run(specs, batch, (96, 96), FACE)
    without = {key: value for key, value in batch.items() if key != "present"}
    for key, value in run(specs, without, (96, 96), FACE).items():
        assert torch.equal(value, after[key])
    x, y = normalized_to_pixel(after["keypoints"], (96, 96)).round().long().clamp(2, 93).unbind(-1)
    padded = F.unfold(after["image"], 5, padding=2).view(200, 25, 96, 96)
    around = padded[torch.arange(200)[:, None], :, y, x]  # (200, 3, 25)
    clear = after["visible"] & (around.amax(-1) - around.amin(-1) < 0.01)  # not at an edge of a hole
    assert clear.float().mean() > 0.6
    assert torch.equal(after["present"][clear] == 0, around[..., 0][clear] < 0.5)
    assert 0.05 < (after["present"][clear] == 0).float().mean() < 0.95


def test_what_leaves_the_image_is_not_present_and_unknown_stays_unknown() -> None:
    xy = torch.tensor([[[48.0, 48.0], [90.0, 48.0], [0.0, 0.0]]])
    batch = batch_of(torch.ones(1, 1, 96, 96), xy, (96, 96))
    batch["visible"][0, 2] = False
    batch["present"] = torch.tensor([[1.0, 1.0, torch.nan]])
    right = {"Affine": {"translate_px": {"x": [20, 20], "y": [0, 0]}, "p": 1}}
    for specs, expected in (([right], [1, 0, -1]), ([right, {"HorizontalFlip": {"p": 1}}], [0, 1, -1])):
        after = run(specs, batch, (96, 96), FACE)
        assert after["present"].nan_to_num(-1).tolist() == [expected]
        assert after["visible"].tolist() == [[value == 1 for value in expected]]
