"""Folds keep all samples of an image together, whichever file of labels names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.format_files import write_coco, write_points_csv

from kpnet.config.loading import load_config
from kpnet.config.schema import Config, Fold
from kpnet.data.build import build_splits, build_train
from kpnet.data.wrappers.subset import split_fold


def config(folder: Path, train: Any, **data: Any) -> Config:
    model = {"backbone": "conv_sandwich", "head": "regression", "in_channels": 1, "input_size": 16}
    return load_config({"model": model, "data": {"root": str(folder), "train": train, **data}})


def test_an_image_of_two_files_is_in_one_fold(tmp_path: Path) -> None:
    write_coco(tmp_path)
    write_points_csv(tmp_path)
    files = [{"file": "heads.json", "format": "coco"}, {"file": "points.csv", "format": "points_csv"}]
    data = build_train(config(tmp_path, files))
    held = []
    for index in range(3):
        train, val = split_fold(data, Fold(index=index, of=3))
        names = [{Path(data.image_key(int(i))).name for i in part} for part in (train, val)]
        assert not names[0] & names[1]
        assert len(train) + len(val) == 8
        held += val.tolist()
    assert sorted(held) == list(range(8))


def test_rows_of_a_table_are_images_of_their_own(tmp_path: Path) -> None:
    """Two files whose rows have the same numbers as names."""
    for name in ("a.csv", "b.csv"):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (3, 16))
        rows = [f"1,2,{' '.join(map(str, row))}" for row in pixels]
        (tmp_path / name).write_text("\n".join(["nose_x,nose_y,Image", *rows]))
    data = build_train(config(tmp_path, ["a.csv", "b.csv"]))
    assert len({data.image_key(i) for i in range(6)}) == 6
    assert len(split_fold(data, Fold(index=0, of=6))[1]) == 1


def test_images_that_are_trained_and_validated_on_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_coco(tmp_path)
    lines = write_points_csv(tmp_path).read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join([lines[0], lines[-1].replace("c.png", "./c.png")]))
    skeleton = ["nose", "left_ear", "right_ear"]
    files = [{"file": "heads.json", "format": "coco"}]
    build_splits(config(tmp_path, files, format="points_csv", val="some.csv", skeleton=skeleton), (0, 0))
    assert "1 of the 1 images of data.val are in data.train too, such as " in caplog.text
    assert "c.png" in caplog.text
