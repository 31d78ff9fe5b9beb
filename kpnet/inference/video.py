"""Read and write videos, a frame at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# The decoder's complaints go to stderr, past Python; kpnet reports them in one line.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.files import replacing
from kpnet.data.images import VIDEO_SUFFIXES

DEFAULT_FPS = 25.0  # used if the header gives no frame rate


class Video:
    """A video file.

    Args:
        path: The file.

    Attributes:
        fps: Frames per second, 25 if the header gives no rate.
        declared_frames: Number of frames declared in the header, 0 if it gives none.

    Raises:
        KpnetError: The file cannot be decoded as a video, or has no frame.
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
        """Yield RGB frames, uint8 (H, W, 3), rotated as the file says, as far as they can be decoded."""
        with _opened(self.path) as capture:
            while True:
                done, frame = capture.read()
                if not done:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def missing_frames_message(self, found: int) -> str | None:
        """Return a line if fewer frames were found than declared; one fewer is accepted, as some headers estimate."""
        if found >= self.declared_frames - 1:
            return None
        return f"{self.path}: ends after {found} of the {self.declared_frames} frames that its header declares"


@contextmanager
def write_video(path: Path, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends an RGB frame to an MP4 (MPEG-4 part 2, no sound).

    The file appears at `path` once it is complete.
    """
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
        with _opened(beside) as capture:  # OpenCV does not report a full disk
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
