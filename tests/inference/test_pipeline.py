"""What `kpnet predict` does with inputs of which some are bad, and when it is stopped."""

from __future__ import annotations

import csv
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kpnet.config.schema import ModelConfig
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.video import write_video
from kpnet.inference import pipeline
from kpnet.inference.inputs import InputImage, find_images
from kpnet.inference.pipeline import Outcome, predict_inputs
from kpnet.inference.prediction import Prediction
from kpnet.inference.tables import PredictionTable

NAMES = ("a", "b")
CONFIG = ModelConfig(backbone="conv_sandwich", head="heatmap", num_keypoints=2, input_size=(32, 32))


class Centre:
    """In place of a predictor: all points are at the image's centre. It takes batches of two."""

    def __init__(self, after: Callable[[int], None] = lambda count: None) -> None:
        self.after, self.batch_size = after, 2
        self.model: Any = type("Model", (), {"skeleton": Skeleton(NAMES), "config": CONFIG, "finds_instances": False})

    def stream(self, images: Iterator[Any]) -> Iterator[Prediction]:
        held = []
        for number, (name, pixels, boxes) in enumerate(images):
            self.after(number)
            count = 1 if boxes is None else len(boxes)
            centre = np.broadcast_to((np.array(pixels.shape[1::-1]) - 1) / 2, (count, 2, 2))
            held.append(Prediction(name, NAMES, centre, np.ones((count, 2)), None))
            if len(held) == 2:
                yield from held
                held.clear()
        yield from held

    def track(self, frames: Iterator[np.ndarray]) -> Iterator[Prediction]:
        return self.stream(("", frame, None) for frame in frames)


@pytest.fixture
def images(tmp_path: Path) -> list[InputImage]:
    """Six images of which numbers 1 and 4 are none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (10 + number, 10)).save(folder / f"{number}.png")
    for number in (1, 4):
        (folder / f"{number}.png").write_text("none")
    return find_images([folder], [])


def predict(predictor: Centre, images: list[InputImage], out: Path, **videos: Path) -> Outcome:
    return predict_inputs(predictor, images, PredictionTable(False), videos, out, draw=bool(images))  # type: ignore[arg-type]


def names(out: Path) -> list[str]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(dict.fromkeys(Path(row["image"]).stem for row in csv.DictReader(file)))


def test_bad_images_cost_no_other(images: list[InputImage], tmp_path: Path) -> None:
    bad_box = InputImage("box", Path("box.png"), lambda: np.zeros((8, 8, 3), np.uint8), boxes=((20, 20, 30, 30),))
    five = InputImage("five", Path("five.png"), lambda: np.zeros((8, 8, 5), np.uint8))
    outcome = predict(Centre(), [bad_box, *images, five], tmp_path / "out")
    assert names(tmp_path / "out") == ["0", "2", "3", "5"]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {f"{number}.png" for number in (0, 2, 3, 5)}
    assert not outcome.stopped
    box, *others = outcome.failures
    assert box.startswith("box: box [20.0, 20.0, 30.0, 30.0]: no area")
    assert [line.split(": ")[1][:22] for line in others] == [
        "not a readable image (",
        "not a readable image (",
        "an image has 5 channel",
    ]
    with pytest.raises(KpnetError, match=r"box: box .* \(1 more input\(s\) failed\)"):
        predict(Centre(), [bad_box, five], tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("stopped_at", "kept"), [(2, ["0", "2"]), (3, ["0", "2"])])
def test_ctrl_c_keeps_what_is_predicted(
    images: list[InputImage], tmp_path: Path, stopped_at: int, kept: list[str]
) -> None:
    def interrupt(number: int) -> None:
        if number == stopped_at:
            raise KeyboardInterrupt

    outcome = predict(Centre(interrupt), images, tmp_path / "out", never=tmp_path / "never.mp4")
    assert names(tmp_path / "out") == kept
    assert outcome.failures[-1] == "interrupted after 2 of 6 images"
    assert outcome.stopped
    assert len(outcome.written) == 1
    with pytest.raises(KeyboardInterrupt):
        predict(Centre(lambda number: interrupt(stopped_at)), images, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_unforeseen_error_keeps_what_is_predicted(images: list[InputImage], tmp_path: Path) -> None:
    def fail(number: int) -> None:
        if number == 3:
            raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError):
        predict(Centre(fail), images, tmp_path / "out")
    assert names(tmp_path / "out") == ["0", "2"]


def test_a_full_disk_ends_the_call_and_is_named(
    images: list[InputImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        if path.stem == "2":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(pipeline, "write_atomic", full)
    outcome = predict(Centre(), images, tmp_path / "out", never=tmp_path / "never.mp4")
    assert outcome.failures[-1].endswith("2.png: No space left on device")
    assert outcome.stopped
    assert names(tmp_path / "out") == ["0", "2"]


def test_ctrl_c_in_a_video_keeps_its_frames(tmp_path: Path) -> None:
    def interrupt(number: int) -> None:
        if number == 5:
            raise KeyboardInterrupt

    with write_video(tmp_path / "a.mp4", 10.0) as add:
        for _ in range(8):
            add(np.zeros((32, 32, 3), np.uint8))
    outcome = predict(Centre(interrupt), [], tmp_path / "out", a=tmp_path / "a.mp4", b=tmp_path / "a.mp4")
    assert outcome.failures == [f"interrupted after 4 frames of {tmp_path / 'a.mp4'}"]
    assert {path.name for path in (tmp_path / "out").glob("a_*")} == {
        "a_tracks.csv",
        "a_tracks.png",
        "a_deeplabcut.csv",
    }
    with (tmp_path / "out" / "a_tracks.csv").open(newline="") as file:
        assert [row["time"] for row in csv.DictReader(file) if row["name"] == "a"] == [
            "0.0000",
            "0.1000",
            "0.2000",
            "0.3000",
        ]


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """What is kept of each image is less than its row in the table."""
    import tracemalloc

    def many(count: int) -> int:
        shared = InputImage("x", Path("x.png"), lambda: np.zeros((8, 8, 3), np.uint8))
        tracemalloc.start()
        predict_inputs(Centre(), [shared] * count, PredictionTable(False), {}, tmp_path / "out", draw=False)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    many(10)
    assert many(1000) - many(100) < 900 * 32
