"""Videos in chunks: together they have the frames of the whole video, each once."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from kpnet.data.video import Video
from kpnet.inference.prediction import Prediction
from kpnet.inference.video_chunks import Chunk, predict_chunk, split_video

FRAMES = 50


class Windows:
    """In place of a predictor: the points are the grey values of a frame, of the one before and of the one after."""

    def __init__(self, past: int = 0, future: int = 0) -> None:
        self.model: Any = type("Model", (), {"frame_window": (past, future)})

    def track(self, frames: Iterator[np.ndarray]) -> Iterator[Prediction]:
        past, future = self.model.frame_window
        grey = [float(frame.mean()) for frame in frames]
        for i in range(len(grey)):
            near = grey[max(0, i - past)], grey[i], grey[min(len(grey) - 1, i + future)]
            yield Prediction("", ("a",), np.array([[near[:2]]]), np.array([[near[2]]]), None)


def video(
    path: Path, codec: str = "libx264", gop: int = 8, frames: int = FRAMES, options: dict[str, str] | None = None
) -> Path:
    """Write frames that get lighter, at uneven times from 3 s on."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        stream.width = stream.height = 32
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 4 * number + 20, np.uint8), format="rgb24")
            if path.suffix != ".avi":
                frame.pts, frame.time_base = 3000 + 40 * number + 7 * (number % 3), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("window", [(0, 0), (3, 2)])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b.mp4", {"bf": "3", "b_adapt": "0"}),
        ("plain.mkv", {"bf": "0"}),
        ("open.mp4", {"bf": "3", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}),
    ],
)
def test_chunks_give_what_the_whole_video_gives(
    tmp_path: Path, name: str, options: dict[str, str], window: tuple[int, int]
) -> None:
    path = video(tmp_path / name, options=options)
    chunks = split_video(path, 12, window)
    assert [chunk.frames for chunk in chunks] == [12, 12, 12, 12, 2]
    assert all(chunk.seek is not None for chunk in chunks[2:]), "a chunk begins at a key frame before it"
    predictor: Any = Windows(*window)
    parts = [list(predict_chunk(predictor, path, chunk)) for chunk in chunks]
    assert [len(part) for part in parts] == [12, 12, 12, 12, 2]
    found = [each for part in parts for each in part]
    whole = list(predictor.track(frame for _, frame in Video(path).timed_frames()))
    times = [time for time, _ in Video(path).timed_frames()]
    assert [number for number, _, _ in found] == list(range(FRAMES))
    assert [time for _, time, _ in found] == pytest.approx(times)
    for (_, _, own), expected in zip(found, whole, strict=True):
        assert (own.keypoints == expected.keypoints).all()
        assert own.confidence == expected.confidence


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.ts", "libx264")])
def test_a_video_without_an_index_is_one_chunk(tmp_path: Path, name: str, codec: str) -> None:
    path = video(tmp_path / name, codec)
    (chunk,) = split_video(path, 12)
    assert chunk.start is chunk.stop is chunk.seek is None
    predictor: Any = Windows()
    assert [number for number, _, _ in predict_chunk(predictor, path, chunk)] == list(range(FRAMES))
    assert split_video(video(tmp_path / "short.mp4", frames=12), 12) == [Chunk(frames=12)]


@pytest.mark.parametrize(("stamps", "frames"), [([0, 0, 1, 1], 2), ([0, None, 2, 3], 3), ([None] * 4, 4)])
def test_a_video_whose_index_does_not_tell_its_frames_is_one_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stamps: list[int | None], frames: int
) -> None:
    """Two fields with one timestamp are one frame: none of them is lost."""
    path = video(tmp_path / "fields.mp4", frames=4)
    monkeypatch.setattr(Video, "timestamps", lambda self: (stamps, [0]))
    assert split_video(path, 2) == [Chunk(frames=frames)]
