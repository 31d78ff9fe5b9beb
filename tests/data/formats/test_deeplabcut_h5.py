"""DeepLabCut's labels as HDF5: the same points as in its CSV, and nothing that a file may run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.format_files import write_dlc
from support.paths import SHARED

from kpnet.core.errors import KpnetError
from kpnet.data import DeepLabCut

PROJECTS = SHARED / "data" / "deeplabcut"
real_data = pytest.mark.skipif(not PROJECTS.is_dir(), reason=f"no {PROJECTS} (set KPNET_SHARED)")
TABLE = "labeled-data/v1/CollectedData_me.csv"


@real_data
@pytest.mark.parametrize("project", ["openfield", "reaching"])
def test_hdf5_where_there_is_no_csv(project: str, tmp_path: Path) -> None:
    pytest.importorskip("tables", reason="PyTables is not installed")
    (table,) = (PROJECTS / project).glob("labeled-data/*/CollectedData_*.h5")
    folder = tmp_path / "labeled-data" / table.parent.name
    folder.mkdir(parents=True)
    (tmp_path / "config.yaml").write_bytes((PROJECTS / project / "config.yaml").read_bytes())
    for path in [table, *table.parent.glob("*.png")]:
        (folder / path.name).symlink_to(path)
    ours, theirs = DeepLabCut(tmp_path), DeepLabCut(PROJECTS / project)
    for index in range(len(theirs)):
        assert np.allclose(ours.keypoints(index), theirs.keypoints(index), equal_nan=True)
        assert ours.image_name(index) == theirs.image_name(index)


def test_hdf5_runs_nothing_that_a_file_holds(tmp_path: Path) -> None:
    tables = pytest.importorskip("tables", reason="PyTables is not installed")
    from kpnet.data.formats.deeplabcut_h5 import read_h5

    class Touch:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    frame = pd.DataFrame({("me", "nose", "x"): [1.0], ("me", "nose", "y"): [2.0]}, index=["a.png"])
    for form in ("table", "fixed"):
        path = tmp_path / f"{form}.h5"
        frame.to_hdf(path, key="df_with_missing", format=form)
        assert read_h5(path)[-1] == ["a.png", "1.0", "2.0"]
        with tables.open_file(str(path), "a") as file:
            group = file.root.df_with_missing
            for name in ("info", "pandas_type", "non_index_axes"):
                group._v_attrs[name] = Touch()
        with pytest.raises(KpnetError, match=r"\.h5: not a readable HDF5 table of labels: "):
            read_h5(path)
        assert not (tmp_path / "ran").exists()


def test_without_pytables_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tables", None)
    table = write_dlc(tmp_path) / TABLE
    table.rename(table.with_suffix(".h5"))
    with pytest.raises(KpnetError, match=r"CollectedData_me\.h5: reading HDF5 needs PyTables: pip install tables"):
        DeepLabCut(tmp_path)
