"""The pixels of image files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def read_bgr(path: Path) -> np.ndarray:
    """Uint8 (H, W, 3), blue first, as OpenCV reads a file."""
    image = cv2.imread(str(path))
    assert image is not None, f"{path} is no image"
    return image
