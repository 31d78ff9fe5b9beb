"""Time the decoding of a video by kpnet (PyAV) against OpenCV's, frame for frame, in one process.

    python benchmarks/speed/video.py [VIDEO]

VIDEO: by default a made-up one of 640x480, 200 frames. Prints medians over alternating calls and their ratio, of the
processor time over all threads, which other programs disturb less than the time on the clock. Both must give as many
frames.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from kpnet.data.video import Video, write_video

CALLS = 7


def make(path: Path) -> None:
    """Write a moving, textured clip."""
    texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (680, 840, 3), dtype=np.uint8), (0, 0), 2)
    with write_video(path, 25.0) as add:
        for number in range(200):
            add(np.ascontiguousarray(texture[number : number + 480, number : number + 640]))


def with_opencv(path: Path) -> int:
    """Decode all frames as RGB, as `Video` does."""
    capture, count = cv2.VideoCapture(str(path)), 0
    while True:
        done, frame = capture.read()
        if not done:
            return count
        cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        count += 1


def with_kpnet(path: Path) -> int:
    """Decode all frames."""
    return sum(1 for _ in Video(path).frames())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path)
    path = parser.parse_args().video
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = Path(folder) / "clip.mp4"
            make(path)
        counts = with_kpnet(path), with_opencv(path)
        if counts[0] != counts[1]:
            raise SystemExit(f"kpnet reads {counts[0]} frames, OpenCV {counts[1]}")
        seconds: dict[Callable[[Path], int], list[float]] = {with_kpnet: [], with_opencv: []}
        for _ in range(CALLS):
            for function, taken in seconds.items():
                start = time.process_time()
                function(path)
                taken.append(time.process_time() - start)
    kpnet, opencv = (statistics.median(seconds[function]) for function in (with_kpnet, with_opencv))
    print(
        f"{counts[0]} frames: kpnet {kpnet:.3f} s, OpenCV {opencv:.3f} s of processor time, ratio {kpnet / opencv:.2f}"
    )


if __name__ == "__main__":
    main()
