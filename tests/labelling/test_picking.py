"""Frames that differ from each other: from each scene, however short, and no frame twice."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kpnet.data.video import Video, write_video
from kpnet.labelling.picking import SIDE, Pick, pick_different
from kpnet.labelling.source import open_source

SCENES = (170, 3, 12, 2, 40, 3)  # frames of each; most frames are of the first


def scene_image(scene: int, rng: np.random.Generator) -> np.ndarray:
    """A scene of blurred noise, with its number as bars of 16 x 16 pixels along the upper edge."""
    image = cv2.resize(rng.integers(60, 200, (6, 8, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    for bit in range(3):
        image[:16, 16 * bit : 16 * bit + 16] = 255 * (scene >> bit & 1)
    return image


def scene_of(image: np.ndarray) -> int:
    return sum(int(image[4:12, 16 * bit + 4 : 16 * bit + 12].mean() > 128) << bit for bit in range(3))


def write_scenes(path: Path) -> None:
    """The scenes, with a little noise in each frame as a camera has it."""
    rng = np.random.default_rng(0)
    with write_video(path, 25.0) as add:
        for scene, count in enumerate(SCENES):
            image = scene_image(scene, rng).astype(int)
            for _ in range(count):
                add((image + rng.integers(-4, 5, image.shape)).clip(0, 255).astype(np.uint8))


def test_each_scene_has_a_frame_although_one_stands_still(tmp_path: Path) -> None:
    write_scenes(tmp_path / "clip.mp4")
    source = open_source(tmp_path / "clip.mp4", frames=6, pick=Pick.difference)
    assert sorted(scene_of(source.read(i)) for i in range(6)) == list(range(6))
    assert source.images == sorted(source.images)
    # The file's number is that of the frame in the video.
    starts = np.cumsum([0, *SCENES])
    for index, path in enumerate(source.images):
        number = int(path.stem.removeprefix("frame_"))
        assert np.searchsorted(starts, number, "right") - 1 == scene_of(source.read(index))
    # Evenly spaced frames miss the short ones.
    (tmp_path / "clip_frames").rename(tmp_path / "before")
    evenly = open_source(tmp_path / "clip.mp4", frames=6)
    assert len({scene_of(evenly.read(i)) for i in range(6)}) < 4


def test_the_same_call_gives_the_same_frames(tmp_path: Path) -> None:
    write_scenes(tmp_path / "clip.mp4")
    video = Video(tmp_path / "clip.mp4")
    first = pick_different(video.small_frames(SIDE), 20)
    assert len(set(first)) == 20
    assert first == pick_different(video.small_frames(SIDE), 20)


def test_equal_frames_are_taken_once() -> None:
    frames = [np.full((SIDE, SIDE), level, np.uint8) for level in (10, 10, 90, 10, 90, 200)]
    assert pick_different(frames, 6) == [0, 2, 5]
    assert pick_different(frames[:2], 1) == [0]
    assert pick_different([], 5) == []


def test_each_further_frame_is_the_farthest_from_all_that_are_taken() -> None:
    frames = [np.full((4, 4), level, np.uint8) for level in (0, 100, 110, 160, 250)]  # their mean is 124
    assert pick_different(frames, 1) == [2]
    assert pick_different(frames, 2) == [2, 4]
    assert pick_different(frames, 3) == [0, 2, 4]
    assert pick_different(frames, 4) == [0, 2, 3, 4]


def test_of_a_long_video_every_second_or_fourth_frame_is_held() -> None:
    frames = (np.full((4, 4), number, np.uint8) for number in range(100))
    found = pick_different(frames, 100, most=16)
    assert found == list(range(0, 100, 8))
