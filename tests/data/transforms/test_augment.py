"""The image is the oracle: a blob and its keypoint go through together and must stay together."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import ROOT

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.transforms.augment import ERASING, GROUPS, MIRRORS, Augment, supported
from kpnet.data.transforms.matrices import GEOMETRIC, project

POINT = Skeleton(("point",))
FACE = Skeleton(("left", "right", "nose"), (("left", "right"),))
REFLECT = {"border_mode": cv2.BORDER_REFLECT_101}
SIZES = [(96, 96), (72, 120), (160, 100)]

# Every entry of GEOMETRIC with the arguments that change its arithmetic.
CASES: dict[str, list[dict[str, Any]]] = {
    **{name: [{}] for name in (*MIRRORS, "RandomRotate90", "Rotate", "SafeRotate", "ShiftScaleRotate")},
    "Rotate": [{"limit": 60}, {"limit": 25, "crop_border": True}, {"limit": 60, **REFLECT}],
    "SafeRotate": [{"limit": 60}],
    "ShiftScaleRotate": [{"shift_limit": 0.2, "scale_limit": 0.3, "rotate_limit": 45}],
    "Affine": [
        {"rotate": [-30, 30], "scale": [0.8, 1.2]},
        {"scale": {"x": [0.6, 1.6], "y": [0.8, 1.3]}, "shear": [-20, 20], "translate_percent": [-0.1, 0.1]},
        {"translate_px": [-9, 9], "rotate": [-180, 180], **REFLECT},
        {"rotate": [-40, 40], "fit_output": True},
        {"scale": {"x": [-1.2, -0.8], "y": [0.8, 1.2]}},
    ],
    # Mild ones: a perspective squeezes one side of a blob, and its centroid leaves its centre with sigma squared.
    "Perspective": [{"scale": 0.06}, {"scale": 0.06, "keep_size": False}, {"scale": 0.06, "fit_output": True}],
    "Pad": [{"padding": [5, 10, 20, 31]}, {"padding": 9, **REFLECT}],
    "PadIfNeeded": [{"min_height": 211, "min_width": 177, "position": "random"}],
    "Crop": [{"x_min": 7, "y_min": 3, "x_max": 90, "y_max": 70}],
    "CenterCrop": [{"height": 63, "width": 70}, {"height": 131, "width": 150, "pad_if_needed": True}],
    "RandomCrop": [{"height": 60, "width": 71}, {"height": 201, "width": 90, "pad_if_needed": True, **REFLECT}],
    "RandomCropFromBorders": [{}],
    "RandomResizedCrop": [{"size": [96, 96], "scale": [0.4, 1.0]}, {"size": [224, 160], "scale": [0.3, 0.9]}],
    "RandomSizedCrop": [{"min_max_height": [45, 70], "size": [224, 224]}],
    "CropAndPad": [{"percent": [-0.2, 0.2]}, {"px": [-9, 14], "keep_size": False}],
    "Resize": [{"height": 224, "width": 160}, {"height": 61, "width": 67}],
    "RandomScale": [{"scale_limit": [-0.3, 0.9]}],
    "LongestMaxSize": [{"max_size": 224}],
    "SmallestMaxSize": [{"max_size": 151}],
}


def blobs(size: tuple[int, int], xy: np.ndarray, peaks: Any = 255.0, sigma: float = 1.8) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = np.zeros(size)
    for (x, y), peak in zip(xy, np.broadcast_to(peaks, len(xy)), strict=True):
        image += peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.round(image).astype(np.uint8)


def centroid(image: np.ndarray, near: np.ndarray) -> np.ndarray | None:
    """Centroid of the blob nearest to a point (a reflecting border shows copies); None if the image's edge cuts it."""
    count, labels, boxes, centers = cv2.connectedComponentsWithStats((image >= 3).astype(np.uint8))
    if count == 1:
        return None
    label = 1 + np.argmin(np.linalg.norm(centers[1:] - near, axis=1))
    left, top, width, height, _ = boxes[label]
    if min(left, top) == 0 or left + width == image.shape[1] or top + height == image.shape[0]:
        return None
    rows, columns = np.nonzero(labels == label)
    return np.average(np.stack([columns, rows], axis=1), axis=0, weights=image[rows, columns].astype(float))


def worst_error(transforms: list[Any], size: tuple[int, int], draws: int = 40) -> float:
    """Largest distance in pixels between a blob and its keypoint, over the draws that leave the blob whole."""
    augment, errors = Augment(transforms, POINT), []
    rng = np.random.default_rng(size)
    for seed in range(draws):
        xy = rng.uniform(0.3, 0.7, (1, 2)) * (size[1], size[0])
        image, moved = augment(blobs(size, xy), xy, seed)
        assert image.shape == size
        if (found := centroid(image, moved[0])) is not None:
            errors.append(float(np.linalg.norm(found - moved[0])))
    assert len(errors) >= draws / 5, "the test's arguments move too many blobs out"
    return max(errors)


def always(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: {**arguments, "p": 1.0}}


def test_cases_cover_the_table() -> None:
    assert set(CASES) == set(GEOMETRIC)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "arguments"), [(name, a) for name, cases in CASES.items() for a in cases])
def test_keypoint_stays_on_its_blob(name: str, arguments: dict[str, Any], size: tuple[int, int]) -> None:
    assert worst_error([always(name, arguments)], size) < 0.1


CHAINS: list[list[Any]] = [
    [{"LongestMaxSize": {"max_size": 224}}, {"RandomCrop": {"height": 96, "width": 96, "pad_if_needed": True}}],
    [{"Affine": {"scale": [0.8, 1.0], "p": 1.0}}, {"Perspective": {"scale": 0.05, "p": 1.0}}, "D4", "HorizontalFlip"],
    [{"OneOf": [{"Resize": {"height": 160, "width": 224}}, {"Rotate": {"limit": 30}}, "VerticalFlip"]}, "Transpose"],
    [{"SomeOf": {"transforms": ["D4", {"RandomScale": {"p": 1.0}}, {"SafeRotate": {"limit": 9}}], "n": 2}}],
    [{"Sequential": {"transforms": ["HorizontalFlip", {"Pad": {"padding": 7}}], "p": 0.7}}, "Transpose"],
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("transforms", CHAINS)
def test_chains_and_groups_keep_the_blob(transforms: list[Any], size: tuple[int, int]) -> None:
    assert worst_error(transforms, size) < 0.1


@pytest.mark.parametrize("transforms", [[always(name, {})] for name in MIRRORS] + CHAINS[1:])
@pytest.mark.parametrize("size", SIZES[:2])
def test_a_mirrored_picture_swaps_left_and_right(transforms: list[Any], size: tuple[int, int]) -> None:
    """Brightness says which blob is where: left 250, right 160, nose 90. The image says if it was mirrored."""
    xy = np.array([[0.6, 0.45], [0.4, 0.4], [0.5, 0.6]]) * (size[1], size[0])
    augment, image, mirrored = Augment(transforms, FACE), blobs(size, xy, (250, 160, 90), sigma=3), 0
    for seed in range(30):
        after, moved = augment(image, xy, seed)
        columns, rows = moved.astype(np.float32).T[:, :, None]
        brightness = cv2.remap(after, columns, rows, cv2.INTER_LINEAR)[:, 0]
        bright, dim, nose = moved[np.argsort(brightness)[::-1]]
        assert (np.abs(np.sort(brightness)[::-1] - (250, 160, 90)) < 30).all(), "a point lies on no blob"
        is_mirrored = np.linalg.det([dim - bright, nose - bright]) * np.linalg.det([xy[1] - xy[0], xy[2] - xy[0]]) < 0
        np.testing.assert_array_equal(moved, (dim, bright, nose) if is_mirrored else (bright, dim, nose))
        mirrored += is_mirrored
    assert mirrored > 0


@pytest.mark.parametrize(("name", "options", "expected"), [
    ("OneOf", {"p": 0.5}, {0, 1, 2, 4}), ("SomeOf", {"n": 2}, {3, 5, 6}), ("Sequential", {"p": 0.5}, {0, 7}),
    ("SomeOf", {"n": 2, "replace": True}, {2, 3, 4, 5, 6, 8}),
])  # fmt: skip
def test_groups_apply_what_they_choose(name: str, options: dict[str, Any], expected: set[int]) -> None:
    moves = [{"Affine": {"translate_px": {"x": [x, x], "y": [0, 0]}, "p": 1.0}} for x in (1, 2, 4)]
    augment = Augment([{name: {"transforms": moves, **options}}], POINT)
    image, xy = np.zeros((9, 9), np.uint8), np.zeros((1, 2))
    assert {round(float(augment(image, xy, seed)[1][0, 0])) for seed in range(100)} == expected


points = st.lists(st.floats(-50, 200), min_size=6, max_size=6).map(lambda v: np.array(v).reshape(3, 2))


@given(xy=points, name=st.sampled_from(("HorizontalFlip", "VerticalFlip", "Transpose")), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_a_flip_twice_is_the_identity(xy: np.ndarray, name: str, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    after, moved = Augment([always(name, {})] * 2, FACE)(image, xy, seed)
    np.testing.assert_array_equal(after, image)
    np.testing.assert_allclose(moved, xy, atol=1e-12)
    once = Augment([always(name, {})], FACE)
    np.testing.assert_allclose(once(*once(image, xy, seed), seed)[1], xy, atol=1e-12)


@given(xy=points, absent=st.lists(st.booleans(), min_size=3, max_size=3), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_points_are_mapped_one_by_one(xy: np.ndarray, absent: list[bool], seed: int) -> None:
    """An absent point stays at its (swapped) index and changes no other; points outside are mapped like any."""
    augment = Augment([{"Affine": {"rotate": [-90, 90], "p": 1.0, **REFLECT}}, "Perspective", "HorizontalFlip"], FACE)
    image = np.zeros((60, 80), np.uint8)
    _, full = augment(image, xy, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, holed = augment(image, np.where(np.array(absent)[:, None], np.nan, xy), seed)
    _, marked = augment(image, np.where(np.array(absent)[:, None], np.nan, np.full((3, 2), 30.0)), seed)
    missing = np.isnan(marked)
    assert missing.all(1).sum() == sum(absent)
    np.testing.assert_array_equal(np.isnan(holed), missing | np.isnan(full))
    np.testing.assert_allclose(holed[~missing], full[~missing], atol=1e-9)


@given(xy=points, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_several_instances_move_as_each_alone(xy: np.ndarray, seed: int) -> None:
    augment = Augment([{"Affine": {"rotate": [-90, 90], "p": 1.0, **REFLECT}}, "Perspective", "HorizontalFlip"], FACE)
    image, several = np.zeros((60, 80), np.uint8), np.stack([xy, xy[::-1] + 3, np.full((3, 2), np.nan)])
    np.testing.assert_array_equal(augment(image, several, seed)[1], [augment(image, each, seed)[1] for each in several])


def test_points_that_leave_the_image_keep_index_and_place() -> None:
    xy = np.array([[5.0, 5.0], [90.0, 90.0], [50.0, 50.0]])
    _, moved = Augment([{"Affine": {"translate_px": {"x": -20, "y": 0}, "p": 1.0}}], FACE)(blobs((96, 96), xy), xy, 0)
    np.testing.assert_allclose(moved, xy - (20, 0))


def test_a_point_behind_the_horizon_is_absent() -> None:
    matrix = np.array([[1, 0, 0], [0, 1, 0], [-0.02, 0, 1.0]])
    np.testing.assert_array_equal(project(np.array([[10.0, 8], [60, 8]]), matrix), [[12.5, 10], [np.nan, np.nan]])


PHOTOMETRIC = [n for n in supported() if n not in (*GEOMETRIC, *GROUPS)]
GAUSSIAN = {"noise_type": "gaussian", "noise_params": {"mean_range": [0, 0], "std_range": [0.1, 0.1]}}
NEEDED: dict[str, dict[str, Any]] = {
    "AdditiveNoise": {**GAUSSIAN, "spatial_mode": "per_pixel"},
    "MotionBlur": {"allow_shifted": False, "direction_range": [0, 0]},
    "XYMasking": {"num_masks_x": 2, "num_masks_y": 2, "mask_x_length": 8, "mask_y_length": 8},
}


COLOUR_ONLY = {
    *("ChannelDropout", "ChromaticAberration", "HEStain", "ISONoise", "PlanckianJitter", "RandomFog"),
    *("RandomGravel", "RandomRain", "RandomSnow", "RandomSunFlare", "Spatter"),
}


def texture(side: int = 128) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(side, side)), (0, 0), 2.0)
    grey = 40 + 170 * (noise - noise.min()) / np.ptp(noise)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def shifts(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Least-squares shift (4, 2) of each quadrant in pixels; contrast and slow shading do not matter."""
    half, found = before.shape[0] // 2, []
    window = cv2.createHanningWindow((half, half), cv2.CV_64F)
    for y, x in ((0, 0), (0, half), (half, 0), (half, half)):
        p, q = (i[y : y + half, x : x + half].mean(2) for i in (before, after))
        p, q = (i - cv2.GaussianBlur(i, (0, 0), 6) for i in (p, q))
        gain = (window * p * q).sum() / (window * p * p).sum()
        slopes = np.stack(np.gradient(p)[::-1])
        moment = np.einsum("aij,bij,ij->ab", slopes, slopes, window) * gain
        found.append(-np.linalg.solve(moment, np.einsum("aij,ij->a", slopes, window * (q - gain * p))))
    return np.array(found)


@pytest.mark.parametrize("name", PHOTOMETRIC)
def test_photometric_transforms_move_nothing(name: str) -> None:
    image, xy = texture(), np.array([[20.0, 30.0]])
    augment, found = Augment([always(name, NEEDED.get(name, {}))], POINT), []
    for seed in range(25):
        after, moved = augment(image, xy, seed)
        np.testing.assert_array_equal(moved, xy)
        if name in ERASING:  # what it did not erase is where it was
            assert (after == image).mean() > 0.25
        elif name in ("Solarize", "RandomSnow"):  # contrast is reversed, but a pixel's value alone decides its new one
            pairs = np.stack([image, after], axis=-1).reshape(-1, 6)
            assert len(np.unique(pairs, axis=0)) == len(np.unique(image))
        else:
            found.append(shifts(image, after))
    assert not found or np.abs(np.median(found, axis=0)).max() < 0.1


@pytest.mark.parametrize("name", sorted({*PHOTOMETRIC, *GEOMETRIC}))
@pytest.mark.parametrize("shape", [(96, 96), (96, 96, 1), (96, 96, 3)])
def test_draws_depend_on_the_seed_alone(name: str, shape: tuple[int, ...]) -> None:
    arguments = CASES.get(name, [NEEDED.get(name, {})])[0]
    augment, xy = Augment([always(name, arguments)], POINT), np.array([[40.0, 50.0]])
    image = texture(96)[..., 0].reshape(96, 96, 1) if shape[2:] != (3,) else texture(96)
    image = np.ascontiguousarray(image.reshape(shape))
    original = image.copy()
    if name in COLOUR_ONLY and shape[2:] != (3,):
        with pytest.raises(KpnetError, match=f'"{name}": .*channel'):
            augment(image, xy, 7)
        return
    first = augment(image, xy, 7)
    np.random.seed(99)  # noqa: NPY002 (the global state is what must not matter)
    random.seed(99)
    cv2.setRNGSeed(99)
    pickle.loads(pickle.dumps(augment))(image, xy, 8)
    again = pickle.loads(pickle.dumps(augment))(image, xy, 7)
    assert first[0].shape == shape
    assert first[0].dtype == np.uint8
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(image, original)


SCRIPT = """
import hashlib, sys, numpy as np
from kpnet.data.transforms.augment import Augment
from kpnet.core.skeleton import Skeleton
gauss = {"mean_range": [0, 0], "std_range": [0.1, 0.1]}
noise = {"AdditiveNoise": {"noise_type": "gaussian", "noise_params": gauss, "spatial_mode": "shared", "p": 1}}
skeleton = Skeleton(("a", "b"), (("a", "b"),))
augment = Augment(["D4", "Affine", noise, {"OneOf": ["GaussNoise", "Perspective"]}], skeleton)
digest = hashlib.sha256()
for seed in eval(sys.argv[1]):
    image, xy = augment(np.full((32, 32), 99, np.uint8), np.array([[3.0, 4], [20, np.nan]]), seed)
    if seed == 5:
        digest.update(image.tobytes() + xy.tobytes())
print(digest.hexdigest())
"""


def test_processes_and_call_order_agree() -> None:
    runs = [subprocess.run([sys.executable, "-c", SCRIPT, seeds], capture_output=True, text=True, check=True)
            for seeds in ("[5]", "[9, 5, 1]", "range(6)")]  # fmt: skip
    assert len({run.stdout for run in runs}) == 1
    assert not any(run.stderr for run in runs)


NO_PAIRS = Skeleton(("nose", "chin"))


@pytest.mark.parametrize("spec", [*MIRRORS, {"Affine": {"scale": [-1, 1]}}, {"OneOf": ["Blur", "HorizontalFlip"]}])
def test_a_mirror_needs_pairs(spec: Any) -> None:
    with pytest.raises(KpnetError, match=r"mirrors the image.*pairs"):
        Augment([spec], NO_PAIRS)


def test_a_mirror_that_shows_late_needs_pairs_too() -> None:
    shear = Augment([{"Affine": {"shear": {"x": [60, 60], "y": [60, 60]}, "p": 1.0}}], NO_PAIRS)
    with pytest.raises(KpnetError, match="pairs"):
        shear(np.zeros((9, 9), np.uint8), np.zeros((2, 2)), 0)


@pytest.mark.parametrize(("spec", "message"), [
    ("HorizontalFlop", r'unknown transform "HorizontalFlop" \(did you mean "HorizontalFlip"\?\)'),
    (3, "expected a name or"),
    ({"Affine": {}, "Blur": {}}, "expected a name or"),
    ({"Affine": [1]}, r'transform "Affine": expected \{argument: value\}, found \[1\]'),
    ({"Affine": {"rotat": 9}}, r'"Affine": unknown argument "rotat" \(did you mean "rotate"\?\)'),
    ({"Affine": {"rotate": "fast"}}, r"\"Affine\": rotate: found 'fast', expected a valid tuple or .*number"),
    ({"Affine": {"p": 2}}, r'"Affine": p: found 2, expected less than or equal to 1$'),
    ({"Perspective": {"scale": -1}}, r'"Perspective": scale: found -1, '),
    ("RandomResizedCrop", r'"RandomResizedCrop": "size" is missing'),
    ("LongestMaxSize", r'"LongestMaxSize": Either max_size or max_size_hw must be specified'),
    ("ElasticTransform", r'"ElasticTransform" is not supported: .*use Affine or Perspective'),
    ("ThinPlateSpline", "use Affine or Perspective"), ("GridDistortion", "use Affine or Perspective"),
    ("Normalize", "normalises its input itself"), ("ZoomBlur", "use GaussianBlur"),
    ("Mosaic", r'"Mosaic" was not tested .*: HorizontalFlip, '), ("Compose", "not tested"),
    ("MotionBlur", "allow_shifted: false"), ("Downscale", "use GaussianBlur"),
    ({"Resize": {"height": 9, "width": 9, "interpolation": 0}}, r'"Resize": interpolation: nearest'),
    ({"OneOf": {"transform": []}}, r'unknown argument "transform" \(did you mean "transforms"\?\)'),
    ({"OneOf": {"transforms": ["Blur"], "p": "x"}}, "p: expected a probability"),
    ({"OneOf": None}, "expected a list"), ({"OneOf": []}, "expected a list of transforms, found nothing"),
    ({"OneOf": [{"Blur": {"p": 0}}]}, "every p in it is 0"),
    ({"SomeOf": {"transforms": ["Blur"], "n": 2}}, "n: expected 1 to 1, the number of transforms, found 2"),
])  # fmt: skip
def test_bad_config_is_one_clear_line(spec: Any, message: str) -> None:
    with pytest.raises(KpnetError, match=message) as caught:
        Augment([spec], FACE)
    assert "\n" not in str(caught.value)


def test_bad_calls() -> None:
    image, xy = np.zeros((20, 20), np.uint8), np.zeros((3, 2))
    with pytest.raises(KpnetError, match=r"shape \(2, 2\), expected \(3, 2 or more\)"):
        Augment([], FACE)(image, xy[:2], 0)
    with pytest.raises(KpnetError, match=r"shape \(4, 2, 2\), expected \(3, 2 or more\), or one such array for each"):
        Augment([], FACE)(image, np.zeros((4, 2, 2)), 0)
    with pytest.raises(KpnetError, match=r'"RandomCrop": Crop size'):
        Augment([{"RandomCrop": {"height": 40, "width": 4}}], FACE)(image, xy, 0)
    with pytest.raises(KpnetError, match="expected a list"):
        Augment({"Affine": {}}, FACE)  # type: ignore[arg-type]


CONFIGS = sorted(ROOT.glob("configs/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS or [pytest.param(None, marks=pytest.mark.skip(reason="configs/ is empty"))])
def test_shipped_configs_name_only_tested_transforms(path: Path) -> None:
    specs = yaml.safe_load(path.read_text(encoding="utf-8")).get("data", {}).get("transforms") or []
    for leaf in Augment(specs, FACE)._leaves:
        assert leaf.name in CASES or leaf.name in PHOTOMETRIC


def test_a_mirror_with_a_point_of_one_side_alone_is_refused() -> None:
    skeleton = Skeleton.from_names(["left_eye", "right_eye", "left_ear"])
    Augment(["Rotate"], skeleton)
    with pytest.raises(KpnetError, match='"left_ear" is in no left/right pair'):
        Augment(["HorizontalFlip"], skeleton)


@pytest.mark.parametrize(
    "spec",
    [
        {"Affine": {"rotate": [float("nan"), 1]}},
        {"Affine": {"scale": {"x": [0.9, float("inf")], "y": 1}}},
        {"GaussianBlur": {"blur_limit": 10**6}},
        {"CoarseDropout": {"num_holes_range": [1, 10**9]}},
        {"HorizontalFlip": {"p": float("nan")}},
        {"OneOf": {"transforms": [{"Rotate": {"limit": 10**30}}]}},
        {"SomeOf": {"transforms": ["HorizontalFlip"], "n": 10**9, "replace": True}},
    ],
    ids=str,
)
def test_numbers_that_no_image_needs(spec: dict[str, object]) -> None:
    with pytest.raises(KpnetError, match=r'^transform "\w+": \w+: expected .*, found ') as caught:
        Augment([spec], Skeleton.load("facial15"))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "hole",
    [
        {"CoarseDropout": {"num_holes_range": [2, 4], "hole_height_range": [0.2, 0.4], "p": 1}},
        {"Erasing": {"scale": [0.1, 0.3], "p": 1}},
        {"GridDropout": {"unit_size_range": [20, 30], "p": 1}},
        {"XYMasking": {"num_masks_x": 2, "num_masks_y": 2, "mask_x_length": 20, "mask_y_length": 20, "p": 1}},
        {"OneOf": [{"CoarseDropout": {"num_holes_range": [3, 3], "p": 1}}, {"Erasing": {"p": 1}}]},
    ],
    ids=lambda hole: next(iter(hole)),
)
def test_covered_points_are_those_under_a_hole_in_the_image(hole: dict[str, Any]) -> None:
    """On a white image with repeated borders, only a hole is black."""
    move = {"Affine": {"rotate": [-40, 40], "scale": [0.8, 1.2], "border_mode": cv2.BORDER_REPLICATE, "p": 1}}
    if "OneOf" in hole:
        hole["OneOf"] = {"transforms": [{"Sequential": {"transforms": [move, *hole["OneOf"]], "p": 1}}], "p": 1}
    augment = Augment([move, "HorizontalFlip", hole, move, "HorizontalFlip"], FACE)
    rng, found = np.random.default_rng(0), []
    for seed in range(60):
        image, points, covered = augment.with_covered(
            np.full((96, 96), 255, np.uint8), rng.uniform(30, 65, (3, 2)), seed
        )
        for (x, y), is_covered in zip(points.round().astype(int), covered, strict=True):
            around = image[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
            if 0 <= x < 96 and 0 <= y < 96 and around.min() == around.max():  # not at an edge of a hole
                assert is_covered == (around[0, 0] == 0)
                found.append(is_covered)
    assert 0.05 < np.mean(found) < 0.95
    assert len(found) > 60


def test_covered_points_of_several_instances_and_absent_ones() -> None:
    augment = Augment([{"CoarseDropout": {"hole_height_range": [10, 10], "hole_width_range": [10, 10], "p": 1}}], FACE)
    points = np.full((2, 3, 3), np.nan)
    points[1, 2] = 5, 5, 1
    covered = augment.with_covered(np.zeros((10, 10), np.uint8), points, 0)[2]
    assert covered.tolist() == [[False] * 3, [False, False, True]]
