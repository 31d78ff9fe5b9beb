"""Files that are whole or not there, and JSON without NaN."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from kpnet.core.files import PARTIAL, append_durably, file_name, plain, replacing, write_atomic, write_json


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for data in (b"first", b""):
        write_atomic(path, data)
        assert path.read_bytes() == data
        assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_full_disk_leaves_the_old_file_alone_and_is_named(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def full(target: Any, *_: Any) -> None:
        with Path(target).open("wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path if step == "write_bytes" else os, step, full)
        with pytest.raises(OSError, match="No space") as caught:
            write_atomic(path, b"new")
    assert caught.value.filename == str(path), "and not the file beside it"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_piece_by_piece_beside_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("old")
    with replacing(path) as beside:
        assert beside.suffix == ".mp4", "by which OpenCV knows the format"
        assert beside.parent == tmp_path
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_in_between_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as beside:
        raise ZeroDivisionError(beside.write_text("half"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match=r"a\.mp4"), replacing(path):
        pass  # nothing was written
    assert path.read_text() == "old"


@pytest.mark.parametrize("how", ["write_atomic", "replacing"])
def test_permissions_are_the_old_files_or_the_users_usual_ones(how: str, tmp_path: Path) -> None:
    def write(path: Path) -> int:
        if how == "write_atomic":
            write_atomic(path, b"new")
        else:
            with replacing(path) as beside:
                beside.write_bytes(b"new")
        assert path.read_bytes() == b"new"
        return stat.S_IMODE(path.stat().st_mode)

    path, old, linked = (tmp_path / name for name in ("a.mp4", "b.mp4", "c.mp4"))
    usual = os.umask(0o027)
    try:
        assert write(path) == 0o640
        path.chmod(0o604)
        assert write(path) == 0o604
        old.write_bytes(b"old")
        linked.symlink_to(old)
        write(linked)
    finally:
        os.umask(usual)
    assert old.read_bytes() == b"old", "a link is replaced, and what it points to is not"


def test_nobody_can_foresee_the_temporary_file(tmp_path: Path) -> None:
    """A link of its name, planted in a folder that others may write into, would lead elsewhere."""
    names = []
    for _ in range(3):
        with replacing(tmp_path / ("é" * 120 + ".mp4")) as beside:
            names.append(beside.name)
            beside.write_text("new")
    assert len(set(names)) == 3
    assert all(name.startswith(PARTIAL) for name in names)
    (tmp_path / "mine").write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_hex", lambda size: "foreseen")
        (tmp_path / f"{PARTIAL}foreseen.a.part").symlink_to("mine")
        with pytest.raises(OSError, match="exists"):
            write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("text", ["a/b", "..", "a\0b\n", "\ud800", "\udcff.png", "é" * 300, "a\\b", ""])
def test_a_file_name_of_any_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / file_name(text, ".png")
    path.touch()
    assert list(tmp_path.iterdir()) == [path]
    assert path.suffix == ".png" or not text
    assert file_name("left eye.é", ".png") == "left eye.é.png"


def test_json_has_no_nan() -> None:
    value = {"a": math.nan, "b": [1.5, -math.inf, {"c": math.inf}], "d": None, "e": "nan", "f": 3, "g": True}
    text = json.dumps(plain(value), allow_nan=False)
    assert json.loads(text) == {"a": None, "b": [1.5, None, {"c": None}], "d": None, "e": "nan", "f": 3, "g": True}


def test_a_json_file_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "measures.json"
    write_json(path, {"nme": math.nan, "scores": [1.5, math.inf], "kept": {"epoch": 3}})
    assert json.loads(path.read_text()) == {"nme": None, "scores": [1.5, None], "kept": {"epoch": 3}}
    assert path.read_text().endswith("}\n")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails", [False, True])
def test_a_line_is_appended_whole_or_not_at_all(fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    append_durably(path, b"epoch\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    if fails:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space") as caught:
            append_durably(path, b"0\n")
        assert caught.value.filename == str(path)
    else:
        append_durably(path, b"0\n")
    assert path.read_bytes() == (b"epoch\n" if fails else b"epoch\n0\n")
