"""Read a CSV whose `Image` column holds grey values as text: labels as strings, pixels by vectorised arithmetic.

In messages, a line is counted as in an editor (the header is line 1) and a data row from 1.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kpnet.core.errors import KpnetError, did_you_mean, shorten
from kpnet.data.formats.text_table import check_unique, decode_text, find_delimiter, split_line

_EXPECTED = "a header line NAME_x,NAME_y,…,Image"
_CHUNK = 1 << 19  # bytes of text at a time, so that its arrays fit into the processor's cache
_COMMA, _QUOTE, _NEWLINE, _RETURN, _SPACE, _ZERO = b',"\n\r 0'


@dataclass
class PixelTable:
    """The content of a file.

    Attributes:
        path: The file.
        columns: Names of the columns.
        images: Uint8 (N, side, side).
        cells: N rows of text, with the Image cell empty.
        lines: The line of each row, int (N,).
    """

    path: Path
    columns: list[str]
    images: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    cells: list[list[str]] = field(default_factory=list)
    lines: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        self._place = {name: k for k, name in enumerate(self.columns)}

    def __contains__(self, name: str) -> bool:
        return name in self._place

    def column(self, name: str) -> list[str]:
        """Return the cells (N,) of a column, without blanks around them."""
        index = self._place[name]
        return [row[index].strip() for row in self.cells]

    def where(self, row: int) -> str:
        """Return how messages refer to a row, which is counted from 0."""
        return f"{self.path}, line {self.lines[row]} (data row {row + 1})"


def read_header(path: Path) -> list[str]:
    """Return the column names, or raise KpnetError if the file is missing, empty or no CSV with an `Image` column."""
    if path.is_dir():
        raise KpnetError(f"{path}: a folder, expected a CSV file")
    if not path.is_file():
        folder = path.parent
        if not folder.is_dir():
            raise KpnetError(f"{path}: no such file: there is no folder {folder}")
        raise KpnetError(f"{path}: no such file{did_you_mean(path.name, (f.name for f in folder.iterdir()))}")
    with path.open("rb") as file:
        return _header(path, file.readline())


def read_pixel_csv(path: Path) -> PixelTable:
    """Read a file, some whole lines at a time, or raise KpnetError that names the first invalid line."""
    pixels: list[np.ndarray] = []
    labels: list[str] = []
    table = PixelTable(path, read_header(path))
    with path.open("rb") as file:
        file.readline()
        line = 2
        while chunk := _whole_lines(file):
            expected = pixels[0].shape[1] if pixels else None
            rows, text = _read_chunk(table, chunk, line, expected)
            line += chunk.count(b"\n")
            labels += text
            if len(rows):
                pixels.append(rows)
    if not pixels:
        raise KpnetError(f"{path}: a header but no rows; expected one row for each image")
    side = math.isqrt(pixels[0].shape[1])
    table.images = np.concatenate(pixels).reshape(-1, side, side)
    try:
        table.cells = list(csv.reader(labels, skipinitialspace=True))
    except csv.Error as error:
        raise KpnetError(f"{path}: not CSV text: {error}") from None
    _check_cells(table, [len(row) or 1 for row in table.cells], 0)
    return table


def _whole_lines(file: BinaryIO) -> bytes:
    chunk = file.read(_CHUNK) + file.readline()
    return chunk + b"\n" if chunk and not chunk.endswith(b"\n") else chunk


def _header(path: Path, line: bytes) -> list[str]:
    """Return the column names, or raise KpnetError for an empty file, no Image column, or a name that appears twice."""
    if not line.strip():
        raise KpnetError(f"{path}: empty; expected {_EXPECTED} and one row for each image")
    if line.startswith(b"PK\x03\x04"):
        raise KpnetError(f"{path}: a zip archive, expected CSV text; unpack it first")
    text = decode_text(path, line, _EXPECTED)[0].rstrip("\r\n")
    columns = split_line(text, ",")
    if "Image" not in columns:
        delimiter = find_delimiter(text)
        if "Image" in split_line(text, delimiter):
            called = {"\t": "tabs", ";": "semicolons"}.get(delimiter, delimiter)
            raise KpnetError(
                f"{path}: its cells are separated by {called}, expected commas; save it again, in pandas as "
                f"read_csv(path, sep={delimiter!r}).to_csv(path, index=False)"
            )
        raise KpnetError(
            f"{path}: no Image column among {len(columns)} ({shorten(', '.join(columns))})"
            f"{did_you_mean('Image', columns)}; expected {_EXPECTED}, or a column image with the names of image files"
        )
    check_unique(path, columns)
    return columns


def _read_chunk(table: PixelTable, chunk: bytes, line: int, expected: int | None) -> tuple[np.ndarray, list[str]]:
    """Return the pixels of whole lines, uint8 (n, P), and the CSV text of their other cells; add to `table.lines`."""
    text = np.frombuffer(bytearray(chunk), np.uint8)
    ends = np.flatnonzero(text == _NEWLINE)
    starts = np.concatenate(([0], ends[:-1] + 1))
    ends -= (ends > starts) & (text[ends - 1] == _RETURN)
    filled = ends > starts  # a blank line counts as a line, not as a row
    first = len(table.lines)
    table.lines = np.concatenate((table.lines, line + np.flatnonzero(filled)))
    image_starts, image_ends = _image_fields(table, text, starts[filled], ends[filled], first)
    labels = [
        decode_text(table.path, chunk[start:image_start] + chunk[image_end:end], _EXPECTED)[0]
        for start, image_start, image_end, end in zip(
            starts[filled], image_starts, image_ends, ends[filled], strict=True
        )
    ]
    _blank_all_but(text, image_starts, image_ends)
    values, last, wrong = parse_pixels(text)
    if wrong is not None:
        row = int(np.searchsorted(image_ends, wrong, "right"))
        cell = bytes(text[image_starts[row] : image_ends[row]])
        raise KpnetError(f"{table.where(first + row)}: {_describe_wrong_pixel(cell)}")
    counts = np.array([np.count_nonzero(last[s:e]) for s, e in zip(image_starts, image_ends, strict=True)], np.int64)
    if len(counts):
        expected = _check_counts(table, counts, first, expected)
    return values.reshape(len(counts), expected or 0), labels


def _image_fields(
    table: PixelTable, text: np.ndarray, starts: np.ndarray, ends: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first byte (n,) and the end (n,) of each row's Image cell."""
    commas, quotes = np.flatnonzero(text == _COMMA), np.flatnonzero(text == _QUOTE)
    if len(quotes):
        odd = (np.searchsorted(quotes, ends) - np.searchsorted(quotes, starts)) % 2
        if odd.any():
            where = table.where(first + int(odd.argmax()))
            raise KpnetError(f'{where}: a quote (") that the line does not close; expected one row in each line')
        commas = commas[np.searchsorted(quotes, commas) % 2 == 0]
    _check_cells(table, np.searchsorted(commas, ends) - np.searchsorted(commas, starts) + 1, first)
    inner = commas.reshape(len(starts), len(table.columns) - 1)
    column = table.columns.index("Image")
    return (
        starts if column == 0 else inner[:, column - 1] + 1,
        ends if column == len(table.columns) - 1 else inner[:, column],
    )


def _check_cells(table: PixelTable, found: np.ndarray | list[int], first: int) -> None:
    """Raise unless every row has as many cells as the header."""
    wrong = np.asarray(found) != len(table.columns)
    if wrong.any():
        row = int(wrong.argmax())
        raise KpnetError(
            f"{table.where(first + row)}: cells: expected {len(table.columns)} as in the header, found {found[row]}; "
            "is the line cut short, or a comma unquoted?"
        )


def _blank_all_but(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
    """Overwrite with spaces what lies outside the cells [start, end), and the quotes around a cell."""
    edges = [0, *np.stack((starts, ends), axis=1).ravel().tolist(), len(text)]
    for before, after in zip(edges[::2], edges[1::2], strict=True):
        text[before:after] = _SPACE
    filled = ends > starts
    starts, ends = starts[filled], ends[filled]
    quoted = (text[starts] == _QUOTE) & (text[ends - 1] == _QUOTE)
    text[starts[quoted]] = text[ends[quoted] - 1] = _SPACE


def parse_pixels(text: np.ndarray) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Parse whole numbers from 0 to 255 between blanks. Each step is one pass over all bytes.

    Args:
        text: Uint8 (n,), whose last byte is blank.

    Returns:
        The numbers, uint8 (m,); the positions of their last digits, bool (n,); and the position of the first byte that
        belongs to no such number, or None.
    """
    digit = np.full(len(text) + 3, 255, np.uint8)
    np.subtract(text, _ZERO, out=digit[3:])  # wraps around: what is no digit becomes 10 to 255
    is_digit = digit < 10
    digit *= is_digit
    low = digit[3:] + 10 * (digit[2:-1] * is_digit[3:])
    hundreds = digit[1:-2] * (is_digit[2:-1] & is_digit[3:])
    wrong = (hundreds > 2) | ((hundreds == 2) & (low > 55))
    wrong |= is_digit[3:] & is_digit[2:-1] & is_digit[1:-2] & is_digit[:-3]  # four digits
    wrong |= (text > _SPACE) & ~is_digit[3:]
    last = is_digit[3:].copy()
    last[:-1] &= ~is_digit[4:]
    low += 100 * hundreds
    return low[np.flatnonzero(last)], last, int(wrong.argmax()) if wrong.any() else None


def _describe_wrong_pixel(cell: bytes) -> str:
    for position, word in enumerate(cell.split(), start=1):
        if not (word.isdigit() and len(word) <= 3 and int(word) <= 255):
            found = shorten(word.decode("utf-8", errors="replace"))
            return f'pixel {position} is "{found}"; expected whole numbers 0 to 255 with spaces between'
    raise AssertionError("the cell has no wrong pixel")


def _check_counts(table: PixelTable, counts: np.ndarray, first: int, expected: int | None) -> int:
    """Return the number of pixels in a row: a perfect square, and the same in every row of the file."""
    if expected is None:
        expected = int(counts[0])
        side = round(math.sqrt(expected))
        if expected == 0 or side * side != expected:
            fix = f"the nearest is {side * side} = {side} × {side}" if expected else "e.g. 9216 = 96 × 96"
            raise KpnetError(f"{table.where(first)}: {expected} pixels, expected a square image; {fix}")
    wrong = counts != expected
    if wrong.any():
        row = int(wrong.argmax())
        raise KpnetError(
            f"{table.where(first + row)}: {counts[row]} pixels, expected {expected} as in the first row; "
            "complete the row or remove it"
        )
    return expected
