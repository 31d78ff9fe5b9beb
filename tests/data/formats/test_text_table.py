"""Tables of text as spreadsheets and scripts of all countries write them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpnet.core.errors import KpnetError
from kpnet.data.formats.text_table import find_delimiter, read_text_table

ROWS = [["image", "münd_x", "münd_y"], ["a.png", "1.5", ""]]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_encodings_delimiters_and_ends_of_lines(tmp_path: Path, encoding: str, delimiter: str, newline: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(newline.join(["", *map(delimiter.join, ROWS), "", ""]).encode(encoding))
    table = read_text_table(path, "a table")
    assert (table.lines, table.numbers) == (ROWS, [2, 3])
    assert table.decimal_comma is (delimiter != ",")
    assert any("not UTF-8" in note for note in table.notes) is (encoding in ("utf-16", "cp1252"))


def test_the_line_in_which_excel_names_the_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sep=;\nimage;a,b_x\n")
    assert read_text_table(tmp_path / "a.csv", "a table").lines == [["image", "a,b_x"]]


@pytest.mark.parametrize(
    ("line", "delimiter"),
    [
        ("a.png;1,5;2,5", ";"),  # as many commas
        ("a.png,1,2", ","),
        ("image;a_x;a_y", ";"),
        ("image,a;b_x,a;b_y", ","),
        ('"a;b;c;d",1', ","),
        ("image", ","),
    ],
)
def test_what_separates_the_cells(line: str, delimiter: str) -> None:
    assert find_delimiter(line) == delimiter


@pytest.mark.parametrize("data", [b"\x00\x01\xff\xfe", b"PK\x03\x04\xff", b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n\xff"])
def test_what_is_no_text(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(KpnetError, match=r"a\.csv: not a text file; expected a table"):
        read_text_table(tmp_path / "a.csv", "a table")


@settings(max_examples=60)
@given(st.lists(st.lists(st.text('ab,;" \té', max_size=4), min_size=2, max_size=3), min_size=1, max_size=4))
def test_cells_are_those_that_pythons_csv_module_wrote(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["image"] * 9, *rows])
    path = tmp_path_factory.mktemp("t") / "a.csv"
    path.write_text(file.getvalue(), encoding="utf-8")
    stripped = [[cell.strip() for cell in row] for row in rows]
    assert read_text_table(path, "a table").lines[1:] == [row for row in stripped if any(row)]


def test_a_long_cell_and_a_quote_that_is_not_closed_cost_their_own_line(tmp_path: Path) -> None:
    long = "x" * 200_000
    (tmp_path / "a.csv").write_text(f'image,a\nb,"{long}"\nc,"open\nd,1\ne,{long}\n')
    lines = read_text_table(tmp_path / "a.csv", "a table").lines
    assert [line[0][:1] for line in lines] == ["i", "b", "c", "d", "e"]
    assert [len(line) for line in lines] == [2, 1, 2, 2, 2]
    assert lines[4][1] == long
