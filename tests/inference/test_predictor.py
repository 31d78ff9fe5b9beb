"""Predictor: the image is the oracle. A blob that the model sees must come back as its place in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageOps
from torch import Tensor

from kpnet import KpnetError, Predictor, build_model
from kpnet.heads import Keypoints
from kpnet.heads.heatmap import HeatmapHead
from kpnet.inference.predictor import to_pixels
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


# What is given


def forms(pixels: np.ndarray) -> dict[str, Any]:
    planes = torch.from_numpy(pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())
    planes = planes[None] if pixels.ndim == 2 else planes
    return {
        "PIL": Image.fromarray(pixels),
        "uint8": planes,
        "float": planes.float() / 255,
        "bfloat16 of whole steps": (planes > 100).to(torch.bfloat16),
        "matrix": planes[0] if pixels.ndim == 2 else planes,
    }


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3), (3, 60)])
def test_every_form_of_an_image_is_the_same_image(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for name, form in forms(pixels).items():
        expected = np.where(pixels > 100, 255, 0) if "steps" in name else pixels
        assert np.array_equal(to_pixels(form), expected), name


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_modes_of_pil(mode: str) -> None:
    grey = np.arange(0, 240, 4).astype(np.uint8).reshape(6, 10)
    image = Image.fromarray(grey).convert("RGB" if mode in ("CMYK", "YCbCr") else "L").convert(mode)
    pixels = to_pixels(image)
    assert pixels.shape == ((6, 10) if mode in ("1", "L", "LA") else (6, 10, 3))
    if mode != "1":
        assert np.abs(pixels.astype(int) - (grey if pixels.ndim == 2 else grey[..., None])).max() <= 2


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "expected a file, .* found a NoneType"),
        (3, "found a int"),
        (b"x", "found a bytes"),
        (torch.zeros(40, 60, 3), r"expected a tensor \(C, H, W\) of 1 or 3 channels, found \(40, 60, 3\): use permute"),
        (torch.zeros(2, 3, 40, 60), "or a list for several images"),
        (torch.full((3, 40, 60), 255.0), r"in \[0, 1\], found 255 to 255: divide by 255"),
        (torch.full((3, 4, 6), torch.nan), "found nan to nan"),
        (torch.zeros(3, 4, 6, dtype=torch.int64), "int64"),
        (Image.new("I;16", (4, 4)), 'a PIL image of 8 bits, found the mode "I;16"'),
        (np.zeros((2, 4, 4, 3), np.uint8), "expected an image uint8"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image(image: Any, message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        Predictor(blob_finder())(image)


def test_a_list_is_several_images(tmp_path: Path) -> None:
    predictor, image = Predictor(blob_finder()), picture((40, 40), (20, 10))
    Image.fromarray(image).save(tmp_path / "a.png")
    single, boxed = predictor(image), predictor(image, [(2, 2, 38, 38)])
    found = predictor([image, str(tmp_path / "a.png"), Image.fromarray(image)], [None, None, [(2, 2, 38, 38)]])
    assert [each.image for each in found] == ["", str(tmp_path / "a.png"), ""]
    for each, expected in zip(found, (single, single, boxed), strict=True):
        assert np.array_equal(each.keypoints, expected.keypoints)
    assert predictor([]) == []
    with pytest.raises(KpnetError, match="each of the 1 images, found those of 2"):
        predictor([image], [None, None])


# The model


def test_a_model_in_training_stays_in_training() -> None:
    model = build_model(
        backbone={"name": "conv_sandwich", "channels": [4], "norm": "batch", "dropout": 0.5},
        head={"name": "heatmap", "stride": 2},
        num_keypoints=2,
        in_channels=1,
        input_size=32,
    )
    image = picture((32, 32), (20, 10))
    predictor = Predictor(model)
    assert isinstance(model.head, HeatmapHead)
    predicted = predictor(image)
    assert all(module.training for module in model.modules())
    assert np.array_equal(predictor(image).keypoints, predicted.keypoints)
    assert predictor.device.type == "cpu", "where the model is"
    with torch.no_grad():
        for parameter in model.head.maps.parameters():
            parameter.mul_(-3)
    assert not np.array_equal(predictor(image).keypoints, predicted.keypoints), "the weights of the moment"


@pytest.mark.parametrize("value", [0, -1, 2.5, None])
def test_a_batch_size_is_positive(value: Any) -> None:
    with pytest.raises(KpnetError, match="batch_size: expected a positive number"):
        Predictor(blob_finder(), batch_size=value)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(KpnetError, match=rf"device {device}: ") as caught:
        Predictor(blob_finder(), device=device)
    assert "\n" not in str(caught.value)


def run_of(folder: Path, bits: int | None) -> Path:
    """A run folder whose config says how its 16-bit images were read."""
    form = {"name": "points_csv"} if bits is None else {"name": "points_csv", "bits": bits}
    blob_finder().save(folder / "final")
    values = {"name": "deep", "model": {"backbone": "conv_sandwich", "head": "heatmap"}, "data": {"format": form}}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.mark.parametrize("place", ["", "final", "final/model.safetensors"])
def test_files_are_read_with_the_bits_of_the_run(place: str, tmp_path: Path) -> None:
    """A model without a run reads all 16 bits, and the argument wins."""
    deep = np.random.default_rng(0).integers(0, 4096, (32, 32), np.uint16)
    path, run = tmp_path / "deep.png", run_of(tmp_path / "run", 12)
    cv2.imwrite(str(path), deep)
    found, whole = Predictor(run / place), Predictor(run / place, bits=16)
    assert (found.bits, whole.bits, Predictor(blob_finder()).bits) == (12, 16, 16)
    for predictor, shift in ((found, 4), (whole, 8)):
        expected = predictor(np.repeat((deep >> shift).astype(np.uint8)[..., None], 3, -1))
        assert np.array_equal(predictor(path).keypoints, expected.keypoints)
    assert not np.array_equal(found(path).keypoints, whole(path).keypoints)


def test_runs_with_different_bits_do_not_read_one_file(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", 12), run_of(tmp_path / "b", None)]
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((32, 32), np.uint16))
    predictor = Predictor(runs)
    assert predictor(np.zeros((32, 32), np.uint8)).keypoints.shape == (1, 2, 2)
    with pytest.raises(KpnetError, match=r"b: was trained on images of 16 bits, and .*a of 12"):
        predictor(tmp_path / "x.png")
    assert np.isfinite(Predictor(runs, bits=12)(tmp_path / "x.png").keypoints).all()
    with pytest.raises(KpnetError, match="bits: expected 8 to 16"):
        Predictor(runs[0], bits=7)
