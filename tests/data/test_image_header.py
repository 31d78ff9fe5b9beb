"""What is known of an image before it is decoded: limits, and files of several images."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from kpnet.core.errors import KpnetError
from kpnet.data import images
from kpnet.data.image_header import MAX_PIXELS, max_pixels
from kpnet.data.images import image_problem, read_image, read_image_size


def png(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel, and of hardly any bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (16, 16)).save(file, "JPEG")
        data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".tiff", np.zeros((8, 8, 3), np.uint16))[1].tobytes())  # Pillow opens none
    at = struct.unpack("<I", data[4:8])[0] + 2
    for tag, value in enumerate((width, height)):
        entry = at + 12 * tag
        data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, value)
    return bytes(data)


def ppm(width: int, height: int) -> bytes:
    return f"P6 {width} {height} 255\n".encode() + bytes(100)


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(data: np.ndarray) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(images, "_with_opencv", decode)
    monkeypatch.setattr(images, "_with_pillow", decode)


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("make", [png, jpeg, tiff, ppm])
@pytest.mark.parametrize("size", [(32_000, 32_000), (13_378, 13_378), (60_000, 60_000)])
def test_too_many_pixels_are_refused_before_they_are_decoded(
    tmp_path: Path, make: Callable[[int, int], bytes], size: tuple[int, int]
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(make(*size))
    assert path.stat().st_size < 3000
    message = f"a.png: {size[0] * size[1]} pixels, expected at most 178956970"
    for function in (read_image, read_image_size):
        with pytest.raises(KpnetError, match=message) as caught:
            function(path)
        assert f"KPNET_MAX_IMAGE_PIXELS={size[0] * size[1]}" in str(caught.value)


def test_the_limit_can_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert max_pixels() == MAX_PIXELS
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    for limit, problem in (("1199", "1200 pixels, expected at most 1199"), ("1200", None)):
        monkeypatch.setenv("KPNET_MAX_IMAGE_PIXELS", limit)
        assert (problem or "None") in str(image_problem(tmp_path / "a.png"))
    for text in ("0", "-5", "many", "1e9", "²"):
        monkeypatch.setenv("KPNET_MAX_IMAGE_PIXELS", text)
        with pytest.raises(
            KpnetError, match=f'KPNET_MAX_IMAGE_PIXELS: expected a whole number above 0, found "{text}"'
        ):
            max_pixels()


def test_a_file_far_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.write(png(8, 8))
        file.truncate(1 << 40)  # without a block on the disk
    with pytest.raises(KpnetError, match=r"a\.png: 1099511627776 bytes, more than"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp", "avif"])
def test_stacks_and_animations_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    first, *others = [Image.new("RGB", (20, 10), (60 * number, 0, 0)) for number in range(3)]
    first.save(path, save_all=True, append_images=others)
    for function in (read_image, read_image_size):
        with pytest.raises(KpnetError, match=rf"a\.{suffix}: holds several images"):
            function(path)
    assert "holds several images" in str(image_problem(path))
    first.save(path, save_all=True, append_images=[])
    assert read_image(path).shape == (10, 20, 3)


def test_thumbnails_and_second_views_are_no_stack(tmp_path: Path) -> None:
    first = Image.new("RGB", (20, 10), (200, 0, 0))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[first.resize((10, 5)), first.resize((5, 2))])
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[first])
    for name in ("a.tif", "a.jpg"):
        assert image_problem(tmp_path / name) is None
        assert abs(read_image(tmp_path / name)[..., 0].astype(int) - 200).max() < 4


def test_a_heic_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(np.repeat(np.arange(0, 64, dtype=np.uint8)[None, :, None], 48, 0).repeat(3, 2))
    pillow_heif.from_pillow(image).save(tmp_path / "a.heic", quality=60)
    assert np.abs(read_image(tmp_path / "a.heic").astype(int) - np.asarray(image)).mean() < 4
    assert read_image_size(tmp_path / "a.heic") == (48, 64)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(KpnetError, match=r"a\.heic: to read HEIC images, install kpnet\[heif\]"):
        read_image(tmp_path / "a.heic")


@pytest.mark.parametrize("length", range(1, 60, 3))
@pytest.mark.parametrize("make", [png, jpeg, tiff, ppm])
def test_a_file_of_a_few_bytes_is_an_error_of_one_line(
    tmp_path: Path, make: Callable[[int, int], bytes], length: int
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(make(60_000, 60_000)[:length])
    problem = image_problem(path)
    assert problem is not None
    assert "\n" not in problem
    with pytest.raises(KpnetError, match=r"a\.png: "):
        read_image(path)


def test_the_limit_may_be_far_above_the_one_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(30_000, 20_000))
    monkeypatch.setenv("KPNET_MAX_IMAGE_PIXELS", "600000000")
    before = Image.MAX_IMAGE_PIXELS
    assert read_image_size(path) == (20_000, 30_000)
    assert before == Image.MAX_IMAGE_PIXELS
