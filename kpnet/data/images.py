"""Image arrays: reading, channels, fitting into the model's input."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kpnet.coordinates import Size, letterbox_matrix
from kpnet.errors import KpnetError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def read_image(path: str | Path) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a picture file, its EXIF rotation applied."""
    path = Path(path)
    if not path.is_file():
        raise KpnetError(f"{path}: no such file")
    data = np.fromfile(path, dtype=np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    if image is None:
        raise KpnetError(f"{path}: not a picture that can be read (expected one of {', '.join(IMAGE_SUFFIXES)})")
    return image


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


def letterbox(image: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Fit an image into `size` (H, W), aspect kept, centred, black around it.

    Returns the image and the 2x3 mapping from its old pixels to its new ones.
    """
    source = (image.shape[0], image.shape[1])
    matrix, inner = letterbox_matrix(source, size)
    if inner != source:
        smaller = inner[0] < source[0] or inner[1] < source[1]
        image = cv2.resize(image, inner[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    if inner == size:
        return image, matrix
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    padded = np.zeros((*size, *image.shape[2:]), image.dtype)
    padded[top : top + inner[0], left : left + inner[1]] = image
    return padded, matrix
