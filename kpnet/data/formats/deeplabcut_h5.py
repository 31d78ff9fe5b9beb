"""Read DeepLabCut's labels from HDF5, for projects without a CSV of them."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from kpnet.core.errors import KpnetError, first_line
from kpnet.data.formats.unpacking import MAX_GIB, check_unpacked_size


def read_h5(path: Path) -> list[list[str]]:
    """Read a table of labels as lines of cells, as the CSV has them.

    Raises:
        KpnetError: PyTables is not installed, or the file is no table of labels.
    """
    try:
        import tables
    except ImportError:
        raise KpnetError(
            f"{path}: reading HDF5 needs PyTables: pip install tables; or export the labels as CSV"
        ) from None
    import pandas as pd

    try:
        with _plain_pickles():
            with tables.open_file(path) as file:
                size = sum(node.size_in_memory for node in file.walk_nodes("/", "Leaf"))
            check_unpacked_size(path, "its table", size, MAX_GIB)
            frame = pd.read_hdf(path)
    except KpnetError:
        raise
    except Exception as error:  # PyTables and pandas raise all kinds of errors for a damaged file
        reason = first_line(error)
        raise KpnetError(f"{path}: not a readable HDF5 table of labels: {reason}") from None
    return list(csv.reader(frame.to_csv().splitlines()))


class _PlainUnpickler(pickle.Unpickler):
    """Unpickle plain values, and refuse classes and functions."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, expected names and numbers alone")


@contextmanager
def _plain_pickles() -> Iterator[None]:
    """Let PyTables unpickle plain values only: it stores lists of names as pickles, and a pickle may run any code."""

    def loads(data: bytes, **options: Any) -> Any:
        return _PlainUnpickler(io.BytesIO(data), **options).load()

    confined = SimpleNamespace(**{name: getattr(pickle, name) for name in pickle.__all__} | {"loads": loads})
    with patch("tables.attributeset.pickle", confined), patch("tables.atom.pickle", confined):
        yield
