"""Find and read image files, convert channels, and fit images into the model's input."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from kpnet.config.schema import ModelConfig
from kpnet.coordinates import Size, after_crop, crop_region, letterbox_matrix, resize_matrix
from kpnet.core.errors import KpnetError
from kpnet.core.files import PARTIAL
from kpnet.core.outputs import MARKER, written_files

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")

Box = Sequence[float]  # edges x0, y0, x1, y1 in pixels of the image, which reaches from -0.5 to W - 0.5

_warn_once = functools.cache(logging.getLogger("kpnet").warning)

# OpenCV 5 has it in another place than OpenCV 4.
_set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel


def find_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files in a folder and its subfolders that have one of the suffixes, sorted by path.

    Args:
        folder: An existing folder.
        suffixes: Suffixes in lower case and with the dot. The case of a file's suffix does not matter.

    Returns:
        The files, whose paths begin with `folder`; an empty list if there are none. What kpnet wrote there, such as a
        contact sheet or an earlier prediction's drawings, is not among them; a warning says so.
    """
    every = [path for path in folder.rglob("*") if not path.name.startswith(PARTIAL)]
    found = {path for path in every if path.suffix.lower() in suffixes and path.is_file()}
    written = {file for path in every if path.name == MARKER for file in written_files(path.parent, found)}
    if written and found - written:
        _warn_once("%s: %d file(s) that kpnet wrote into it are not read as data", folder, len(written))
    return sorted(found - written)


def find_image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted by path.

    Args:
        folder: The folder.

    Returns:
        The files whose suffix is one of `IMAGE_SUFFIXES`. They are not opened.

    Raises:
        KpnetError: The folder does not exist, or there is no image in it.
    """
    if not folder.is_dir():
        raise KpnetError(f"{folder}: no such folder; expected a folder of images")
    paths = find_files(folder, IMAGE_SUFFIXES)
    if not paths:
        own = "; those that kpnet wrote there are not data" if os.path.lexists(folder / MARKER) else ""
        raise KpnetError(f"{folder}: found no images in it (expected {', '.join(IMAGE_SUFFIXES)}){own}")
    return paths


def read_image(path: str | Path, *, exif: bool = True) -> np.ndarray:
    """Read an image file.

    16-bit images keep their upper 8 bits, CMYK becomes RGB, and alpha is dropped without blending.

    Args:
        path: The file.
        exif: Apply the EXIF rotation, as an image viewer does. False: pixels as they are stored, as MATLAB, PIL and
            pycocotools read them.

    Returns:
        RGB uint8 (H, W, 3).

    Raises:
        KpnetError: The file does not exist, is no image, or is damaged or cut short.
    """
    path = Path(path)
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except (FileNotFoundError, ValueError):  # ValueError: a name with a NUL
        raise KpnetError(f"{path}: no such file") from None
    except OSError as error:
        raise KpnetError(f"{path}: {error.strerror}") from None
    flags = cv2.IMREAD_COLOR_RGB | (0 if exif else cv2.IMREAD_IGNORE_ORIENTATION)
    level = _set_log_level(0)  # what is wrong is said below
    try:
        image = cv2.imdecode(data, flags) if data.size else None
    finally:
        _set_log_level(level)
    if image is None and data.size and cv2.haveImageReader(str(path)):
        raise KpnetError(f"{path}: the image is cut short, damaged, or neither 8- nor 16-bit; save it again")
    if image is None:
        raise KpnetError(f"{path}: not a readable image (expected one of {', '.join(IMAGE_SUFFIXES)})")
    return image


def read_image_size(path: Path, *, exif: bool = True) -> tuple[int, int]:
    """Return the height and width that `read_image` gives, from the file's header where EXIF does not rotate it."""
    try:
        with Image.open(path) as image:
            rotated = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            if not rotated and image.format != "TIFF":  # TIFF has its tags outside of an EXIF block
                return image.height, image.width
    except Exception:  # PIL reads other files than OpenCV, which decides
        pass
    height, width = read_image(path, exif=exif).shape[:2]
    return height, width


def image_problem(path: Path) -> str | None:
    """Check an image file.

    A JPEG, PNG or WebP whose first and last bytes are right counts as good. Any other file is decoded.

    Args:
        path: The file.

    Returns:
        One line that names the file and its problem; None if there is none.
    """
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(file).st_size
            head, tail = os.pread(file, 12, 0), os.pread(file, 16, max(0, size - 16))
        finally:
            os.close(file)
    except OSError as error:
        return f"{path}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror}"
    whole = (
        (head.startswith(b"\xff\xd8\xff") and b"\xff\xd9" in tail)
        or (head.startswith(b"\x89PNG\r\n") and b"IEND" in tail)
        or (head.startswith(b"RIFF") and int.from_bytes(head[4:8], "little") + 8 <= size)
    )
    try:
        if not whole:
            read_image(path)
    except KpnetError as error:
        return str(error)
    return None


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert an image between grey and RGB.

    Args:
        image: Uint8 (H, W), (H, W, 1) or (H, W, 3).
        channels: 1 or 3.

    Returns:
        Uint8 (H, W) for 1 channel, else (H, W, C).

    Raises:
        KpnetError: The image cannot be converted.
    """
    found = 1 if image.ndim == 2 else image.shape[2]
    if found == 1:
        image = image.reshape(image.shape[:2])
    if found == channels:
        return image
    if found == 1:
        return np.repeat(image[..., None], channels, axis=2)
    if found == 3 and channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    raise KpnetError(f"an image has {found} channels, expected {channels}: set model.in_channels to {found}")


def crop(image: np.ndarray, region: tuple[int, int, int, int], size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Crop an image and resize the crop.

    Args:
        image: Uint8 (H, W) or (H, W, C).
        region: The pixels left, top, right and bottom, the last two exclusive. Outside the image it is black.
        size: Height and width to resize to.

    Returns:
        The crop and the 2x3 matrix that maps pixels of the image to pixels of the crop.
    """
    left, top, right, bottom = region
    cut = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    source = (bottom - top, right - left)
    if cut.shape[:2] != source:
        y, x = max(-top, 0), max(-left, 0)
        padded = np.zeros((*source, *image.shape[2:]), image.dtype)
        padded[y : y + cut.shape[0], x : x + cut.shape[1]] = cut
        cut = padded
    matrix = after_crop(resize_matrix(source, size), left, top)
    return _resize(cut, size), matrix


def letterbox(image: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Resize an image to fit into a size with its aspect ratio kept, centred and with black borders.

    Args:
        image: Uint8 (H, W) or (H, W, C).
        size: Height and width of the result.

    Returns:
        The letterboxed image and the 2x3 matrix that maps pixels of the image to its pixels.
    """
    source = (image.shape[0], image.shape[1])
    matrix, inner = letterbox_matrix(source, size)
    image = _resize(image, inner)
    if inner == size:
        return image, matrix
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    padded = np.zeros((*size, *image.shape[2:]), image.dtype)
    padded[top : top + inner[0], left : left + inner[1]] = image
    return padded, matrix


def _resize(image: np.ndarray, size: Size) -> np.ndarray:
    source = image.shape[:2]
    if source == size:
        return image
    smaller = size[0] < source[0] or size[1] < source[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def model_inputs(
    image: np.ndarray, boxes: Sequence[Box] | None, config: ModelConfig
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Prepare an image as input of a model: letterboxed, or one crop for each box.

    Args:
        image: Uint8 (H, W) or RGB (H, W, 3).
        boxes: Edges x0, y0, x1, y1 of each box in pixels. None: the whole image.
        config: The model's config, of which input size, channels and box scale are used.

    Returns:
        For each input the uint8 image and the 2x3 matrix that maps pixels of `image` to its pixels.

    Raises:
        KpnetError: The image or a box is not as described.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise KpnetError(f"expected an image uint8 (H, W) or RGB (H, W, 3), got {image.dtype} {image.shape}")
    image = to_channels(image, config.in_channels)
    size, source = config.input_size, (image.shape[0], image.shape[1])
    if boxes is None:
        return [letterbox(image, size)]
    views = []
    for box in boxes:
        if len(box) != 4 or not all(math.isfinite(value) for value in box):
            raise KpnetError(f"box {list(box)}: expected four finite numbers x0, y0, x1, y1")
        try:
            views.append(crop(image, crop_region(box, config.box_scale, source, size), size))
        except ValueError as error:
            raise KpnetError(str(error)) from None
    return views
