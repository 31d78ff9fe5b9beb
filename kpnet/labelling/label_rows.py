"""Labels of images, and their rows in kpnet's points CSV, with who made each point."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kpnet.core.errors import KpnetError, few, shorten, show
from kpnet.core.skeleton import Skeleton
from kpnet.data.formats.instances import PERSON, SOURCES
from kpnet.data.formats.points_csv import BOX
from kpnet.data.formats.writing import csv_text

DECIMALS = 4  # of a coordinate in the file
MAX_INSTANCES, MAX_POINTS, MAX_NAME = 1000, 2000, 100
_LIMIT = 1e6  # pixels; a coordinate beyond is none
_NOT_IN_NAMES = ',;"\\'
_COLUMNS = ("x", "y", "visibility", "source")


class Point(NamedTuple):
    """A labelled point: x and y in pixels, None where absent; visibility 0 (absent), 1 (hidden) or 2; its source."""

    x: float | None
    y: float | None
    visibility: int
    source: str


@dataclass(frozen=True)
class Instance:
    """The points of one instance, None where nobody has labelled one yet, and the edges x0, y0, x1, y1 of its box."""

    points: tuple[Point | None, ...]
    box: tuple[float, float, float, float] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has neither a point nor a box, so that the file has no row for it."""
        return self.box is None and not any(self.points)

    def to_json(self) -> dict[str, Any]:
        """Return the form that `parse_instances` reads."""
        return {"points": list(self.points), "box": self.box}


class Entry(NamedTuple):
    """What a file has of an image.

    Attributes:
        instances: The labels.
        lines: Text of each instance in the file; empty if there is no label.
    """

    instances: tuple[Instance, ...] = ()
    lines: tuple[str, ...] = ()


class Encoding(Protocol):
    """A format that labels are written in, for one file.

    Attributes:
        format: Name of the data format that reads the file.
    """

    format: str

    def parse(self, path: Path, data: bytes) -> tuple[Skeleton, dict[str, tuple[Instance, ...]]]:
        """Return the keypoints, and the instances of each image by its name, of the file that this is made for.

        Raises:
            KpnetError: The file is another program's, or damaged.
        """
        ...

    def lines(self, name: str, instances: tuple[Instance, ...]) -> tuple[str, ...]:
        """Return the text of each of an image's instances that is not empty."""
        ...

    def text(self, entries: Iterable[tuple[str, Entry]], skeleton: Skeleton) -> str:
        """Return the whole file, of the images' names and entries."""
        ...


def parse_instances(values: Any, count: int) -> tuple[Instance, ...]:
    """Check the instances of an image that a page sends.

    Args:
        values: A list of mappings with `points`, for each keypoint null or x, y, visibility and source, and `box`, null
            or four edges.
        count: Number of keypoints.

    Returns:
        The instances, coordinates rounded as the file holds them.

    Raises:
        KpnetError: They are something else.
    """
    if not isinstance(values, list) or len(values) > MAX_INSTANCES:
        raise KpnetError(f"instances: expected a list of at most {MAX_INSTANCES}, found {show(values)}")
    return tuple(parse_instance(value, count) for value in values)


def parse_instance(value: Any, count: int) -> Instance:
    """Check one instance, as `parse_instances` does."""
    points = value.get("points") if isinstance(value, dict) else None
    if not isinstance(points, list) or len(points) != count:
        found = len(points) if isinstance(points, list) else show(points)
        raise KpnetError(f"points: expected a list of {count}, as the skeleton has, found {found}")
    return Instance(tuple(map(_parse_point, points)), parse_box(value.get("box")))


def parse_box(box: Any) -> tuple[float, float, float, float] | None:
    """Check the edges of a box, as `parse_instances` does."""
    if box is None:
        return None
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_coordinate, box)):
        raise KpnetError(f"box: expected four edges in pixels, found {show(box)}")
    x0, y0, x1, y1 = (round(float(edge), DECIMALS) for edge in box)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise KpnetError(f"box: expected x0 < x1 and y0 < y1, found {show(box)}")
    return x0, y0, x1, y1


def _parse_point(value: Any) -> Point | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 4:
        x, y, visibility, source = value
        stated = source and source in SOURCES
        if stated and visibility == 0 and x is None and y is None:
            return Point(None, None, 0, source)
        if stated and visibility in (1, 2) and is_coordinate(x) and is_coordinate(y):
            return Point(round(float(x), DECIMALS), round(float(y), DECIMALS), int(visibility), source)
    raise KpnetError(f"point: expected null or x, y, visibility of 0 to 2 and source, found {show(value)}")


def is_coordinate(value: Any) -> bool:
    """Return whether a value is a number of pixels: neither NaN nor infinite, nor beyond any image."""
    return type(value) in (float, int) and abs(value) < _LIMIT


def check_names(names: Sequence[str]) -> None:
    """Raise KpnetError unless all names can be those of columns, so that the file is read as it was written."""
    if len(names) > MAX_POINTS:
        raise KpnetError(f"names: expected at most {MAX_POINTS}, found {len(names)}")
    for name in names:
        if not name or name != name.strip() or len(name) > MAX_NAME:
            raise KpnetError(f'name "{shorten(name)}": expected 1 to {MAX_NAME} characters without spaces around them')
        if not name.isprintable() or any(c in _NOT_IN_NAMES for c in name):
            raise KpnetError(f'name "{shorten(name)}": expected no comma, semicolon, quote, back slash or control')


class CsvRows:
    """The points CSV: a row for each instance, with four cells for each point and four for a box."""

    format = "points_csv"

    def parse(self, path: Path, data: bytes) -> tuple[Skeleton, dict[str, tuple[Instance, ...]]]:
        rows = csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""))
        try:
            names = names_of(next(rows, []))
            if names is None:
                raise not_ours(path)
            found: dict[str, list[Instance]] = {}
            width = 1 + len(_COLUMNS) * len(names) + len(BOX)
            for row in rows:
                if len(row) != width:
                    raise KpnetError(
                        f"{path}: line {rows.line_num}: cells: expected {width} as in the header, found {len(row)}"
                    )
                cells = row[1 : 1 + len(_COLUMNS) * len(names)]
                try:
                    points = tuple(_read_point(cells[k : k + 4]) for k in range(0, len(cells), 4))
                    box = [float(edge) for edge in row[-4:]] if any(row[-4:]) else None
                    instance = parse_instance({"points": [p and list(p) for p in points], "box": box}, len(names))
                except (KpnetError, ValueError) as error:
                    raise KpnetError(f"{path}: line {rows.line_num}: {error}") from None
                found.setdefault(row[0], []).append(instance)
        except csv.Error as error:
            raise KpnetError(f"{path}: line {rows.line_num}: {error}") from None
        return Skeleton.of_names(names), {name: tuple(instances) for name, instances in found.items()}

    def lines(self, name: str, instances: tuple[Instance, ...]) -> tuple[str, ...]:
        rows = []
        for instance in instances:
            if instance.is_empty:
                continue
            cells: list[str] = []
            for point in instance.points:
                cells += (
                    ("",) * 4
                    if point is None
                    else (_cell(point.x), _cell(point.y), str(point.visibility), point.source)
                )
            rows.append([name, *cells, *(("",) * 4 if instance.box is None else map(_cell, instance.box))])
        return (csv_text(rows),) if rows else ()

    def text(self, entries: Iterable[tuple[str, Entry]], skeleton: Skeleton) -> str:
        header = csv_text([column_names(skeleton.names)])
        return "".join([header, *(line for _, entry in entries for line in entry.lines)])


def not_ours(path: Path) -> KpnetError:
    """Return the error for a file that is in the place of one of labels."""
    return KpnetError(f"{path}: exists, and kpnet label did not write it; give another --out, or move it away")


def names_of(header: Sequence[str]) -> tuple[str, ...] | None:
    """Return the keypoints of a header, or None if `kpnet label` did not write it."""
    names = tuple(column.removesuffix("_x") for column in header[1 : -len(BOX) : len(_COLUMNS)])
    return names if names and list(header) == column_names(names) else None


def column_names(names: Sequence[str]) -> list[str]:
    """Return the header of a file with these keypoints."""
    return ["image", *(f"{name}_{what}" for name in names for what in _COLUMNS), *BOX]


def _read_point(cells: Sequence[str]) -> Point | None:
    if not any(cells):
        return None
    x, y, visibility, source = cells
    return Point(float(x) if x else None, float(y) if y else None, int(visibility or 2), source or PERSON)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".")


def reorder_points(instances: Sequence[Instance], old: Sequence[str], new: Sequence[str]) -> tuple[Instance, ...]:
    """Return instances with their points in the order of other names; points of names that are new are unlabelled."""
    if tuple(old) == tuple(new):
        return tuple(instances)
    place = {name: k for k, name in enumerate(old)}
    order = [place.get(name) for name in new]
    return tuple(
        replace(instance, points=tuple(None if k is None else instance.points[k] for k in order))
        for instance in instances
    )


def check_kept(where: str, old: Sequence[str], every: Sequence[Sequence[Instance]], skeleton: Skeleton) -> None:
    """Raise KpnetError if labels are of points that a skeleton lacks."""
    gone = [k for k, name in enumerate(old) if name not in skeleton.names]
    if lost := [old[k] for k in gone if any(own.points[k] is not None for each in every for own in each)]:
        raise KpnetError(
            f"{where}: has labels of {few(lost)}, which the skeleton lacks; "
            "give one with these names too, or another --out"
        )
