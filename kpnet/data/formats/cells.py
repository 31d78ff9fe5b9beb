"""Cells of a table as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def parse_numbers(cells: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parse cells as numbers.

    Args:
        cells: N cells: text, numbers or None.

    Returns:
        Float64 (N,), NaN where a cell is empty, "nan" or no number, and bool (N,), True where it is no number.
    """
    values, wrong = np.full(len(cells), np.nan), np.zeros(len(cells), bool)
    for row, cell in enumerate(cells):
        try:
            values[row] = float("nan" if cell is None or cell == "" else cell)
        except (TypeError, ValueError):
            wrong[row] = True
    return values, wrong
