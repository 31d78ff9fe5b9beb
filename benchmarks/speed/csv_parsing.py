"""Compare KaggleCSV with `pandas.read_csv` on the same file: time side by side, and peak memory.

    python benchmarks/speed/csv_parsing.py [ROWS] [--repeats 5]

The file has ROWS (default 2000) synthetic faces of 96x96 pixels.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from kpnet.data import KaggleCSV, SyntheticFaces


def write(path: Path, rows: int) -> None:
    """Write synthetic faces in the course's layout."""
    faces = SyntheticFaces(min(rows, 500))
    with path.open("w") as file:
        file.write(",".join(f"{n}_{axis}" for n in faces.skeleton.names for axis in "xy") + ",Image\n")
        for row in range(rows):
            image, xy = faces.read(row % len(faces))
            file.write(",".join(f"{v:.4f}" for v in xy.ravel()) + "," + " ".join(map(str, image.ravel())) + "\n")


def seconds(action: Callable[[], object]) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def peak_growth(path: Path) -> int:
    """Return the bytes by which reading the file raises the peak memory of a fresh process."""
    return int(subprocess.check_output([sys.executable, __file__, "--peak", str(path)], text=True))


def peak_here(path: Path) -> int:
    """Return the bytes by which reading the file raises this process's peak memory."""
    before = high_water()
    data = KaggleCSV(path)
    assert len(data)
    return high_water() - before


def high_water() -> int:
    """Return this program's peak resident bytes (Linux); `ru_maxrss` would count the parent's before the exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak_here(options.peak))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faces.csv"
        write(path, options.rows)
        size = path.stat().st_size
        actions = (lambda: pd.read_csv(path), lambda: KaggleCSV(path))
        times = np.array([[seconds(action) for action in actions] for _ in range(options.repeats)])
        pandas, ours = (statistics.median(column) for column in times.T.tolist())
        growth = peak_growth(path)
    print(f"{options.rows} rows, {size / 1e6:.0f} MB, medians of {options.repeats}")
    print(f"pandas.read_csv {pandas:.3f} s, KaggleCSV {ours:.3f} s: {ours / pandas:.2f} x (at most 3)")
    print(f"peak memory {growth / 1e6:.0f} MB: {growth / size:.2f} x the file (at most 3)")


if __name__ == "__main__":
    main()
