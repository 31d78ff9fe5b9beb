"""Videos in chunks of frames that are predicted apart, each from the key frame before it."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.data.video import Video
from kpnet.inference.prediction import Prediction
from kpnet.inference.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames of a video, by their timestamps in units of the video's `time_base`.

    Attributes:
        first: Number of the first frame.
        frames: Number of the frames.
        seek: Timestamp of a key frame from which the frames can be decoded. None: from the beginning of the file.
        start: Timestamp of the first frame. None: the first of the file.
        stop: Timestamp of the frame after the last one. None: to the end of the file.
    """

    first: int = 0
    frames: int = 0
    seek: int | None = None
    start: int | None = None
    stop: int | None = None


def split_video(path: Path, size: int, window: tuple[int, int] = (0, 0)) -> list[Chunk]:
    """Split a video into chunks, without decoding it.

    Args:
        path: The video.
        size: Frames in a chunk.
        window: Frames before and after a frame that the network looks at.

    Returns:
        The chunks. A video without an index of its frames, or with several frames at one time, is one chunk.

    Raises:
        KpnetError: The file cannot be decoded as a video.
    """
    video = Video(path)
    stamps, keys = video.timestamps()
    timed = {stamp for stamp in stamps if stamp is not None}
    if len(timed) < len(stamps) or len(stamps) <= size:  # fields share a time, or have none; two of them are one frame
        return [Chunk(frames=len(timed) or len(stamps))]
    order = sorted(timed)
    ranks = [bisect_right(order, key) - 1 for key in keys]
    chunks = []
    for first in range(0, len(order), size):
        last = min(first + size, len(order))
        before = [rank for rank in ranks if rank <= first - window[0]] if first else []
        seek = order[max(before)] if before else None
        stop = None if last == len(order) else order[last]
        chunks.append(Chunk(first, last - first, seek, order[first] if first else None, stop))
    return chunks


def predict_chunk(predictor: Predictor, path: Path, chunk: Chunk) -> Iterator[tuple[int, float, Prediction]]:
    """Predict the frames of a chunk.

    Args:
        predictor: The predictor.
        path: The video.
        chunk: The chunk.

    Yields:
        Number of the frame, its time in seconds as `Video.timed_frames` gives it, and its prediction.

    Raises:
        KpnetError: The file cannot be decoded as a video.
    """
    past, future = predictor.model.frame_window
    kept: deque[tuple[bool, float]] = deque()  # whether a frame is of the chunk, and its time

    def frames() -> Iterator[np.ndarray]:
        before: deque[tuple[float, np.ndarray]] = deque(maxlen=past)
        after = 0
        for stamp, time, frame in Video(path).stamped_frames(chunk.seek):
            if chunk.start is not None and stamp < chunk.start:
                before.append((time, frame))
                continue
            while before:
                earlier, held = before.popleft()
                kept.append((False, earlier))
                yield held
            own = chunk.stop is None or stamp < chunk.stop
            after += not own
            if after > future:
                return
            kept.append((own, time))
            yield frame

    number: Any = chunk.first
    for prediction in predictor.track(frames()):
        own, time = kept.popleft()
        if own:
            yield number, time, prediction
            number += 1
