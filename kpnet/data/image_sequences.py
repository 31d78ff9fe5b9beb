"""Sequences of images without labels: a folder of images, a video, an npz, or a CSV of pixels or file names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from kpnet.config.unlabelled import VIDEO_FRAMES
from kpnet.core.errors import KpnetError, few
from kpnet.data.duplicates import pixel_digest
from kpnet.data.formats.detect import detect_format
from kpnet.data.formats.npz import IMAGES, check_images, read_npz
from kpnet.data.formats.pixel_csv import read_pixel_csv
from kpnet.data.formats.table_columns import find_image_column
from kpnet.data.formats.text_table import read_text_table
from kpnet.data.image_names import ImageFinder
from kpnet.data.images import (
    FOREIGN_SUFFIXES,
    VIDEO_SUFFIXES,
    find_image_files,
    header_problem,
    letterbox,
    read_image,
    walk_files,
)
from kpnet.data.video import Video

_log = logging.getLogger("kpnet")


class Images(Protocol):
    """A sequence of N images, each uint8 (H, W) or (H, W, C), of any sizes. An array (N, H, W) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


class ImageFiles:
    """Image files, each read when it is needed.

    Args:
        paths: The files.
        bits: Bits, from 8 to 16, that the values of 16-bit images fill.
    """

    def __init__(self, paths: Sequence[Path], bits: int = 16) -> None:
        self.paths, self.bits = paths, bits

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index], bits=self.bits)


class VideoFrames:
    """Frames of a video, evenly spaced, letterboxed and held in memory.

    Args:
        path: The video.
        size: Height and width to which they are letterboxed.
        count: Number of frames to take; all of a video that has fewer.

    Attributes:
        numbers: Number of each frame in the video, counted from 0.
        matrices: 2x3 matrices that map pixels of each frame in the video to those of the letterboxed one.
        digests: `pixel_digest` of each frame as it is in the video.

    Raises:
        KpnetError: The video cannot be read.
    """

    def __init__(self, path: Path, size: tuple[int, int], count: int) -> None:
        video = Video(path)
        total = video.declared_frames or sum(1 for _ in video.frames())
        last = max(total - 1, 0)
        wanted = set(np.linspace(0, last, min(count, last + 1)).round().astype(int).tolist())
        self.numbers: list[int] = []
        self.matrices: list[np.ndarray] = []
        self.digests: list[bytes] = []
        self._frames: list[np.ndarray] = []
        read = 0
        for number, frame in enumerate(video.frames()):
            read += 1
            if number in wanted:
                image, matrix = letterbox(frame, size)
                self.numbers.append(number)
                self.matrices.append(matrix)
                self.digests.append(pixel_digest(frame))
                self._frames.append(image)
            if number == last and video.declared_frames:  # where none are declared, it is the last one anyway
                break
        message = video.missing_frames_message(read)
        if message is not None:
            _log.warning("%s", message)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._frames[index]


class JoinedImages:
    """Several sequences of images, one after the other.

    Args:
        parts: The sequences.
        sources: Names of what they were read from.
    """

    def __init__(self, parts: Sequence[Images], sources: Sequence[str]) -> None:
        self.parts, self.sources = parts, sources
        self._places = [(part, index) for part in range(len(parts)) for index in range(len(parts[part]))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> np.ndarray:
        part, place = self._places[index]
        return self.parts[part][place]

    def name(self, index: int) -> str:
        """Return the path of an image's file, or the source that has several with its number there."""
        number, place = self._places[index]
        part = self.parts[number]
        if isinstance(part, ImageFiles):
            return str(part.paths[place])
        return f"{self.sources[number]}#{part.numbers[place] if isinstance(part, VideoFrames) else place}"

    def matrix(self, index: int) -> np.ndarray:
        """Return the 2x3 matrix that maps pixels of an image in its source to those of the image given here."""
        number, place = self._places[index]
        part = self.parts[number]
        return part.matrices[place] if isinstance(part, VideoFrames) else np.eye(2, 3)


EXPECTED = "a folder of images, a video, an .npz or a .csv"
_TABLE = "a header line with a column image, and one row for each image"


def open_images(path: Path, size: tuple[int, int], frames: int = VIDEO_FRAMES, *, bits: int = 16) -> Images:
    """Open the images of a folder and its subfolders, a video, an npz or a CSV.

    A CSV has the pixels in a column `Image`, or the names of image files in a column `image`.

    Args:
        path: The file or folder.
        size: Height and width to which the frames of a video are letterboxed; they are held in memory.
        frames: Number of frames to take from a video, evenly spaced.
        bits: Bits, from 8 to 16, that the values of 16-bit image files fill.

    Returns:
        The images.

    Raises:
        KpnetError: There are none, or they cannot be read.
    """
    if path.is_dir():
        return _of_folder(path, bits)
    if not path.exists():
        raise KpnetError(f"{path}: no such file or folder; expected {EXPECTED}")
    suffix = path.suffix.lower()
    if suffix == ".csv":
        names_files = detect_format(path)[1] == "points_csv"
        return _of_table(path, bits) if names_files else read_pixel_csv(path).images
    if suffix == ".npz":
        return check_images(path, read_npz(path, [IMAGES])[IMAGES])
    if suffix in VIDEO_SUFFIXES:
        return VideoFrames(path, size, frames)
    raise KpnetError(f"{path}: expected {EXPECTED}")


def _of_folder(path: Path, bits: int) -> ImageFiles:
    try:
        every = find_image_files(path)
    except KpnetError as error:
        raise KpnetError(f"{error}{_instead(path)}") from None
    paths = [file for file in every if file.suffix.lower() not in FOREIGN_SUFFIXES] or every
    if len(paths) < len(every):
        other = next(file for file in every if file.suffix.lower() in FOREIGN_SUFFIXES)
        _log.warning("%s: %d files that cannot be read are left out: %s, …", path, len(every) - len(paths), other.name)
    return _checked(paths, path, bits)


def _of_table(path: Path, bits: int) -> ImageFiles:
    """Return the image files that a table names, each once."""
    table = read_text_table(path, _TABLE)
    header, rows = table.lines[0], table.lines[1:]
    column = find_image_column(path, header, rows[0] if rows else [], _TABLE)
    for number, row in zip(table.numbers[1:], rows, strict=True):
        if len(row) != len(header):
            raise KpnetError(f"{path}, line {number}: cells: expected {len(header)} as in the header, found {len(row)}")
        if not row[column]:
            raise KpnetError(f"{path}, line {number}: the cell of its image is empty; name a file, or remove the line")
    if not rows:
        raise KpnetError(f"{path}: a header but no rows; expected one row for each image")
    names = list(dict.fromkeys(row[column] for row in rows))
    folders = [ImageFinder(path.parent), ImageFinder(path.parent / "images")]
    finder = max(folders, key=lambda each: sum(each.find(name) is not None for name in names))
    found = {name if (file := finder.find(name)) is None else finder.identity(file): file or name for name in names}
    return _checked([finder.folder / name for name in found.values()], path, bits)


def _checked(paths: Sequence[Path], source: Path, bits: int) -> ImageFiles:
    """Return image files, or raise KpnetError for the first that is no image by its first bytes."""
    problems = [problem for file in paths if (problem := header_problem(file)) is not None]
    if problems:
        raise KpnetError(f"{problems[0]} ({len(problems)} of {len(paths)} in {source}); replace or remove it")
    return ImageFiles(paths, bits)


def _instead(path: Path) -> str:
    """Return what to say of the videos in a folder without images."""
    videos = list(walk_files(path, VIDEO_SUFFIXES))
    if not videos:
        return ""
    what, which = ("1 video", "it") if len(videos) == 1 else (f"{len(videos)} videos", "them")
    return f"; it has {what}: name {which}, {few(videos)}"
