"""Videos, a frame at a time: reading them, and writing an annotated copy."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What its decoder complains of goes to stderr past Python; kpnet says it in a line.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.files import replacing
from kpnet.data.images import VIDEO_SUFFIXES

DEFAULT_FPS = 25.0  # where a header says no frame rate


class Video:
    """A video file. `fps`: frames a second; `promised`: how many frames its header says there are, 0 where it does not.

    A KpnetError for what is no video that can be decoded, and for one without a frame.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise KpnetError(f"{path}: no such file")
        with _opened(self.path) as capture:
            if not capture.isOpened():
                known = ", ".join(VIDEO_SUFFIXES)
                raise KpnetError(f"{path}: not a video that can be decoded, or one cut short (expected {known})")
            fps, declared_frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
            if not capture.grab():
                raise KpnetError(f"{path}: a video without a frame that can be decoded")
        self.fps = fps if math.isfinite(fps) and fps > 0 else DEFAULT_FPS
        self.declared_frames = max(0, int(declared_frames)) if math.isfinite(declared_frames) else 0

    def frames(self) -> Iterator[np.ndarray]:
        """RGB uint8 (H, W, 3) each, turned as the file says; as far as it can be decoded."""
        with _opened(self.path) as capture:
            while True:
                done, frame = capture.read()
                if not done:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def missing_frames_message(self, found: int) -> str | None:
        """One line where fewer frames were found than promised; one fewer is no loss, as some headers estimate."""
        if found >= self.declared_frames - 1:
            return None
        return f"{self.path}: ends after {found} of the {self.declared_frames} frames that its header declares"


@contextmanager
def write_video(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Gives what appends an RGB frame to an MP4 (MPEG-4 part 2, no sound); the file is there once it is whole."""
    writer: cv2.VideoWriter | None = None
    count = 0
    with replacing(path) as beside:

        def add(frame: np.ndarray) -> None:
            nonlocal writer, count
            if writer is None:
                size = (frame.shape[1], frame.shape[0])
                writer = cv2.VideoWriter(str(beside), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
                if not writer.isOpened():
                    raise KpnetError(f"{path}: OpenCV cannot write a video of {size[0]}x{size[1]} at {fps:g} frames/s")
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1

        try:
            yield add
        finally:
            if writer is not None:
                writer.release()
        with _opened(beside) as capture:  # OpenCV does not say that a disk was full
            written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if written != count:
            raise KpnetError(f"{path}: {max(0, written)} of {count} frames could be written; is the disk full?")


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(path))
    try:
        yield capture
    finally:
        capture.release()
