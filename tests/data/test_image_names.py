"""Image files are found by the names that other programs and systems write."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from kpnet.data.image_names import ImageFinder


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ("a.png", "a.png"),
        ("sub/a.png", "sub/a.png"),
        ("sub/a.png", "sub\\a.png"),
        ("sub/b/a.png", "sub\\b/a.png"),
        (decomposed("é ü.png"), composed("é ü.png")),
        (composed("é ü.png"), decomposed("é ü.png")),
        (decomposed("Mäuse/é.png"), composed("Mäuse/é.png")),
        (decomposed("Mäuse/a") + composed("/ö/é.png"), composed("Mäuse/a/ö/é.png")),
        (decomposed("Mäuse/é.png"), composed("Mäuse\\é.png")),
        ("sub/a\\b.png", "sub/a\\b.png"),  # a file whose name has a back slash, where that is allowed
    ],
)
def test_a_name_is_found(tmp_path: Path, there: str, asked: str) -> None:
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_bytes(b"")
    assert ImageFinder(tmp_path).find(asked) == there
    assert ImageFinder(Path("/")).find(str(tmp_path / asked)) == str(tmp_path / there)


@pytest.mark.parametrize(
    "asked",
    ["", ".", "..", "/", "b.png", "sub", "sub/", "a.png/b", "A.png", "x\0y", "\ud800.png", "pipe.png", "link.png"],
)
def test_what_is_no_file_is_not_found(tmp_path: Path, asked: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("gone.png")
    assert ImageFinder(tmp_path).find(asked) is None


def test_a_name_that_fits_two_files_is_the_one_that_is_written_so(tmp_path: Path) -> None:
    for form in (composed, decomposed):
        (tmp_path / form("é.png")).write_bytes(b"")
    finder = ImageFinder(tmp_path)
    assert finder.find(composed("é.png")) == composed("é.png")
    assert finder.find(decomposed("é.png")) == decomposed("é.png")


def test_one_file_has_one_identity_by_whatever_way_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(b"")
    (tmp_path / "other").symlink_to("sub")
    finder = ImageFinder(tmp_path)
    names = ["sub/a.png", "./sub/a.png", "other/a.png", "sub/../sub/a.png", str(tmp_path / "sub" / "a.png")]
    assert {finder.identity(str(finder.find(name))) for name in names} == {str((tmp_path / "sub" / "a.png").resolve())}
