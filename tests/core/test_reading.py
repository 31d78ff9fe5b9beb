"""Text and JSON that users give: read, or refused in one line that says where and why."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kpnet import KpnetError
from kpnet.core.reading import parse_json, read_json, read_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_text_of_every_editor(encoding: str, line_break: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(line_break.join(["né", "日本", ""]).encode(encoding))
    assert read_text(path, "text") == "né\n日本\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\nb\xe9\n", ["line 2", "0xe9", "UTF-8"]),
        (b"a\n\nb\0", ["line 3", "NUL"]),
        (b"\xff\xfea", ["UTF-16"]),
        (b"x" * 101, ["MiB"]),
    ],
)
def test_what_is_no_text(data: bytes, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(KpnetError, match=r"a\.txt: .*; expected a poem") as caught:
        read_text(path, "a poem", limit=100)
    assert all(word in str(caught.value) for word in expected)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, problem in (("fifo", "not a file"), (".", "not a file"), ("gone", "no such file")):
        with pytest.raises(KpnetError, match=problem):
            read_text(tmp_path / name, "a poem")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1,\n "b" 2}', ["line 2", "delimiter"]),
        ('{"x": {"id": 1, "id": 2}}', ['"id"', "twice"]),
        ("[" * 100_000, ["nested"]),
        ("[" + "1" * 5000 + "]", ["digits"]),
        ("", ["line 1"]),
    ],
)
def test_bad_json(text: str, expected: list[str]) -> None:
    with pytest.raises(KpnetError, match=r"^a\.json.*not JSON: .*; expected COCO JSON$") as caught:
        parse_json(text, "a.json", "COCO JSON")
    assert all(word in str(caught.value) for word in expected)
    assert len(str(caught.value)) < 300


def test_good_json(tmp_path: Path) -> None:
    values = {"a": [1, 2.5, None, True, "é"], "b": {"a": {"a": 1e300}}}
    (tmp_path / "a.json").write_text(json.dumps(values), encoding="utf-16")
    assert read_json(tmp_path / "a.json", "JSON") == values
