"""Predictions in shards: whole files, each input once, and a list that is made once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kpnet.config.schema import ModelConfig
from kpnet.core.errors import KpnetError
from kpnet.data.video import write_video
from kpnet.inference import shards
from kpnet.inference.inputs import InputImage, stream_images
from kpnet.inference.prediction import Prediction

CONFIG = ModelConfig(backbone="conv_sandwich", head="heatmap", num_keypoints=2, input_size=(32, 32))
IDENTITY = {"model": "m", "inputs": ["photos"]}


class Sizes:
    """In place of a predictor: the first point is the image's width and height, the second one is missing."""

    batch_size = 2

    def __init__(self) -> None:
        fields = {"config": CONFIG, "frame_window": (0, 0), "finds_instances": False, "point_values": ()}
        self.model: Any = type("Model", (), fields)

    def stream(self, images: Iterator[Any]) -> Iterator[Prediction]:
        for name, pixels, boxes in images:
            count = 1 if boxes is None else len(boxes)
            points = np.array([[pixels.shape[1::-1], (np.nan, np.nan)]] * count, float)
            yield Prediction(name, ("a", "b"), points, np.full((count, 2), 0.5), None)

    def track(self, frames: Iterator[np.ndarray]) -> Iterator[Prediction]:
        return self.stream(("", frame, None) for frame in frames)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images, of which number 4 is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        Image.new("RGB", (10 + number, 9)).save(folder / f"{number}.png")
    (folder / "4.png").write_text("none")
    return folder


def prepare(out: Path, *inputs: Path, videos: tuple[Path, ...] = (), size: int = 3, **identity: Any) -> int:
    failures: list[str] = []
    images = stream_images(inputs, failures, boxes=True)
    return shards.prepare(out, {**IDENTITY, **identity}, images, videos, (0, 0), failures, size)


def predict(out: Path, *numbers: int) -> None:
    for number in numbers:
        shards.predict_shard(Sizes(), out, number)  # type: ignore[arg-type]


def test_each_input_is_in_one_shard_and_bad_ones_are_in_a_file(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare(out, photos) == 3
    assert shards.missing(out, 3) == [0, 1, 2]
    predict(out, 2, 0)
    assert shards.missing(out, 3) == [1]
    predict(out, 1)
    assert shards.write_failures(out, 3) == (6, 1, 0)
    table = pq.read_table(out / "predictions").to_pandas()
    assert list(table.columns) == ["image", "frame", "time", "instance", "name", "x", "y", "confidence"]
    assert sorted(Path(name).name for name in table[table["name"] == "a"]["image"]) == [
        f"{i}.png" for i in (0, 1, 2, 3, 5, 6)
    ]
    assert [row.x - 10 for row in table.itertuples() if row.name == "a"] == [
        int(Path(row.image).stem) for row in table.itertuples() if row.name == "a"
    ]
    assert table[table["name"] == "b"]["x"].isna().all()
    lines = (out / "failed.csv").read_text().splitlines()
    assert lines[0] == "image,reason"
    assert len(lines) == 2
    assert lines[1].startswith(str(photos / "4.png"))


def test_the_list_is_made_once_and_another_call_is_refused(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare(out, photos) == 3
    Image.new("RGB", (4, 4)).save(photos / "later.png")
    assert prepare(out, photos) == 3
    assert "later" not in str(pq.read_table(out / "inputs.parquet").to_pydict()["image"])
    with pytest.raises(KpnetError, match="predictions of another call: its model is m, and here other"):
        prepare(out, photos, model="other")
    with pytest.raises(KpnetError, match="photos: holds other files"):
        prepare(photos, photos)
    (out / "inputs.parquet").write_text("none")
    with pytest.raises(KpnetError, match="not a list of inputs that kpnet wrote"):
        prepare(out, photos)


def test_what_cannot_be_listed_is_kept_and_nothing_at_all_is_an_error(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.mp4").write_text("none")
    out = tmp_path / "out"
    prepare(out, tmp_path / "bad.json", photos, videos=(tmp_path / "bad.mp4",))
    assert [Path(line.split(":")[0]).name for line in shards.listing_failures(out)] == ["bad.json, line 1", "bad.mp4"]
    held = InputImage("a.npz:1", Path("a"), lambda: np.zeros((4, 4), np.uint8))
    with pytest.raises(KpnetError, match=r"a\.npz:1: --engine ray reads image files alone"):
        shards.prepare(tmp_path / "none", IDENTITY, [held], [], (0, 0), [])
    shards.remove_empty(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_boxes_exif_and_stated_sizes_reach_the_worker(photos: Path, tmp_path: Path) -> None:
    values = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 10 + i, "height": 9} for i in (0, 1)],
        "annotations": [
            {"id": i, "image_id": i // 2, "category_id": 1, "keypoints": [1, 1, 2, 3, 3, 2], "bbox": [0, 0, 5, 5]}
            for i in range(3)
        ],
        "categories": [{"id": 1, "name": "thing", "keypoints": ["a", "b"]}],
    }
    (photos / "labels.json").write_text(json.dumps(values))
    out = tmp_path / "out"
    prepare(out, photos / "labels.json")
    rows = pq.read_table(out / "inputs.parquet").to_pylist()
    assert [(row["height"], row["width"], len(row["boxes"]), row["exif"]) for row in rows] == [
        (9, 10, 8, None),
        (9, 11, 4, None),
    ]
    Image.new("RGB", (30, 20)).save(photos / "1.png")
    predict(out, 0)
    assert shards.write_failures(out, 1) == (1, 1, 0)
    assert pq.read_table(out / "predictions").to_pydict()["instance"] == [0, 0, 1, 1]
    assert "labels.json says 11x9" in (out / "failed.csv").read_text()


def test_a_video_is_predicted_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "FRAMES", 4)
    with write_video(tmp_path / "a.mp4", 10.0) as add:
        for _ in range(10):
            add(np.zeros((32, 48, 3), np.uint8))
    out = tmp_path / "out"
    assert prepare(out, videos=(tmp_path / "a.mp4",)) == 3
    predict(out, 0, 1, 2)
    assert shards.write_failures(out, 3) == (3, 0, 0)
    assert not (out / "failed.csv").exists()
    table = pq.read_table(out / "predictions").to_pandas()
    assert table["frame"].tolist() == np.repeat(np.arange(10), 2).tolist()
    assert table["time"].to_numpy() == pytest.approx(np.repeat(np.arange(10), 2) / 10)
    assert set(table["image"]) == {str(tmp_path / "a.mp4")}


def test_a_damaged_or_foreign_shard_is_named(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(out, photos)
    predict(out, 0)
    first = shards.shard_file(out, 0)
    first.rename(shards.shard_file(out, 2))
    with pytest.raises(KpnetError, match=r"000002\.parquet: of other inputs"):
        shards.write_failures(out, 3)
    for damage in (b"none", None):
        if damage is None:
            pq.write_table(pa.table({"x": [1]}), first)
        else:
            first.write_bytes(damage)
        with pytest.raises(KpnetError, match=r"000000\.parquet: damaged, or no shard of kpnet"):
            shards.read_shard(first)


def test_a_shard_is_there_whole_or_not_at_all(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    prepare(out, photos)

    def full(table: Any, path: Path, **options: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            predict(out, 0)
    assert not list((out / "predictions").iterdir())
    left = out / "predictions" / ".kpnet-0123.part"
    left.write_bytes(b"of a killed worker")
    prepare(out, photos)
    assert not left.exists()


def test_every_instance_has_its_score_and_images_without_one_are_counted(photos: Path, tmp_path: Path) -> None:
    class Finds(Sizes):
        def __init__(self) -> None:
            fields = {"config": CONFIG, "frame_window": (0, 0), "finds_instances": True, "point_values": ()}
            self.model: Any = type("Model", (), fields)

        def stream(self, images: Iterator[Any]) -> Iterator[Prediction]:
            for name, pixels, _ in images:
                count = pixels.shape[1] % 3
                scores = np.linspace(1, 0.5, count)
                yield Prediction(name, ("a", "b"), np.zeros((count, 2, 2)), None, None, scores=scores)

    out = tmp_path / "out"
    prepare(out, photos, size=10)
    shards.predict_shard(Finds(), out, 0)  # type: ignore[arg-type]
    table = pq.read_table(shards.shard_file(out, 0)).to_pydict()
    found = {
        (Path(image).stem, row): score
        for image, row, score in zip(table["image"], table["instance"], table["score"], strict=True)
    }
    # Widths 10, 11, 12, 13, (14,) 15 and 16.
    assert found == {("0", 0): 1, ("1", 0): 1, ("1", 1): 0.5, ("3", 0): 1, ("6", 0): 1}
    assert len(table["x"]) == 10
    assert shards.write_failures(out, 1) == (6, 1, 2)
