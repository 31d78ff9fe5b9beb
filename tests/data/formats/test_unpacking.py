"""Small files that unpack to gigabytes are refused before they fill the memory."""

from __future__ import annotations

import resource
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.format_files import write_points_csv

from kpnet.core.errors import KpnetError
from kpnet.data import NPZ, PointsCSV
from kpnet.data.formats.unpacking import check_unpacked_size
from kpnet.data.image_sequences import open_images

SIDE = 96


def bomb(path: Path, shape: str) -> Path:
    """Write an npz whose array says that it is as large as `shape`; its data need not be there."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images", "keypoints"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return path


@pytest.mark.parametrize("shape", ["(6000, 1000, 1000)", "(1000000, 1000000, 1000000, 3)", "(10, -5, 5)", "'x'"])
def test_an_npz_of_zeros(tmp_path: Path, shape: str) -> None:
    path = bomb(tmp_path / "a.npz", shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (NPZ, partial(open_images, size=(SIDE, SIDE))):
        with pytest.raises(
            KpnetError, match=r"a\.npz: (images.* would take .* GiB of memory|not a readable npz)"
        ) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_what_is_large_on_the_disk_too_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1000))
    check_unpacked_size(tmp_path / "a", "it", 20_000, max_gib=0)
    check_unpacked_size(tmp_path / "a", "it", 2**30, max_gib=1)
    with pytest.raises(KpnetError, match=r"a: it would take 2\.0 GiB .* the limit is 1 GiB: .* set max_gib"):
        check_unpacked_size(tmp_path / "a", "it", 2**31, max_gib=1)


def test_the_limit_is_an_option(tmp_path: Path) -> None:
    images, points = np.zeros((40, 64, 64), np.uint8), np.ones((40, 2, 2))
    np.savez_compressed(tmp_path / "a.npz", images=images, keypoints=points)
    assert len(NPZ(tmp_path / "a.npz")) == 40
    with pytest.raises(KpnetError, match="set max_gib"):
        NPZ(tmp_path / "a.npz", max_gib=0)


def test_a_parquet_file_of_many_equal_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = write_points_csv(tmp_path).with_suffix(".parquet")
    count = 300_000
    frame = pd.DataFrame({"image": pd.Categorical(["a.png"] * count), "a_x": np.zeros(count), "a_y": np.zeros(count)})
    frame.to_parquet(path)
    with pytest.raises(KpnetError, match=r"points\.parquet: its table would take .* set max_gib"):
        PointsCSV(path, max_gib=1e-3)
    frame[:4].to_parquet(path)
    assert len(PointsCSV(path)) == 4
