"""Output files: an input or a file of the user's is never replaced, and kpnet's own files are."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from kpnet import __version__
from kpnet.core.errors import KpnetError
from kpnet.core.files import PARTIAL, write_atomic
from kpnet.core.outputs import (
    MARKER,
    check_writable,
    folder_kind,
    is_occupied,
    mark_folder,
    output_file,
    output_files,
    read_marker,
    written_files,
)

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the other process is a fork")
Tree = Callable[[Path], dict[str, bytes | None]]


def write(folder: Path, files: dict[str, str], inputs: tuple[Path, ...] = ()) -> None:
    with output_files(folder, files, "--out", inputs):
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_atomic(folder / name, text.encode())


def fork(work: Callable[[], None]) -> int:
    """Begin to work in a process of its own, and return its number; it ends with code 1 if it fails."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def in_process(work: Callable[[], None]) -> tuple[int, int]:
    """The number and status of a process that has done the work."""
    return os.waitpid(fork(work), 0)


def refused(folder: Path, name: str, *words: str, inputs: tuple[Path, ...] = ()) -> None:
    with pytest.raises(KpnetError) as caught, output_files(folder, [name], "--out", inputs):
        pytest.fail("the work must not begin")
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(folder / name), *words):
        assert word in message


def test_the_same_command_replaces_its_own_files(tmp_path: Path) -> None:
    for text in ("first", "second", "second"):
        write(tmp_path / "new" / "out", {"a.csv": text, "sub/b.png": text})
        assert (tmp_path / "new" / "out" / "sub" / "b.png").read_text() == text
    marker = json.loads((tmp_path / "new" / "out" / MARKER).read_text())
    assert marker["kpnet"] == __version__
    assert set(marker["files"]) == {"a.csv", "sub/b.png"}
    write(tmp_path / "new" / "out", {"c.csv": "of another command"})
    write(tmp_path / "new" / "out", {"a.csv": "third"})


def test_a_copied_folder_is_known_again(tmp_path: Path) -> None:
    write(tmp_path / "a", {"a.csv": "text"})
    (tmp_path / "a").rename(tmp_path / "b")
    write(tmp_path / "b", {"a.csv": "again"})


def test_a_file_that_kpnet_did_not_write_or_that_was_changed_stays(tmp_path: Path, tree: Tree) -> None:
    write(tmp_path, {"ours.csv": "x,y", "edited.csv": "x,y"})
    (tmp_path / "edited.csv").write_text("x,y,corrected by hand")
    (tmp_path / "theirs.csv").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    write(tmp_path, {"linked.csv": "x,y"})
    (tmp_path / "linked.csv").unlink()
    (tmp_path / "linked.csv").symlink_to(tmp_path / "ours.csv")  # of the same content
    before = tree(tmp_path)
    refused(tmp_path, "edited.csv", "changed after kpnet wrote it", "--out")
    for name in ("theirs.csv", "dangling", "linked.csv"):
        refused(tmp_path, name, "kpnet did not write it", "--out")
    refused(tmp_path, "folder", "found a folder")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("how", ["name", "dots", "symbolic link", "hard link", "linked folder"])
def test_no_output_is_an_input_under_any_name(how: str, tmp_path: Path, tree: Tree) -> None:
    """Even if kpnet wrote it."""
    folder = tmp_path / "out"
    write(folder, {"a.png": "an earlier drawing"})
    read = folder / "a.png"
    if how == "dots":
        read = folder / ".." / "out" / "a.png"
    elif how == "symbolic link":
        read = tmp_path / "b.png"
        read.symlink_to(folder / "a.png")
    elif how == "hard link":
        read = tmp_path / "b.png"
        os.link(folder / "a.png", read)
    elif how == "linked folder":
        (tmp_path / "link").symlink_to(folder)
        folder = tmp_path / "link"
    before = tree(tmp_path)
    refused(folder, "a.png", "would replace the input", str(read), inputs=(tmp_path / "gone.png", read))
    assert tree(tmp_path) == before


def test_two_outputs_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match="more than one"), output_files(tmp_path, ["a.png", "a.png"], "--out"):
        pytest.fail("one would be lost")
    refused(tmp_path, MARKER)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_that_was_made_for_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with output_files(tmp_path / "a" / "b", ["c.csv"], "--out"):
            assert (tmp_path / "a" / "b").is_dir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


def test_after_a_failure_the_same_command_goes_on(tmp_path: Path) -> None:
    def stop() -> None:
        with output_files(tmp_path, ["a.csv", "b.csv"], "--out"):
            write_atomic(tmp_path / "a.csv", b"half of the rows")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert set(read_marker(tmp_path)["files"]) == {"a.csv"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", MARKER}
    write(tmp_path, {"a.csv": "all rows", "b.csv": "all rows"})


@forks
def test_a_killed_command_replaces_what_it_wrote_and_nothing_that_came_after(tmp_path: Path, tree: Tree) -> None:
    """Of five files it wrote three, one of them for the second time."""
    names = {f"{letter}.csv": "new" for letter in "abcde"}
    write(tmp_path, {"d.csv": "old", "e.csv": "old"})

    def die() -> None:
        with output_files(tmp_path, names, "--out"):
            for name in ("a.csv", "b.csv", "d.csv"):
                write_atomic(tmp_path / name, b"of the killed one")
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(in_process(die)[1]) == signal.SIGKILL
    (journal,) = tmp_path.glob(f"{PARTIAL}*")
    journal.write_bytes(journal.read_bytes() + b'["b.c')  # killed as it wrote a line
    every = {tmp_path / name for name in names}
    assert written_files(tmp_path, every) == {tmp_path / f"{letter}.csv" for letter in "abde"}
    (tmp_path / "b.csv").write_text("corrected by hand")
    (tmp_path / "c.csv").write_text("of the user")
    before = tree(tmp_path)
    refused(tmp_path, "b.csv", "was changed after kpnet wrote it", "--out")
    refused(tmp_path, "c.csv", "kpnet did not write it", "--out")
    assert tree(tmp_path) == before
    for name in ("b.csv", "c.csv"):
        (tmp_path / name).rename(tmp_path / f"mine_{name}")
    for _ in range(2):
        write(tmp_path, names)
    assert {path.name for path in tmp_path.iterdir()} == {*names, "mine_b.csv", "mine_c.csv", MARKER}


@forks
def test_a_command_killed_before_it_replaced_a_file_leaves_it_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal has the digest of what never came."""
    write(tmp_path, {"a.csv": "old"})

    def die() -> None:
        with output_files(tmp_path, ["a.csv"], "--out"):
            monkeypatch.setattr(os, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            write_atomic(tmp_path / "a.csv", b"new")

    in_process(die)
    assert (tmp_path / "a.csv").read_text() == "old"
    write(tmp_path, {"b.csv": "of another command"})
    write(tmp_path, {"a.csv": "new"})


@forks
def test_two_commands_in_one_folder_note_all_of_their_files(tmp_path: Path) -> None:
    """Each of them 40 times; without a lock, one would undo the other's notes, or remove its folder."""
    folder = tmp_path / "out"

    def work(letter: str) -> None:
        for number in range(40):
            with suppress(ZeroDivisionError), output_files(folder, [f"{letter}{number}.csv"], "--out"):
                if number % 2:
                    raise ZeroDivisionError  # nothing is written: the folder is removed if it is empty
                write_atomic(folder / f"{letter}{number}.csv", b"text")

    first = fork(lambda: work("a"))
    assert in_process(lambda: work("b"))[1] == 0
    assert os.waitpid(first, 0)[1] == 0
    noted = set(read_marker(folder)["files"])
    assert noted == {f"{letter}{number}.csv" for letter in "ab" for number in range(0, 40, 2)}
    assert {path.name for path in folder.iterdir()} == noted | {MARKER}


def test_files_of_two_options_in_one_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with output_file(tmp_path / "a.png", "--plot"), output_file(tmp_path / "b.json", "--coco-results"):
            write_atomic(tmp_path / "a.png", b"a")
            write_atomic(tmp_path / "b.json", b"b")
    assert set(read_marker(tmp_path)["files"]) == {"a.png", "b.json"}
    with pytest.raises(KpnetError, match="found a folder"), output_file(Path(), "--out"):
        pytest.fail("it is the working folder")


def test_what_is_kpnets_in_a_folder_of_data(tmp_path: Path) -> None:
    write(tmp_path, {"sheet.png": "s", "edited.png": "e"})
    (tmp_path / "edited.png").write_text("by hand")
    photo = tmp_path / "photo.png"
    photo.touch()
    found = {photo, tmp_path / "sheet.png", tmp_path / "edited.png"}
    assert written_files(tmp_path, found) == {tmp_path / "sheet.png"}
    (tmp_path / MARKER).write_text("another program's")
    assert not written_files(tmp_path, found)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"kpnet": "1", "files": []}', "[" * 100_000])
def test_a_marker_of_another_program_is_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text(text)
    acts = (partial(write, tmp_path, {"a": ""}), partial(folder_kind, tmp_path), partial(mark_folder, tmp_path, "run"))
    for act in acts:
        with pytest.raises(KpnetError, match="kpnet did not write this file"):
            act()
    assert (tmp_path / MARKER).read_text() == text
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_states_what_it_is(tmp_path: Path) -> None:
    assert folder_kind(tmp_path) is None
    assert folder_kind(tmp_path / "gone") is None
    mark_folder(tmp_path, "run")
    write(tmp_path, {"a.csv": "text"})
    mark_folder(tmp_path, "run")
    assert folder_kind(tmp_path) == "run"
    assert set(read_marker(tmp_path)["files"]) == {"a.csv"}, "both are kept"


def test_what_occupies_a_folder(tmp_path: Path) -> None:
    assert not is_occupied(tmp_path)
    assert not is_occupied(tmp_path / "gone")
    (tmp_path / f"{PARTIAL}0.part").touch()
    assert not is_occupied(tmp_path), "left by a killed process"
    (tmp_path / "file").touch()
    assert is_occupied(tmp_path)
    assert is_occupied(tmp_path / "file")


@pytest.mark.parametrize(
    "name", ["file", "file/below", "x" * 300, "a\0b", "\ud800", "read_only/new", "dangling/new", "gone/../read_only"]
)
def test_a_folder_that_cannot_be_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "read_only").mkdir()
    (tmp_path / "dangling").symlink_to("gone")
    access = os.access
    # Permissions do not bind the superuser, who may run the tests.
    monkeypatch.setattr(os, "access", lambda path, mode: "read_only" not in str(path) and access(path, mode))
    with pytest.raises(KpnetError) as caught:
        check_writable(tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(KpnetError), output_files(tmp_path / name, ["a.csv"], "--out"):
        pytest.fail("checked before the work")
    check_writable(tmp_path / "new" / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "read_only", "dangling"}
