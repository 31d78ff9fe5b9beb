"""The script beside an export prepares images as kpnet does, with numpy, Pillow and onnxruntime alone."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.exports import SIZE, Exports, odd_images

from kpnet.config.schema import ModelConfig
from kpnet.data import images
from kpnet.data.cropping import crop_region
from kpnet.export import reference

SCRIPT = Path(reference.__file__)
ABSENT = ("torch", "kpnet", "cv2", "timm", "torchvision", "pandas", "scipy")
STUB = """
import runpy, sys
sys.modules.update(dict.fromkeys({absent}))
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""

side = st.integers(1, 90)
kind = st.sampled_from(["noise", "steps", "flat", "binary"])
sizes = settings(max_examples=100)


def drawn(height: int, width: int, channels: int, kind: str, seed: int = 0) -> np.ndarray:
    """Noise, or what ties are made of: few levels, one apart, in stripes and blocks."""
    rng = np.random.default_rng([seed, height, width])
    shape = (height, width, channels)
    if kind == "noise":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if kind == "binary":
        return (255 * rng.integers(0, 2, shape)).astype(np.uint8)
    if kind == "flat":
        return np.full(shape, rng.integers(0, 256), np.uint8)
    rows, columns = np.arange(height)[:, None, None] // 2, np.arange(width)[None, :, None] // 2
    return ((100 + rows + columns + np.arange(channels)) % 256).astype(np.uint8)


@sizes
@given(height=side, width=side, rows=side, columns=side, channels=st.sampled_from([1, 3]), kind=kind)
@example(height=20, width=30, rows=10, columns=15, channels=1, kind="steps")
@example(height=30, width=30, rows=10, columns=10, channels=3, kind="steps")
@example(height=90, width=80, rows=9, columns=8, channels=1, kind="binary")
@example(height=40, width=60, rows=20, columns=20, channels=3, kind="steps")
@example(height=10, width=10, rows=20, columns=30, channels=1, kind="steps")
@example(height=10, width=80, rows=20, columns=8, channels=1, kind="noise")
@example(height=50, width=1, rows=7, columns=1, channels=1, kind="noise")
def test_resizing_is_that_of_kpnet(height: int, width: int, rows: int, columns: int, channels: int, kind: str) -> None:
    image = drawn(height, width, channels, kind)
    found, matrix = reference.resize(image, rows, columns)
    expected, own = images.crop(image, (0, 0, width, height), (rows, columns))
    assert np.array_equal(found, expected.reshape(found.shape))
    np.testing.assert_allclose(matrix, own, atol=1e-9)


@pytest.mark.parametrize("factor", [2, 3, 4, 7, 10])
@pytest.mark.parametrize("kind", ["noise", "steps", "binary"])
def test_images_that_are_several_times_larger(factor: int, kind: str) -> None:
    """A mean over whole pixels is often a tie, and OpenCV has two ways to round it."""
    for seed, channels in ((0, 1), (1, 3)):
        image = drawn(24 * factor, 36 * factor, channels, kind, seed)
        found = reference.resize(image, 24, 36)[0]
        expected = images.letterbox(image, (24, 36))[0]
        assert np.array_equal(found, expected.reshape(found.shape))


@sizes
@given(height=side, width=side, rows=side, columns=side, channels=st.sampled_from([1, 3]), kind=kind)
def test_letterboxing_is_that_of_kpnet(
    height: int, width: int, rows: int, columns: int, channels: int, kind: str
) -> None:
    image = drawn(height, width, channels, kind)
    found, matrix = reference.letterbox(image, (rows, columns))
    expected, own = images.letterbox(image, (rows, columns))
    assert np.array_equal(found, expected.reshape(found.shape))
    np.testing.assert_allclose(matrix, own, atol=1e-9)


edge = st.floats(-30, 120, allow_nan=False)


@sizes
@given(height=side, width=side, x=st.tuples(edge, edge), y=st.tuples(edge, edge), scale=st.floats(0.5, 2.0))
@example(height=40, width=60, x=(3.5, 20.5), y=(4.0, 9.0), scale=1.25)
def test_boxes_are_cropped_as_kpnet_does(
    height: int, width: int, x: tuple[float, float], y: tuple[float, float], scale: float
) -> None:
    image, box = drawn(height, width, 1, "noise"), (min(x), min(y), max(x), max(y))
    try:
        left, top, right, bottom = crop_region(box, scale, (height, width), SIZE)
    except ValueError:  # a box beside the image, of which kpnet makes an error
        return
    region = reference.region(box, image, scale, SIZE)
    assert tuple(region) == (left, top, right - left, bottom - top)
    found, matrix = reference.crop(image, region, SIZE)
    expected, own = images.crop(image, (left, top, right, bottom), SIZE)
    assert np.array_equal(found, expected.reshape(found.shape))
    np.testing.assert_allclose(matrix, own, atol=1e-6)


def test_grey_of_colours_is_that_of_kpnet() -> None:
    """All greens with some reds and blues: every way of rounding."""
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, np.arange(256, dtype=np.uint8), levels), -1).reshape(256, -1, 3)
    assert np.array_equal(reference.to_channels(colours, 1)[..., 0], images.to_channels(colours, 1))
    assert np.array_equal(reference.to_channels(colours[..., 0], 3), images.to_channels(colours[..., 0], 3))


def write_images(folder: Path) -> list[Path]:
    """A JPEG that is to be turned, 16-bit grey, a palette, grey with alpha, and colour."""
    colour, grey = odd_images(10)[4], odd_images(10)[3]
    paths = [folder / name for name in ("turned.jpg", "deep.png", "palette.png", "alpha.png", "colour.png")]
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    Image.fromarray(colour).save(paths[0], exif=exif)
    low = np.random.default_rng(0).integers(0, 256, grey.shape)
    cv2.imwrite(str(paths[1]), (grey.astype(np.uint16) * 256 + low).astype(np.uint16))
    Image.fromarray(colour).quantize(16).save(paths[2])
    Image.fromarray(np.stack([grey, 255 - grey], -1), "LA").save(paths[3])
    Image.fromarray(colour).save(paths[4])
    return paths


def test_files_are_read_as_kpnet_reads_them(tmp_path: Path) -> None:
    for path in write_images(tmp_path):
        found, expected = reference.read_image(path), images.read_image(path)
        assert np.array_equal(reference.to_channels(found, 3), images.to_channels(expected, 3)), path
        assert np.array_equal(reference.to_channels(found, 1)[..., 0], images.to_channels(expected, 1)), path


def table(*arguments: object) -> list[dict[str, str]]:
    """What the script writes where the packages that it does without cannot be imported."""
    command = [sys.executable, "-c", STUB.format(absent=ABSENT), SCRIPT, *arguments]
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return list(csv.DictReader(io.StringIO(done.stdout)))


@pytest.mark.parametrize("kind", ["dark", "regression", "temporal"])
def test_its_table_is_that_of_predictor_without_torch_and_kpnet(exports: Exports, tmp_path: Path, kind: str) -> None:
    """A head in colour, one without confidence, and one that looks at clips."""
    exported, paths = exports(kind), write_images(tmp_path)
    rows = table(exported.path, *paths)
    predictor = exported.predictor()
    expected = [row for path in paths for row in predictor(path).to_frame().to_dict("records")]
    assert len(rows) == len(expected)
    for found, own in zip(rows, expected, strict=True):
        assert (found["image"], found["instance"], found["name"]) == (own["image"], str(own["instance"]), own["name"])
        assert abs(float(found["x"]) - own["x"]) <= 1.5e-3  # it is rounded to three decimals
        assert abs(float(found["y"]) - own["y"]) <= 1.5e-3
        if "confidence" in exported.info.outputs:
            assert abs(float(found["confidence"]) - own["confidence"]) <= 1e-4
        else:
            assert found["confidence"] == ""


def test_boxes_at_the_command_line(exports: Exports, tmp_path: Path) -> None:
    exported, path = exports("rle"), write_images(tmp_path)[4]
    boxes = [(20.0, 30.0, 200.5, 180.0), (-40.0, 10.0, 90.0, 400.0)]
    rows = table(exported.path, path, *(each for box in boxes for each in ("--box", *box)))
    expected = exported.predictor()(path, boxes).keypoints.reshape(-1, 2)
    assert [row["instance"] for row in rows] == ["0"] * 3 + ["1"] * 3
    found = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    assert np.abs(found - expected).max() <= 1.5e-3


@pytest.mark.parametrize("box", [(1000, 1000, 1100, 1100), (10, 10, 5, 5), (0, 0, 0, 0), (np.nan, 0, 5, 5)])
def test_a_box_without_area(box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="no area on an image of 48x32"):
        reference.region(box, np.zeros((32, 48, 1), np.uint8), 1.25, SIZE)


def test_a_file_that_is_no_image_ends_it_with_one_line(exports: Exports, tmp_path: Path) -> None:
    good, bad = write_images(tmp_path)[0], tmp_path / "bad.png"
    bad.write_text("no image")
    command = [sys.executable, str(SCRIPT), str(exports("rle").path), str(good), str(bad)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{bad}: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout.count("\n") == 1 + 3


def test_it_is_short() -> None:
    assert len(SCRIPT.read_text().splitlines()) < 120


def test_the_channels_and_sizes_are_those_of_the_config() -> None:
    """`model_inputs`, which `Predictor` uses, is these functions and nothing more."""
    image = odd_images(1)[0]
    config = ModelConfig.model_validate({"backbone": "mlp", "head": "regression", "input_size": SIZE, "in_channels": 1})
    (expected, matrix), box = images.model_inputs(image, None, config)[0], (3.0, 5.0, 30.0, 20.0)
    grey = reference.to_channels(image, 1)
    found = reference.letterbox(grey, SIZE)
    assert np.array_equal(found[0][..., 0], expected)
    np.testing.assert_allclose(found[1], matrix)
    (expected, matrix) = images.model_inputs(image, [box], config)[0]
    found = reference.crop(grey, reference.region(box, grey, config.box_scale, SIZE), SIZE)
    assert np.array_equal(found[0][..., 0], expected)
    np.testing.assert_allclose(found[1], matrix)
