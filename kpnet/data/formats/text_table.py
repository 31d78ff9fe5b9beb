"""Read tables of text: cells between commas, semicolons, tabs or bars, in UTF-8, UTF-16 or Windows-1252."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kpnet.core.errors import KpnetError, shorten
from kpnet.core.reading import BYTE_ORDER_MARKS
from kpnet.data.images import IMAGE_SUFFIXES

_DELIMITERS = ",;\t|"
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # control characters that no text has
_NEWLINE = re.compile(r"\r\n|\n|\r")
_NUMBER = re.compile(r"\s*(?:[-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][-+]?\d+)?|[nN]a[nN]|NA)?\s*")
_EXCEL = re.compile(r'"?sep=([,;\t|])"?', re.IGNORECASE)  # Excel's first line, which names the delimiter


@dataclass
class TextTable:
    """The lines of a file that are not blank, as cells without blanks around them.

    Attributes:
        delimiter: What stands between the cells.
        lines: Cells of each line.
        numbers: Number of each line in the file, counted from 1.
        notes: What was assumed about the file, one line each.
    """

    delimiter: str = ","
    lines: list[list[str]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def decimal_comma(self) -> bool:
        """Whether a comma in a cell is a decimal point."""
        return self.delimiter != ","


def decode_text(path: Path, data: bytes, expected: str) -> tuple[str, str | None]:
    """Decode a text file.

    Args:
        path: The file, for messages.
        data: Its content, or the beginning of it.
        expected: What the file should be, for messages.

    Returns:
        The text without a byte order mark, and a note on its encoding where that is not UTF-8.

    Raises:
        KpnetError: It is no text.
    """
    marked = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8-sig")
    for encoding in (marked,) if marked != "utf-8-sig" else ("utf-8-sig", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text or (encoding == "cp1252" and _NO_TEXT.search(data)):
            break
        return text, None if encoding == "utf-8-sig" else f"it is not UTF-8; it was read as {encoding.upper()}"
    raise KpnetError(f"{path}: not a text file; expected {expected}")


def read_bytes(path: Path, expected: str) -> bytes:
    """Read a file, or raise KpnetError if there is none or it cannot be read; the error says what was `expected`."""
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no such file"
        raise KpnetError(f"{path}: {kind}; expected {expected}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise KpnetError(f"{path}: {error.strerror}") from None


def read_text_table(path: Path, expected: str) -> TextTable:
    """Read a table.

    Args:
        path: The file.
        expected: What the file should be, for messages.

    Returns:
        The table. Lines may have different numbers of cells.

    Raises:
        KpnetError: There is no such file, or it is no text.
    """
    text, note = decode_text(path, read_bytes(path, expected), expected)
    lines = [(number, line) for number, line in enumerate(_NEWLINE.split(text), start=1) if line.strip()]
    table = TextTable(notes=[] if note is None else [note])
    if lines and (named := _EXCEL.fullmatch(lines[0][1])):
        table.delimiter = named[1]
        lines = lines[1:]
    elif lines:
        table.delimiter = find_delimiter(lines[0][1])
    if table.delimiter != ",":
        name = {"\t": "tabs", ";": "semicolons"}.get(table.delimiter, table.delimiter)
        table.notes.append(f"its cells are separated by {name}, so a comma in a number is its decimal point")
    for number, line in lines:
        cells = split_line(line, table.delimiter)
        if any(cells):
            table.lines.append(cells)
            table.numbers.append(number)
    return table


def find_delimiter(line: str) -> str:
    """Return what separates the cells of a line.

    Args:
        line: The first line of a table.

    Returns:
        Whichever of comma, semicolon, tab and bar gives the most cells. Where two give as many, it is the one between
        whose cells are numbers, as in `a.png;1,5;2,5`.
    """

    def score(delimiter: str) -> tuple[int, int]:
        cells = split_line(line, delimiter)
        return len(cells), sum(bool(cell) and _NUMBER.fullmatch(cell) is not None for cell in cells)

    return max(_DELIMITERS, key=score)


def split_line(line: str, delimiter: str) -> list[str]:
    """Split a line into cells without blanks around them; a line whose quotes are wrong is one cell."""
    if '"' not in line:
        return [cell.strip() for cell in line.split(delimiter)]
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
    except csv.Error:  # a quoted cell over the csv module's limit
        return [line.strip()]


def is_number(cell: str) -> bool:
    """Return whether a cell is a number or empty."""
    return _NUMBER.fullmatch(cell) is not None


def is_image_name(cell: str) -> bool:
    """Return whether a cell ends as the name of an image file."""
    return cell.lower().endswith(IMAGE_SUFFIXES)


def check_unique(path: Path, columns: Sequence[str]) -> None:
    """Raise KpnetError if two columns have one name."""
    name, times = Counter(columns).most_common(1)[0] if columns else ("", 1)
    if times > 1:
        raise KpnetError(f'{path}: column "{shorten(name)}" appears {times} times, expected once; rename or drop one')
