"""Predictor: the image is the oracle. A blob that the model sees must come back as its place in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kpnet import KpnetError, Predictor, build_model
from kpnet.heads import Keypoints
from kpnet.models.keypoint_model import KeypointModel

AWAY = (0.2, -0.1)  # the second point, normalised, from the first
COVARIANCE = torch.tensor([[0.04, 0.01], [0.01, 0.09]])


def centroid(images: Tensor) -> Tensor:
    """Normalised centre (B, 2) of the brightness of images (B, C, H, W) on black."""
    light = images.double().sum(1)
    height, width = light.shape[-2:]
    total = light.sum((-2, -1))
    x = (light.sum(-2) * torch.arange(width)).sum(-1) / total
    y = (light.sum(-1) * torch.arange(height)).sum(-1) / total
    return torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)


def blob_finder(size: Any = (32, 32), channels: int = 1) -> KeypointModel:
    """A model that predicts the blob's centre and a point beside it."""
    model = build_model(
        backbone={"name": "conv_sandwich", "channels": [4]},
        head={"name": "heatmap", "stride": 2},
        in_channels=channels,
        input_size=size,
        skeleton=["blob", "beside"],
    )

    def infer(images: Tensor, test_time: object = None) -> Keypoints:
        assert images.shape[1:] == (channels, *model.config.input_size)
        assert images.dtype == torch.float32
        assert images.max() <= 1
        xy = centroid(images)
        points = torch.stack([xy, xy + torch.tensor(AWAY)], 1)
        confidence = torch.stack([images.amax((1, 2, 3)), torch.zeros(len(images))], 1)
        return Keypoints(points, confidence, COVARIANCE.expand(len(images), 2, 2, 2))

    model.infer = infer  # type: ignore[method-assign]
    return model


def picture(size: tuple[int, int], *places: tuple[float, float], sigma: float | None = None) -> np.ndarray:
    """Grey uint8 of `size` (H, W) with a soft blob at each (x, y), in pixels whose centres are integers."""
    sigma = sigma or max(1.5, min(size) / 9)
    y, x = np.mgrid[: size[0], : size[1]]
    blobs = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)) for px, py in places]
    return np.round(250 * np.max(blobs, axis=0)).astype(np.uint8)


SIZES = [(32, 32), (96, 96), (20, 20), (33, 31), (50, 90), (90, 50), (200, 64), (64, 333), (240, 320), (24, 17)]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("inner", [(32, 32), (48, 32), (32, 64), (96, 96)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_pixels_of_the_original(size: tuple[int, int], inner: tuple[int, int]) -> None:
    predictor = Predictor(blob_finder(inner), device="cpu")
    for share in ((0.5, 0.5), (0.35, 0.6), (0.62, 0.4)):
        place = (share[0] * size[1] - 0.3, share[1] * size[0] + 0.2)
        found = predictor(picture(size, place)).keypoints
        assert found.shape == (1, 2, 2)
        assert np.abs(found[0, 0] - place).max() < 0.1


def test_a_wrong_half_pixel_would_be_seen() -> None:
    """The oracle is sharp: scaling from the corner instead of the centre is 0.5 px off at twice the size."""
    found = Predictor(blob_finder((64, 64)), device="cpu")(picture((32, 32), (12.0, 19.0))).keypoints[0, 0]
    assert np.abs(found - (12.0, 19.0)).max() < 0.05


@pytest.mark.parametrize(("size", "inner"), [((64, 64), (32, 32)), ((96, 48), (32, 16)), ((16, 32), (32, 64))])
def test_scale_of_distances_and_covariance(size: tuple[int, int], inner: tuple[int, int]) -> None:
    """Same aspect, so no border: what is normalised is normalised for the original too."""
    height, width = size
    answer = Predictor(blob_finder(inner), device="cpu")(picture(size, (width / 2, height / 2)))
    assert np.allclose(answer.keypoints[0, 1] - answer.keypoints[0, 0], (AWAY[0] * width / 2, AWAY[1] * height / 2))
    to_pixels = np.diag([width / 2, height / 2])
    assert answer.covariance is not None
    assert answer.covariance.shape == (1, 2, 2, 2)
    assert np.allclose(answer.covariance[0, 0], to_pixels @ COVARIANCE.numpy() @ to_pixels)


def test_covariance_beneath_a_border() -> None:
    """64x32 in 32x32: half the size, so a normalised unit is 32 original pixels along both axes."""
    answer = Predictor(blob_finder((32, 32)), device="cpu")(picture((64, 32), (15, 30)))
    assert answer.covariance is not None
    assert np.allclose(answer.covariance[0, 0], 32**2 * COVARIANCE.numpy())
    assert np.allclose(answer.keypoints[0, 1] - answer.keypoints[0, 0], 32 * np.array(AWAY))


# Boxes


def test_boxes() -> None:
    places = [(30.3, 40.6), (100.4, 52.2), (60.0, 90.9)]
    image = picture((120, 140), *places, sigma=2.5)
    boxes = [(x - 16.4, y - 15.2, x + 14.1, y + 20.7) for x, y in places]
    answer = Predictor(blob_finder(), device="cpu")(image, boxes)
    assert answer.keypoints.shape == (3, 2, 2)
    assert np.abs(answer.keypoints[:, 0] - places).max() < 0.1
    assert answer.confidence is not None
    assert answer.confidence.shape == (3, 2)


def test_a_box_beyond_the_border_is_cut() -> None:
    answer = Predictor(blob_finder(), device="cpu")(picture((60, 80), (12.5, 14.5), sigma=2), [(-30, -10, 28, 30)])
    assert np.abs(answer.keypoints[0, 0] - (12.5, 14.5)).max() < 0.1


@pytest.mark.parametrize(
    "box",
    [(10, 10, 5, 20), (10, 20, 20, 10), (200, 10, 220, 20), (-20, -20, -5, -5), (1, 2, 3), (0, 0, float("nan"), 9)],
)
def test_bad_boxes(box: tuple[float, ...]) -> None:
    with pytest.raises(KpnetError, match="box") as caught:
        Predictor(blob_finder(), device="cpu")(picture((60, 80), (12, 14)), [box])
    assert "80x60" in str(caught.value) or "four finite numbers" in str(caught.value)


def test_no_boxes_no_instances() -> None:
    answer = Predictor(blob_finder(), device="cpu")(picture((60, 80), (12, 14)), [])
    assert answer.keypoints.shape == (0, 2, 2)
    assert len(answer.to_frame()) == 0
    assert list(answer.to_frame().columns) == ["image", "instance", "name", "x", "y", "confidence"]


# Batches


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_stream_keeps_the_order(batch_size: int) -> None:
    rng = np.random.default_rng(0)
    items, truth = [], []
    for i in range(8):
        height, width = rng.integers(30, 90, 2)
        places = [(float(width * a), float(height * b)) for a, b in rng.uniform(0.4, 0.6, (1, 2))]
        image = picture((int(height), int(width)), *places)
        boxes = None if i % 3 else [(0, 0, width - 1, height - 1)] * (i % 4)  # 0, 3 and 2 instances
        items.append((f"image {i}", image, boxes))
        truth.append((1 if boxes is None else len(boxes), places[0]))
    answers = list(Predictor(blob_finder(), device="cpu", batch_size=batch_size).stream(iter(items)))
    assert [a.image for a in answers] == [f"image {i}" for i in range(8)]
    for answer, (count, place) in zip(answers, truth, strict=True):
        assert answer.keypoints.shape == (count, 2, 2)
        assert count == 0 or np.abs(answer.keypoints[:, 0] - place).max() < 0.1


def test_stream_reads_no_further_than_a_batch() -> None:
    read = []

    def images() -> Any:
        for i in range(9):
            read.append(i)
            yield str(i), picture((32, 32), (16, 16)), None

    next(Predictor(blob_finder(), device="cpu", batch_size=3).stream(images()))
    assert read == [0, 1, 2]


def test_frame() -> None:
    image = picture((60, 80), (20, 30), (60, 30), sigma=2)
    frame = Predictor(blob_finder(), device="cpu")(image, [(8, 18, 32, 42), (48, 18, 72, 42)]).to_frame()
    assert list(frame.columns) == ["image", "instance", "name", "x", "y", "confidence"]
    assert list(frame.instance) == [0, 0, 1, 1]
    assert list(frame.name) == ["blob", "beside"] * 2
    assert np.allclose(frame.loc[frame.name == "blob", ["x", "y"]], [(20, 30), (60, 30)], atol=0.1)
    assert np.allclose(frame.confidence, [250 / 255, 0] * 2, atol=0.1)


def test_frame_of_a_head_without_confidence() -> None:
    model = build_model(backbone="conv_sandwich", head="regression", num_keypoints=2, in_channels=1, input_size=32)
    answer = Predictor(model, device="cpu")(picture((32, 32), (9, 9)))
    assert answer.confidence is answer.covariance is None
    assert answer.to_frame().confidence.isna().all()


# Grey and colour


def test_grey_model_on_colour_and_colour_model_on_grey() -> None:
    grey = picture((60, 80), (31.2, 27.7))
    colour = np.repeat(grey[..., None], 3, axis=2)
    for channels in (1, 3):
        for image in (grey, grey[..., None], colour):
            found = Predictor(blob_finder(channels=channels), device="cpu")(image).keypoints[0, 0]
            assert np.abs(found - (31.2, 27.7)).max() < 0.1


def test_channels_are_red_green_blue(tmp_path: Path) -> None:
    """A red, a green and a blue blob in a file arrive in channels 0, 1 and 2."""
    seen = []
    model = blob_finder((60, 80), channels=3)
    infer = model.infer

    def watch(images: Tensor, test_time: object = None) -> Keypoints:
        seen.append(images)
        return infer(images)

    model.infer = watch  # type: ignore[method-assign]
    places = [(20, 20), (40, 40), (60, 20)]
    Image.fromarray(np.stack([picture((60, 80), p, sigma=3) for p in places], -1)).save(tmp_path / "rgb.png")
    Predictor(model, device="cpu")(tmp_path / "rgb.png")
    for channel, (x, y) in enumerate(places):
        flat = int(seen[0][0, channel].argmax())
        assert (flat % 80, flat // 80) == (x, y)


def test_too_many_channels() -> None:
    with pytest.raises(KpnetError, match="4 channels"):
        Predictor(blob_finder(), device="cpu")(np.zeros((32, 32, 4), np.uint8))


@pytest.mark.parametrize("image", [np.zeros((32, 32), np.float32), np.zeros(32, np.uint8), np.zeros((0, 4), np.uint8)])
def test_arrays_that_are_no_pictures(image: np.ndarray) -> None:
    with pytest.raises(KpnetError, match="uint8"):
        Predictor(blob_finder(), device="cpu")(image)


# Files


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "LA"])
def test_kinds_of_files(mode: str, tmp_path: Path) -> None:
    grey = Image.fromarray(picture((60, 80), (31.2, 27.7)))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        image = grey.convert(mode) if mode != "1" else grey.point(lambda v: 255 * (v > 100)).convert("1")
    image.save(tmp_path / "image.png")
    answer = Predictor(blob_finder(), device="cpu")(tmp_path / "image.png")
    assert np.abs(answer.keypoints[0, 0] - (31.2, 27.7)).max() < (0.25 if mode == "1" else 0.1)
    assert answer.image == str(tmp_path / "image.png")
    assert answer.names == ("blob", "beside")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation: int, tmp_path: Path) -> None:
    """Coordinates are those of the image as a viewer shows it."""
    stored = Image.fromarray(picture((60, 90), (21.0, 17.0)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "photo.jpg")))
    assert shown.shape == ((60, 90) if orientation < 5 else (90, 60))
    y, x = np.unravel_index(int(shown.argmax()), shown.shape)
    found = Predictor(blob_finder(), device="cpu")(tmp_path / "photo.jpg").keypoints[0, 0]
    assert np.abs(found - (x, y)).max() < 0.1


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    predictor = Predictor(blob_finder(), device="cpu")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    done, data = cv2.imencode(".png", picture((40, 40), (20, 20)))
    assert done
    (tmp_path / "half.png").write_bytes(data.tobytes()[:60])
    for name in ("text.png", "empty.png", "half.png", "missing.png", "."):
        with pytest.raises(KpnetError) as caught:
            predictor(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_path_of_a_run(trained: Path) -> None:
    answer = Predictor(trained, device="cpu")(picture((50, 50), (20, 20)))
    assert answer.names == ("left_eye", "right_eye", "nose")
    assert answer.keypoints.shape == (1, 3, 2)
    assert answer.covariance is not None
    assert np.isfinite(answer.covariance).all()
