"""Numbers in cells of text, of numbers, and of neither."""

from __future__ import annotations

import numpy as np

from kpnet.data.formats.cells import parse_numbers


def test_text_numbers_empty_cells_and_others() -> None:
    cells = np.array(["1.5", "", None, 0, 2, "nan", "left", [3]], dtype=object)
    values, wrong = parse_numbers(cells)
    np.testing.assert_array_equal(values, [1.5, np.nan, np.nan, 0, 2, np.nan, np.nan, np.nan])
    assert wrong.tolist() == [False] * 6 + [True, True]
