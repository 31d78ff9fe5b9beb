"""The header of an image file: its kind, its size, and whether it is one image, before anything is decoded."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from kpnet.core.errors import KpnetError

MAX_PIXELS = 178_956_970  # the limit of Pillow, 13377 x 13377
MAX_PIXELS_VARIABLE = "KPNET_MAX_IMAGE_PIXELS"
MAX_PAGES = 1000  # directories of a TIFF file that are looked at
KINDS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "PPM", "JPEG2000", "GIF")  # Pillow's names; JPEG includes MPO

_pillow_limit = threading.Lock()


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself.

    Attributes:
        kind: Pillow's name of the file format.
        width: Width in pixels as stored.
        height: Height in pixels as stored.
        orientation: How EXIF turns or mirrors it, 1 to 8; 1 for as it is stored.
    """

    kind: str
    width: int
    height: int
    orientation: int


def max_pixels() -> int:
    """Return the largest number of pixels of an image that is read: `KPNET_MAX_IMAGE_PIXELS`, by default 178,956,970.

    Raises:
        KpnetError: The environment variable is no whole number above 0.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE, "") or str(MAX_PIXELS)
    if not text.isascii() or not text.isdigit() or int(text[:19]) == 0:
        raise KpnetError(f'{MAX_PIXELS_VARIABLE}: expected a whole number above 0, found "{text}"')
    return int(text[:19])


def check_pixels(path: Path, pixels: int) -> None:
    """Raise KpnetError if an image or a frame has more pixels than `max_pixels`."""
    if pixels > max_pixels():
        raise KpnetError(
            f"{path}: {pixels} pixels, expected at most {max_pixels()}; if there is memory for it, set the environment "
            f"variable {MAX_PIXELS_VARIABLE}={pixels}"
        )


@contextmanager
def without_pillow_limit() -> Iterator[None]:
    """Set Pillow's own limit of pixels aside where `max_pixels` allows more than Pillow opens."""
    if max_pixels() <= 2 * MAX_PIXELS:  # up to twice its limit, Pillow only warns
        yield
        return
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def read_header(path: Path, file: BinaryIO) -> ImageHeader | None:
    """Read the header of an image file.

    Args:
        path: The file's path, for errors.
        file: The file, opened in binary mode, at its beginning.

    Returns:
        The header; None if the file is no image of a known kind, or its header is damaged.

    Raises:
        KpnetError: The image has more pixels than `max_pixels`, or the file holds several images, or it is HEIC and
            pillow-heif is missing.
    """
    start = file.read(16)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about sizes and damage: the errors are kpnet's own
        tiff = start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
        with without_pillow_limit():
            header, several = _tiff(start, file) if tiff else _other(path, start, file)
    if header is not None:
        check_pixels(path, header.width * header.height)
    if several:
        raise KpnetError(
            f"{path}: holds several images (an animation, or pages of a stack), expected one: save each as a file of "
            "its own, or all of them as a video"
        )
    return header


def _other(path: Path, start: bytes, file: BinaryIO) -> tuple[ImageHeader | None, bool]:
    kinds: tuple[str, ...] = KINDS
    if start[4:8] == b"ftyp":  # the container of AVIF and HEIC, and of videos
        kinds = ("AVIF",) if start[8:12] in (b"avif", b"avis") else (_heif(path),)
    try:
        image = Image.open(file, formats=kinds)
    except Image.DecompressionBombError as error:
        check_pixels(path, int((re.findall(r"\d+", str(error)) or [0])[0]))
        return None, False
    except Exception:  # whatever a damaged header leads to
        return None, False
    kind = str(image.format)
    orientation = image.getexif().get(ExifTags.Base.Orientation) if "exif" in image.info else None
    several = kind in ("GIF", "PNG", "WEBP", "AVIF") and bool(getattr(image, "is_animated", False))
    return ImageHeader(kind, image.width, image.height, _valid(orientation)), several


def _heif(path: Path) -> str:
    """Register the reader of HEIC images, and return its name."""
    try:
        import pillow_heif
    except ImportError:
        raise KpnetError(f"{path}: to read HEIC images, install kpnet[heif]: pip install pillow-heif") from None
    pillow_heif.register_heif_opener()
    return "HEIF"


def _tiff(start: bytes, file: BinaryIO) -> tuple[ImageHeader | None, bool]:
    """Read the directories of a TIFF file; Pillow opens none of 16-bit RGB.

    Several pages of the size of the first are a stack; others are thumbnails and the levels of a pyramid.
    """
    pages: list[tuple[int, int]] = []
    orientation = None
    try:
        directory = ImageFileDirectory_v2(start if start[2:3] == b"+" or start[3:4] == b"+" else start[:8])
        while directory.next and len(pages) < MAX_PAGES:
            file.seek(directory.next)
            directory.load(file)
            if not pages:
                orientation = directory.get(ExifTags.Base.Orientation)
            if not int(directory.get(ExifTags.Base.NewSubfileType, 0)) & 1:  # 1: a smaller copy
                pages.append((int(directory[ExifTags.Base.ImageWidth]), int(directory[ExifTags.Base.ImageLength])))
    except Exception:  # whatever a damaged directory leads to
        if not pages:
            return None, False
    if not pages:
        return None, False
    return ImageHeader("TIFF", *pages[0], _valid(orientation)), pages.count(pages[0]) > 1


def _valid(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
