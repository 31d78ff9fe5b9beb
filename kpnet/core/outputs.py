"""Which files kpnet may write: none that is an input, and none that is the user's.

A folder that kpnet writes into gets a file `.kpnet`. It holds kpnet's version, what the folder is (such as a run), and
a digest of each output file: a file is replaced only if it is still as kpnet wrote it. While a command writes, its
digests are in a journal of its own, which is read if the command is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from kpnet import __version__
from kpnet.core.errors import KpnetError
from kpnet.core.files import PARTIAL, append_durably, partial_path, watching_writes, write_json
from kpnet.core.locking import LOCK, locked

MARKER = ".kpnet"
_MARKER_LOCK = f"{PARTIAL}marker.lock"
_JOURNAL = "written"  # suffix of a journal
_PATIENCE = 60  # seconds to wait for a process that changes the marker


@contextmanager
def output_files(
    folder: str | Path, names: Iterable[str | Path], option: str, inputs: Iterable[str | Path] = ()
) -> Iterator[None]:
    """Check that output files may be written, and note which of them kpnet wrote, with `kpnet.core.files`, meanwhile.

    The folder is created. If nothing is written into it, it is removed again.

    Args:
        folder: The folder to write into.
        names: Paths of the files below the folder.
        option: What gives the folder or the file, such as `--out`, for error messages.
        inputs: Files that are read.

    Raises:
        KpnetError: A file is an input, under whatever name or link; it exists and kpnet did not write it, or it was
            changed since; or it cannot be written.
    """
    folder, files = Path(folder), [Path(name).as_posix() for name in names]
    _check_files(folder, files, option, inputs)
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    _begin(folder)
    named = {(folder / name).absolute(): name for name in files}
    journal, written = partial_path(folder / MARKER, _JOURNAL), {}

    def note(path: Path, content: Path) -> None:
        if (name := named.get(path.absolute())) is not None:
            written[name] = _digest(content)
            append_durably(journal, (json.dumps([name, written[name]]) + "\n").encode())

    try:
        with watching_writes(note):
            yield
    except BaseException:
        with suppress(OSError, KpnetError):
            _end(folder, written, missing, journal)
        raise
    _end(folder, written, missing, journal)


def output_file(path: str | Path, option: str, inputs: Iterable[str | Path] = ()) -> Any:
    """Check one output file, as `output_files` does for several."""
    path = Path(path)
    return output_files(path.parent, [path.name], option, inputs)


def _check_files(folder: Path, names: list[str], option: str, inputs: Iterable[str | Path]) -> None:
    sources = {_identity(path): path for path in inputs}
    known = _known_digests(folder)
    for parent in {(folder / name).parent for name in names}:
        check_writable(parent)
    seen = {MARKER}
    for name in names:
        path = folder / name
        if name in seen:
            raise KpnetError(f"{path}: more than one output would be written there; rename an input")
        seen.add(name)
        try:
            found = path.lstat().st_mode
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise KpnetError(f"{path}: {_reason(error)}; give another {option}") from None
        if path.is_dir():
            raise KpnetError(f"{path}: expected a file, found a folder; give another {option}")
        identity = _identity(path)
        if identity is not None and identity in sources:
            raise KpnetError(f"{path}: writing it would replace the input {sources[identity]}; give another {option}")
        if name not in known or not stat.S_ISREG(found):
            raise KpnetError(f"{path}: exists, and kpnet did not write it; give another {option}, or move it away")
        if _digest(path) not in known[name]:
            raise KpnetError(f"{path}: was changed after kpnet wrote it; give another {option}, or move it away")


def check_writable(folder: Path) -> None:
    """Raise KpnetError if a folder can neither be written into nor be created; nothing is written."""
    for place in (folder, *folder.parents):
        try:
            place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise KpnetError(f"{folder}: {_reason(error)}") from None
        if ".." in folder.parts[len(place.parts) :]:  # made, it would lead into a folder that nobody has looked at
            raise KpnetError(f"{folder}: a part before .. does not exist")
        if not place.is_dir():
            raise KpnetError(f"{folder}: expected a folder, found the file {place}")
        if not os.access(place, os.W_OK | os.X_OK):
            raise KpnetError(f"{folder}: the folder {place} is not writable")
        return


def written_files(folder: Path, among: Set[Path]) -> set[Path]:
    """Return those of some paths below a folder that are files as kpnet wrote them, by the folder's marker."""
    try:
        known = _known_digests(folder)
    except KpnetError:  # another program's file of that name
        return set()
    listed = {folder / name: digests for name, digests in known.items()}
    return {path for path, digests in listed.items() if path in among and _digest(path) in digests}


def folder_kind(folder: Path) -> str | None:
    """Return what kpnet made a folder for, such as "run"; None if it did not make it."""
    kind = read_marker(folder).get("kind")
    return kind if isinstance(kind, str) else None


def is_occupied(folder: Path) -> bool:
    """Return whether a path is a file, or a folder that holds more than a lock and what a killed process left."""
    if folder.is_dir():
        return any(path.name != LOCK and not path.name.startswith(PARTIAL) for path in folder.iterdir())
    return os.path.lexists(folder)


def mark_folder(folder: Path, kind: str) -> None:
    """Note in an existing folder what kpnet made it for."""
    with _locked_marker(folder):
        write_json(folder / MARKER, {**read_marker(folder), "kpnet": __version__, "kind": kind})


def read_marker(folder: Path) -> dict[str, Any]:
    """Read a folder's marker: `kpnet` (the version), `kind` and `files` (digests by name); empty if there is none.

    Raises:
        KpnetError: The file is not one that kpnet wrote.
    """
    path = folder / MARKER
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or "kpnet" not in values or not isinstance(values.get("files", {}), dict):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError):
        if not os.path.lexists(path):  # as no file can have such a name
            return {}
        raise KpnetError(f"{path}: kpnet did not write this file; move it away, or give another folder") from None
    except OSError as error:
        raise KpnetError(f"{path}: {_reason(error)}") from None
    return values


def _begin(folder: Path) -> None:
    """Create a folder with its marker, into which the journals of killed commands go."""
    for last in (False, False, True):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked_marker(folder):
                marker, journals = read_marker(folder), _journals(folder)
                written = {name: digest for path in journals for name, digest in _entries(path)}
                there = {name: digest for name, digest in written.items() if _has_digest(folder / name, digest)}
                _write_marker(folder, {**marker, "files": marker.get("files", {}) | there})
                for path in journals:
                    path.unlink(missing_ok=True)
                return
        except FileNotFoundError:  # a command that wrote nothing has just removed it
            if last:
                raise


def _end(folder: Path, written: Mapping[str, str], made: list[Path], journal: Path) -> None:
    """Note what was written, and remove what was made for nothing."""
    with _locked_marker(folder):
        marker = read_marker(folder)
        files = {**marker.get("files", {}), **written}
        files = {name: digest for name, digest in files.items() if name not in written or (folder / name).is_file()}
        journal.unlink(missing_ok=True)
        if files or "kind" in marker or _journals(folder):
            _write_marker(folder, {**marker, "files": files})
            return
        (folder / MARKER).unlink(missing_ok=True)
    with suppress(OSError):
        for each in made:  # the innermost first; one that is not empty stays
            each.rmdir()


def _write_marker(folder: Path, values: Mapping[str, Any]) -> None:
    write_json(folder / MARKER, {**values, "kpnet": __version__})


def _locked_marker(folder: Path) -> AbstractContextManager[None]:
    return locked(folder / _MARKER_LOCK, folder, _PATIENCE, remove=True)


def _known_digests(folder: Path) -> dict[str, set[str]]:
    """Return the digests that each file may have that kpnet wrote, by the marker and the journals in its folder."""
    noted = list(read_marker(folder).get("files", {}).items())
    known: dict[str, set[str]] = {}
    for name, digest in [*noted, *(entry for path in _journals(folder) for entry in _entries(path))]:
        if isinstance(digest, str):
            known.setdefault(name, set()).add(digest)
    return known


def _journals(folder: Path) -> list[Path]:
    """Return the journals of commands that are at work in a folder, or were killed."""
    return sorted(path for path in folder.glob(f"{PARTIAL}*.{_JOURNAL}") if path.is_file() and not path.is_symlink())


def _entries(journal: Path) -> list[tuple[str, str]]:
    """Return the names and digests in a journal; its last line may be cut short."""
    found, lines = [], b""
    with suppress(FileNotFoundError):  # its command has just ended
        lines = journal.read_bytes()
    for line in lines.splitlines():
        with suppress(ValueError, TypeError):
            name, digest = map(str, json.loads(line))
            found.append((name, digest))
    return found


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Return what is the same for all names of a file, links included; None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode) and _digest(path) == digest
    except (OSError, ValueError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    """Return why the operating system refused a path."""
    return str(error.strerror) if isinstance(error, OSError) else "not a name that a file can have"
