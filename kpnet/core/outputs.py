"""Which files kpnet may write: none that is an input, and none that is the user's.

A folder that kpnet writes into gets a file `.kpnet`. It holds kpnet's version, what the folder is (such as a run), and
a digest of each output file: a file is replaced only if it is still as kpnet wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kpnet import __version__
from kpnet.core.errors import KpnetError
from kpnet.core.files import PARTIAL, write_json
from kpnet.core.locking import LOCK

MARKER = ".kpnet"


@contextmanager
def output_files(
    folder: str | Path, names: Iterable[str | Path], option: str, inputs: Iterable[str | Path] = ()
) -> Iterator[None]:
    """Check that output files may be written, and note afterwards that kpnet wrote them.

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
    folder.mkdir(parents=True, exist_ok=True)
    _note(folder, dict.fromkeys(files))  # kpnet's, whatever is in them: the process may be killed
    try:
        yield
    except BaseException:
        with suppress(OSError):
            _note_written(folder, files, missing)
        raise
    _note_written(folder, files, missing)


def output_file(path: str | Path, option: str, inputs: Iterable[str | Path] = ()) -> Any:
    """Check one output file, as `output_files` does for several."""
    path = Path(path)
    return output_files(path.parent, [path.name], option, inputs)


def _check_files(folder: Path, names: list[str], option: str, inputs: Iterable[str | Path]) -> None:
    sources = {_identity(path): path for path in inputs}
    known = read_marker(folder).get("files", {})
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
        if not _is_as_written(path, known[name]):
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
        known = read_marker(folder).get("files", {})
    except KpnetError:  # another program's file of that name
        return set()
    listed = {folder / name: digest for name, digest in known.items()}
    return {path for path, digest in listed.items() if path in among and _is_as_written(path, digest)}


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


def _note(folder: Path, digests: Mapping[str, str | None], absent: Collection[str] = ()) -> dict[str, Any]:
    """Note the digests of files in the marker, and forget the absent ones; return what it holds then."""
    marker = read_marker(folder)
    files = {name: digest for name, digest in marker.get("files", {}).items() if name not in absent}
    files |= digests
    marker = {**marker, "kpnet": __version__, "files": files}
    if files or "kind" in marker:
        write_json(folder / MARKER, marker)
    else:
        (folder / MARKER).unlink(missing_ok=True)
    return marker


def _note_written(folder: Path, names: list[str], made: list[Path]) -> None:
    """Note the digests of the files that are there, and remove what was made for nothing."""
    there = {name: _digest(folder / name) for name in names if (folder / name).is_file()}
    marker = _note(folder, there, set(names) - set(there))
    if not marker["files"]:
        with suppress(OSError):
            for each in made:  # the innermost first; one that is not empty stays
                each.rmdir()


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Return what is the same for all names of a file, links included; None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _is_as_written(path: Path, digest: str | None) -> bool:
    """Return whether a file has a digest; None stands for a file whose writing was interrupted."""
    return digest is None or digest == _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    """Return why the operating system refused a path."""
    return str(error.strerror) if isinstance(error, OSError) else "not a name that a file can have"
