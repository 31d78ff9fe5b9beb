"""Recognise the columns of a table of points: what is the image, what are coordinates, and how they are named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kpnet.core.errors import KpnetError, did_you_mean, shorten
from kpnet.data.formats.text_table import check_unique, is_image_name, is_number

EXPECTED = "a header line image,NAME_x,NAME_y,… and one row for each instance"
IMAGE, INSTANCE, POINT = "image", "instance", "point"
MAX_CELLS = 50_000_000  # of a table that this module makes

# Other names of these columns, in lower case and without spaces and underscores. The first in the list is preferred.
_IMAGE_NAMES = (
    "image", "filename", "file", "imagepath", "imagename", "imagefile", "imagefilename", "imgpath", "imgname", "img",
    "filepath", "path", "framepath", "frame", "images", "imageid", "fname",
)  # fmt: skip
_POINT_NAMES = ("point", "keypoint", "name", "bodypart", "landmark", "part", "label", "feature", "node")
_INSTANCE_NAMES = ("instance", "individual", "animal", "track", "person", "instanceid")
_INDEX = re.compile(r"(Unnamed: \d+)?")  # the columns of an index that pandas wrote
_NAMED = re.compile(r"(.+)[_. -]([xyXY])")
_NUMBERED = re.compile(r"([xyXY])_?(\d{1,6})")


def canonical_columns(path: Path, header: Sequence[str], first_row: Sequence[str]) -> tuple[list[str | None], bool]:
    """Give the columns of a table the names that kpnet uses.

    Args:
        path: The file, for messages.
        header: Its first line.
        first_row: Its second line, or nothing.

    Returns:
        For each column `image`, `NAME_x`, `NAME_y`, `x_0`, `y_0`, …, another name as it is, or None for a column to
        ignore; in a table of one row for each point `x`, `y`, `point` and `instance`. And whether there is a header;
        without one, the first line is data.

    Raises:
        KpnetError: No column names an image, or several do, or two columns have one name.
    """
    images = [k for k, cell in enumerate(header) if is_image_name(cell)]
    if len(images) == 1 and all(is_number(cell) for k, cell in enumerate(header) if k != images[0]):
        return list(_numbered(path, len(header), images[0])), False
    plain = [re.sub(r"[ _]", "", name.lower()) for name in header]
    image = find_image_column(path, header, first_row)
    others = [k for k in range(len(header)) if k != image]
    if len(others) > 1 and [header[k] for k in others] == [str(n) for n in range(len(others))]:
        return list(_numbered(path, len(header), image)), True
    names: list[str | None] = [None if _INDEX.fullmatch(name) else _coordinate(name) for name in header]
    names[image] = IMAGE
    if {"x", "y"} <= set(plain):
        for k in others:
            if plain[k] in ("x", "y", "visibility"):
                names[k] = plain[k]
            elif plain[k] in _POINT_NAMES:
                names[k] = POINT
            elif plain[k] in _INSTANCE_NAMES:
                names[k] = INSTANCE
        if POINT not in names and not any(name and name.endswith("_x") for name in names):
            names[plain.index("x")], names[plain.index("y")] = "point_x", "point_y"  # there is one point
    check_unique(path, [name for name in names if name is not None])
    return names, True


def _numbered(path: Path, count: int, image: int) -> list[str]:
    """Return names of columns that are an image and x and y in turn."""
    if count % 2 == 0 or count == 1:
        raise KpnetError(
            f"{path}: {count - 1} numbers for each image and no names, which are no x and y of points; "
            f"expected {EXPECTED}"
        )
    names = [f"{axis}_{k}" for k in range(count // 2) for axis in "xy"]
    names.insert(image, IMAGE)
    return names


def names_images(header: Sequence[str], first_row: Sequence[str]) -> bool:
    """Return whether a table has a column with the names of images.

    Args:
        header: Its first line.
        first_row: Its second line, or nothing.

    Returns:
        True if it has one or several, or if the first line is a row itself.
    """
    return any(map(is_image_name, header)) or bool(_image_columns(header, first_row))


def _image_columns(header: Sequence[str], first_row: Sequence[str]) -> list[int]:
    """Return the columns that may name the images, of which those with the likeliest name."""
    if IMAGE in header:
        return [header.index(IMAGE)]
    plain = [re.sub(r"[ _]", "", name.lower()) for name in header]
    found = [k for k, name in enumerate(plain) if name in _IMAGE_NAMES]
    named = [k for k in found if k < len(first_row) and is_image_name(first_row[k])] or found
    if named:
        least = min(_IMAGE_NAMES.index(plain[k]) for k in named)
        return [k for k in named if _IMAGE_NAMES.index(plain[k]) == least]
    # pandas writes an index without a name
    is_index = bool(header and first_row) and _INDEX.fullmatch(header[0]) and is_image_name(first_row[0])
    return [0] if is_index else []


def find_image_column(path: Path, header: Sequence[str], first_row: Sequence[str], expected: str = EXPECTED) -> int:
    """Return the column that names the images.

    Args:
        path: The file, for messages.
        header: Its first line.
        first_row: Its second line, or nothing.
        expected: What the table should hold, for messages.

    Returns:
        Number of the column, counted from 0.

    Raises:
        KpnetError: No column names an image, or several do.
    """
    found = _image_columns(header, first_row)
    if not found:
        raise KpnetError(
            f'{path}: no column "image"{did_you_mean("image", header)} among '
            f"{shorten(', '.join(header)) or 'nothing'}; expected {expected}"
        )
    if len(found) > 1:
        raise KpnetError(f"{path}: columns {', '.join(header[k] for k in found)} all name an image; keep one of them")
    return found[0]


def _coordinate(name: str) -> str:
    """Return `NAME_x` for `NAME.x`, `NAME x` and the like, `x_0` for `x0`, and any other name as it is."""
    if (numbered := _NUMBERED.fullmatch(name)) is not None:
        return f"{numbered[1].lower()}_{int(numbered[2])}"
    if (named := _NAMED.fullmatch(name)) is not None:
        return f"{named[1].strip()}_{named[2].lower()}"
    return name


def widen(path: Path, columns: Mapping[str, np.ndarray], where: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Turn a table of one row for each point into one of one row for each instance.

    Args:
        path: The file, for messages.
        columns: Cells (N,) of each column, with `image`, `point`, `x`, `y`; `instance` and `visibility` if it has them.
        where: Where each row is in the file, text (N,), for messages.

    Returns:
        The columns of the wide table, and where each of its rows begins.

    Raises:
        KpnetError: A column is unknown, or a point of an instance stands twice.
    """
    known = (IMAGE, POINT, INSTANCE, "x", "y", "visibility")
    unknown = next((name for name in columns if name not in known), None)
    if unknown is not None:
        raise KpnetError(f'{path}: column "{shorten(unknown)}" is none of {", ".join(known)}; rename or drop it')
    points, point = np.unique(columns[POINT].astype(str), return_inverse=True)
    order = list(dict.fromkeys(columns[POINT].astype(str).tolist()))  # as in the file
    each = columns.get(INSTANCE, np.full(len(where), "", object)).astype(str)
    keys: dict[tuple[str, str], int] = {}
    row = [keys.setdefault(key, len(keys)) for key in zip(columns[IMAGE].astype(str), each.tolist(), strict=True)]
    if len(keys) * len(points) > MAX_CELLS:
        raise KpnetError(f"{path}: {len(keys)} instances of {len(points)} points are too many for one table; split it")
    place = np.array(row, np.int64) * len(points) + point
    _, first, times = np.unique(place, return_index=True, return_counts=True)
    if (times > 1).any():
        again = int(first[times > 1].min())
        raise KpnetError(
            f"{path}: {columns[IMAGE][again]} has several rows of the point {columns[POINT][again]}, the first in "
            f"{where[again]}; give each instance of an image its own value in a column instance"
        )
    wide: dict[str, np.ndarray] = {IMAGE: np.array([image for image, _ in keys], str)}
    number = {name: k for k, name in enumerate(points.tolist())}
    for name in order:
        chosen = point == number[name]
        for source, target in (("x", "x"), ("y", "y"), ("visibility", "visibility")):
            if source in columns:
                cells = np.full(len(keys), "", object)
                cells[np.array(row, np.int64)[chosen]] = columns[source][chosen]
                wide[f"{name}_{target}"] = cells
    _, begin = np.unique(np.array(row, np.int64), return_index=True)
    return wide, where[begin]
