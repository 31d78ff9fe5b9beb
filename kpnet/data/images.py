"""Image arrays: reading, channels, fitting into the model's input."""

from __future__ import annotations

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

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")

Box = Sequence[float]  # edges x0, y0, x1, y1 in pixels of the image, which reaches from -0.5 to W - 0.5

# OpenCV 5 keeps it elsewhere than OpenCV 4.
_set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel


def find_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files in a folder and its subfolders whose suffix is one of `suffixes`, sorted by path.

    Args:
        folder: An existing folder.
        suffixes: Lower-case suffixes with their dot. The case of a file's suffix does not matter.
    """
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())


def find_image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted by path.

    Raises:
        KpnetError: The folder does not exist, or there is no image in it.
    """
    if not folder.is_dir():
        raise KpnetError(f"{folder}: no such folder; expected one of pictures")
    paths = find_files(folder, IMAGE_SUFFIXES)
    if not paths:
        raise KpnetError(f"{folder}: found no pictures in it (expected {', '.join(IMAGE_SUFFIXES)})")
    return paths


def read_image(path: str | Path, *, exif: bool = True) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a picture file, as a viewer shows it: the EXIF rotation is applied.

    exif False: a JPEG's or PNG's pixels as they are stored, which is what MATLAB, PIL and pycocotools see.
    Of 16 bits the upper 8 are taken, CMYK becomes RGB, and alpha is dropped: what lay beneath it shows. A KpnetError
    for a file that is none, or is damaged or cut short.
    """
    path = Path(path)
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except (FileNotFoundError, ValueError):  # ValueError: a name with a NUL
        raise KpnetError(f"{path}: no such file") from None
    except OSError as error:
        raise KpnetError(f"{path}: {error.strerror}") from None
    flags = cv2.IMREAD_COLOR_RGB | (0 if exif else cv2.IMREAD_IGNORE_ORIENTATION)
    level = _set_log_level(0)  # what is wrong is told below
    try:
        image = cv2.imdecode(data, flags) if data.size else None
    finally:
        _set_log_level(level)
    if image is None and data.size and cv2.haveImageReader(str(path)):
        raise KpnetError(f"{path}: a picture that is cut short, damaged, or neither of 8 nor of 16 bits; save it anew")
    if image is None:
        raise KpnetError(f"{path}: not a picture that can be read (expected one of {', '.join(IMAGE_SUFFIXES)})")
    return image


def read_image_size(path: Path, *, exif: bool = True) -> tuple[int, int]:
    """H, W as `read_image` gives them. The header tells, unless EXIF may turn the picture: then it is decoded."""
    try:
        with Image.open(path) as picture:
            turned = "exif" in picture.info and picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
            if not turned and picture.format != "TIFF":  # whose tags are no EXIF block
                return picture.height, picture.width
    except Exception:  # PIL takes other pictures than OpenCV, which has the last word
        pass
    height, width = read_image(path, exif=exif).shape[:2]
    return height, width


def image_problem(path: Path) -> str | None:
    """What is wrong with a picture file, in a line that names it; None for a good one.

    A JPEG, PNG or WebP is judged by its two ends, as quick as a file is opened; what they leave open, by decoding.
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
    """(H, W) or (H, W, C) uint8 with 1 or 3 channels as asked; (H, W) for one channel."""
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
    """Whole pixels [left, right) x [top, bottom) of an image, black beyond it, resized to `size` (H, W).

    Returns the image and the 2x3 mapping from the old image's pixels to its new ones.
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
    """Fit an image into `size` (H, W), aspect kept, centred, black around it.

    Returns the image and the 2x3 mapping from its old pixels to its new ones.
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
    """The model's inputs for an image, each with the mapping of the image's pixels to it."""
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
