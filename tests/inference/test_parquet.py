"""Predictions in Parquet, read back by pyarrow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from kpnet.core.errors import KpnetError
from kpnet.inference import parquet
from kpnet.inference.inputs import InputImage
from kpnet.inference.parquet import ParquetTable, table_writer
from kpnet.inference.prediction import Prediction

SOURCE = InputImage("x", Path("x.png"), lambda: np.zeros((2, 2), np.uint8))


def found(name: str, count: int) -> Prediction:
    points = np.arange(count * 4, dtype=float).reshape(count, 2, 2)
    points[:1, 0, 0] = np.nan
    return Prediction(name, ("a", "b"), points, None, None, scores=np.linspace(0.9, 0.1, count))


@pytest.mark.parametrize("held", [1, 5, 1000])
def test_every_point_is_a_row_whatever_the_groups(held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "HELD", held)
    table = ParquetTable("points.parquet", ["score"])
    with table.writing(tmp_path) as path:
        for count in (2, 0, 3):
            table.add(found(f"{count}\udce9.png", count), SOURCE, SOURCE.load())
    assert [file.name for file in tmp_path.iterdir()] == ["points.parquet"]
    rows = pq.read_table(path).to_pandas()
    assert list(rows) == ["image", "instance", "name", "x", "y", "confidence", "score"]
    assert rows.image.tolist() == ["2\\udce9.png"] * 4 + ["3\\udce9.png"] * 6
    assert rows.instance.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2]
    assert rows.name.tolist() == ["a", "b"] * 5
    assert rows.x.tolist() == pytest.approx([np.nan, 2, 4, 6, np.nan, 2, 4, 6, 8, 10], nan_ok=True)
    assert rows.y.tolist() == [1, 3, 5, 7, 1, 3, 5, 7, 9, 11]
    assert rows.score.tolist() == pytest.approx([0.9, 0.9, 0.1, 0.1, 0.9, 0.9, 0.5, 0.5, 0.1, 0.1])
    assert rows.confidence.isna().all()


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    table = ParquetTable("points.parquet")

    def write() -> None:
        with table.writing(tmp_path):
            table.add(found("x", 2), SOURCE, SOURCE.load())
            raise KpnetError("no more")

    with pytest.raises(KpnetError, match="no more"):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.PARQUET"])
def test_a_table_in_parts_is_the_table(name: str, tmp_path: Path) -> None:
    whole = pd.DataFrame({"frame": range(7), "name": list("abcdefg"), "x": np.linspace(0, 1, 7)})
    with table_writer(tmp_path / name) as add:
        for start in (0, 3, 6):
            add(whole[start : start + 3])
    read = pd.read_csv if name == "a.csv" else pd.read_parquet
    pd.testing.assert_frame_equal(read(tmp_path / name), whole, atol=5e-5, check_dtype=False)
