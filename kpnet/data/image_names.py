"""Find image files by the names that a file of labels has for them."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass
class _Listing:
    files: set[str]
    folders: set[str]
    alike: dict[str, list[str]] | None = None  # composed name to the names on the disk; made when it is first needed

    def find(self, name: str, *, folder: bool) -> str | None:
        """Return the entry's name on the disk, or None if there is none or several are alike."""
        names = self.folders if folder else self.files
        if name in names:
            return name
        if self.alike is None:
            self.alike = defaultdict(list)
            for each in sorted(self.files | self.folders):
                self.alike[_composed(each)].append(each)
        found = [each for each in self.alike.get(_composed(name), ()) if each in names]
        return found[0] if len(found) == 1 else None


class ImageFinder:
    """Finds image files below a folder, whatever program wrote their names.

    A name that is on the disk as it is written is that file. Otherwise back slashes separate folders, as Windows writes
    them, and composed and decomposed accents are the same (macOS decomposes `é` into `e` and an accent).

    Args:
        folder: The folder to which names are relative. A folder is listed once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[str, _Listing | None] = {}
        self._real: dict[str, str] = {}

    def find(self, name: str) -> str | None:
        """Return the name of the file on the disk, relative to the folder or absolute, or None if there is none.

        Args:
            name: The name as the file of labels has it.
        """
        for text in dict.fromkeys((name, name.replace("\\", "/"))):
            found = self._find(text, folder=False)
            if found is not None:
                return found
        return None

    def identity(self, name: str) -> str:
        """Return the absolute path of a file that was found; it is the same for all names of one file.

        Args:
            name: The name of the file on the disk, as `find` returns it.
        """
        parent, base = os.path.split(name)
        if parent not in self._real:
            self._real[parent] = os.path.realpath(self.folder / parent)
        return os.path.join(self._real[parent], base)

    def _find(self, text: str, *, folder: bool) -> str | None:
        parent, base = os.path.split(text)
        if not base:
            return None
        listing = self._list(parent)
        if listing is None and parent:
            found = self._find(parent, folder=True)
            parent, listing = (parent, None) if found is None else (found, self._list(found))
        name = None if listing is None else listing.find(base, folder=folder)
        return None if name is None else os.path.join(parent, name)

    def _list(self, parent: str) -> _Listing | None:
        """Return what is in a folder, or None if there is no such folder."""
        if parent not in self._listed:
            try:
                with os.scandir(self.folder / parent) as entries:
                    listing = _Listing(set(), set())
                    for entry in entries:
                        if entry.is_file():
                            listing.files.add(entry.name)
                        elif entry.is_dir():  # the rest are devices, pipes, and links to nothing
                            listing.folders.add(entry.name)
                self._listed[parent] = listing
            except (OSError, ValueError):  # ValueError: a NUL, or a character that no file name has
                self._listed[parent] = None
        return self._listed[parent]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
