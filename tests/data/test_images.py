"""Image files of every kind, each against what it was written from."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from kpnet.core.errors import KpnetError
from kpnet.data.images import (
    FOREIGN_SUFFIXES,
    IMAGE_SUFFIXES,
    filled_bits,
    find_image_files,
    header_problem,
    image_problem,
    is_turned,
    read_image,
    read_image_size,
)

ORIENTATION = 0x112
# Tag to what a viewer does with the stored pixels
SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def picture() -> np.ndarray:
    """Four flat patches of different colours, 24 x 40."""
    image = np.zeros((24, 40, 3), np.uint8)
    image[:12, :20], image[:12, 20:], image[12:, :20], image[12:, 20:] = (
        (220, 30, 40),
        (40, 200, 60),
        (30, 60, 210),
        128,
    )
    return image


@pytest.mark.parametrize("tag", SHOWN)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_exif_rotation(tmp_path: Path, suffix: str, tag: int) -> None:
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[ORIENTATION] = tag
    Image.fromarray(picture()).save(path, exif=exif, quality=95)
    assert close(read_image(path), SHOWN[tag](picture()))
    assert close(read_image(path, exif=False), picture())
    assert is_turned(path) == (tag != 1)
    if suffix != "tif":  # PIL turns it by itself
        assert close(read_image(path, exif=False), np.asarray(Image.open(path)))  # what PIL sees


def close(image: np.ndarray, expected: np.ndarray) -> bool:
    """Within a few grey values, off the edges of the patches."""
    if image.shape != expected.shape:
        return False
    return bool(np.median(np.abs(image.astype(int) - expected)) <= 2)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "avif"])
@pytest.mark.parametrize("tag", [None, 1, 3, 5, 6, 8])
@pytest.mark.parametrize("exif", [True, False])
def test_the_size_is_that_of_the_picture_as_it_is_read(
    tmp_path: Path, suffix: str, tag: int | None, exif: bool
) -> None:
    path, given = tmp_path / f"a.{suffix}", Image.Exif()
    given[ORIENTATION] = tag or 1
    options: dict[str, Any] = {} if tag is None else {"exif": given}
    Image.fromarray(picture()).save(path, **options)
    assert read_image_size(path, exif=exif) == read_image(path, exif=exif).shape[:2]


def test_a_good_header_is_enough_for_the_size(tmp_path: Path) -> None:
    """So a hundred thousand images are not decoded."""
    for suffix in ("jpg", "png", "bmp"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(picture()).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
        assert read_image_size(path) == picture().shape[:2]
    path.write_bytes(b"BM and no more")
    with pytest.raises(KpnetError, match=r"a\.bmp: the image is cut short"):
        read_image_size(path)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_the_upper_eight_of_sixteen_bits(tmp_path: Path, suffix: str) -> None:
    values = np.arange(0, 65536, 32, dtype=np.uint16).reshape(32, 64)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), values)
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.dtype == np.uint8
    assert np.abs(image - (values / 256)[..., None]).max() <= 1
    assert image.min() == 0
    assert image.max() == 255


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture()).convert("CMYK").save(path, quality=95)
    assert Image.open(path).mode == "CMYK"
    assert close(read_image(path), picture())


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_alpha_is_dropped(tmp_path: Path, suffix: str) -> None:
    alpha = np.full((24, 40), 0, np.uint8)
    alpha[:, ::2] = 255
    options: dict[str, Any] = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(np.dstack([picture(), alpha])).save(tmp_path / f"a.{suffix}", **options)
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), picture())


def test_grey_and_palette(tmp_path: Path) -> None:
    grey = cv2.cvtColor(picture(), cv2.COLOR_RGB2GRAY)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, 2))
    Image.fromarray(picture()).quantize(8, dither=Image.Dither.NONE).save(tmp_path / "palette.png")
    assert close(read_image(tmp_path / "palette.png"), picture())


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tiff"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated(tmp_path: Path, suffix: str, share: float, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    cv2.imwrite(str(path), noise)
    assert image_problem(path) is None
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(KpnetError, match=rf"a\.{suffix}: (the image is cut short|not a readable image)") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert image_problem(path) == str(caught.value)
    assert "OpenCV" not in capfd.readouterr().err


def test_bytes_after_the_end_do_no_harm(tmp_path: Path) -> None:
    for suffix in ("jpg", "png"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(picture()).save(path, quality=95)
        path.write_bytes(path.read_bytes() + bytes(500))
        assert image_problem(path) is None
        assert close(read_image(path), picture())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"", "not a readable image"),
        ("a.jpg", b"<html>404</html>", "not a readable image"),
        ("gone.jpg", None, "no such file"),
    ],
)
def test_no_picture(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KpnetError, match=f"{name}: {message}"):
        read_image(path)
    assert image_problem(path) is not None
    assert message in str(image_problem(path))


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        *[(".jpg", {}), (".jfif", {"format": "JPEG"}), (".png", {}), (".bmp", {}), (".tif", {}), (".webp", {})],
        *[(".gif", {}), (".avif", {"quality": 95}), (".jp2", {}), (".ppm", {}), (".dib", {}), (".mpo", {})],
    ],
)
def test_every_kind_is_read_as_pillow_reads_it(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture()).save(path, **options)
    assert suffix in IMAGE_SUFFIXES or suffix == ".mpo"
    assert close(read_image(path), np.asarray(Image.open(path).convert("RGB")))
    assert close(read_image(path), picture())
    assert read_image_size(path) == (24, 40)
    assert image_problem(path) is None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "LAB"])
@pytest.mark.parametrize("size", [(1, 1), (7, 3)])
def test_pixels_of_any_kind_become_rgb(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "LAB") else "a.png")
    Image.new(mode, size).save(path)
    image = read_image(path)
    assert (image.shape, image.dtype) == ((size[1], size[0], 3), np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_bits_in_sixteen(tmp_path: Path, suffix: str, colour: bool, bits: int) -> None:
    path = tmp_path / f"a.{suffix}"
    values = np.random.default_rng(0).integers(0, 1 << bits, (16, 24, 3) if colour else (16, 24), dtype=np.uint16)
    values[0, 0] = (1 << bits) - 1
    cv2.imwrite(str(path), values)
    expected = values[..., ::-1] if colour else np.repeat(values[..., None], 3, axis=-1)
    assert np.array_equal(read_image(path, bits=bits), expected >> (bits - 8))
    assert np.array_equal(read_image(path), expected >> 8)
    assert filled_bits(path) == bits
    assert np.array_equal(read_image(path, bits=8), np.minimum(expected, 255))


def test_bits_change_no_image_of_eight_and_have_bounds(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    assert np.array_equal(read_image(path, bits=10), picture())
    assert filled_bits(path) is None
    for bits in (7, 17, -1):
        with pytest.raises(KpnetError, match=f"bits: expected 8 to 16, .*found {bits}"):
            read_image(path, bits=bits)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match=f"{tmp_path.name}: Is a directory"):
        read_image(tmp_path)
    with pytest.raises(KpnetError, match="no such file"):
        read_image("a\0b.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
        server.bind("socket.png")
        for name in ("pipe.png", "device.png", "socket.png"):
            for function in (read_image, read_image_size):
                with pytest.raises(KpnetError, match=f"{name}: not a regular file"):
                    function(Path(name))
            assert "not a regular file" in str(image_problem(Path(name)))


@pytest.mark.parametrize("name", ["caf\udce9.png", "[x] $y$ 'z'.png", "\u202e.png"])
def test_any_name_is_opened(tmp_path: Path, name: str) -> None:
    """OpenCV, given a name that is not UTF-8, ends the process."""
    Image.fromarray(picture()).save(tmp_path / name)
    assert np.array_equal(read_image(tmp_path / name), picture())
    (tmp_path / name).write_text("no image")
    with pytest.raises(KpnetError, match="not a readable image"):
        read_image(tmp_path / name)
    assert header_problem(tmp_path / name) is not None


@pytest.mark.parametrize("suffix", FOREIGN_SUFFIXES)
def test_images_that_cannot_be_read_are_found_and_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(picture()).save(path, format="TIFF")  # as raw files begin
    assert find_image_files(tmp_path) == [path]
    for problem in (image_problem(path), header_problem(path)):
        assert problem is not None
        assert f"{suffix} images cannot be read; convert it to PNG or JPEG" in problem


def test_floating_point_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.tiff"), np.zeros((8, 8), np.float32))
    with pytest.raises(KpnetError, match=r"a\.tiff: .*neither 8- nor 16-bit"):
        read_image(tmp_path / "a.tiff")


def test_a_link_to_itself_ends_no_search(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4), np.uint8))
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert [path.name for path in find_image_files(tmp_path)] == ["a.png", "loop.png"]
    with pytest.raises(KpnetError, match=r"loop\.png"):
        read_image(tmp_path / "loop.png")
