"""DeepLabCut projects (Mathis et al. 2018, DeepLabCut: markerless pose estimation of user-defined body parts).

Layout: the folder of a project:

    config.yaml
    labeled-data/VIDEO/img000.png
    labeled-data/VIDEO/CollectedData_SCORER.csv

- `config.yaml`: `bodyparts`, the names of the keypoints; `skeleton`, pairs of names; `scorer`. In a project of several
  animals (`multianimalproject: true`) the names are `multianimalbodyparts` and `uniquebodyparts`.
- `CollectedData_SCORER.csv`: header lines `scorer`, `individuals` (only with several animals), `bodyparts` and
  `coords` (x or y), then one line for each frame, whose name is in the first cell or the first three. An empty cell
  is a missing keypoint. A `.h5` file of the same name is read where there is no CSV and PyTables is installed.

A single table of that kind is read too, without a project, as Lightning Pose has it: its body parts are the keypoints,
and its frames are found from its folder or from one above it.

Coordinates: pixels, integers are pixel centres, as in kpnet: they stay as they are. The format has no boxes or
visibilities.

Each animal with a keypoint on a frame is one sample; with a single animal, each frame is. Ignored: tables of scorers
other than the config's, folders without a table. Skipped with a warning: lines with too few cells or text instead of a
number, body parts that the config lacks, and missing or damaged frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError, did_you_mean, shorten
from kpnet.core.skeleton import Skeleton
from kpnet.core.yaml import parse_yaml, write_yaml
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.image_files import ImageFileDataset, find_folder
from kpnet.data.formats.instances import Instances
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.text_table import decode_text, is_number, read_bytes, read_text_table
from kpnet.data.formats.writing import csv_cells, sample_points, write_csv, write_images

_EXPECTED = "a DeepLabCut config.yaml with bodyparts"
_COMPARED = 20  # unknown body parts for which a known one is proposed
_HEADER = ("scorer", "individuals", "bodyparts", "coords")


@DATASETS.register("deeplabcut")
class DeepLabCut(ImageFileDataset):
    """The labelled frames of a DeepLabCut project, one video after another.

    Keypoints and edges are those of the project's config.yaml, in its order, or those of a single table.

    Args:
        path: The project's folder, its config.yaml, or a table of labels (CSV or HDF5).
        videos: Names of the folders in `labeled-data` to use; null for all of them. A single table has none.
        images: Folder of a single table's frames, relative to its folder; null for the nearest one that has them.
        exif: Apply the EXIF rotation, as an image viewer does; false reads pixels as they are stored.
        skeleton: Skeleton to use if its keypoint names are the project's. None: the project's own.
        strict: Raise an error at the first label that cannot be used, instead of skipping it with a warning.
        **options: `complete_only` and the arguments of `KeypointDataset`.

    Raises:
        KpnetError: The folder is no such project, or has no usable label.

    Example:
        >>> dataset = DeepLabCut("openfield-Pranav-2018-10-30", videos=["m4s1"])
    """

    def __init__(
        self,
        path: str | Path,
        *,
        videos: list[str] | None = None,
        images: str | None = None,
        exif: bool = True,
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        path = Path(path)
        if path.suffix.lower() in (".csv", ".h5"):
            if videos is not None:
                raise KpnetError(f"{path}: videos: a single table has none; give the project's folder, or leave it out")
            skipped = Skipped(path, strict)
            instances = _read_single(path, skipped)
            folder = find_folder(path, instances.images, images, skipped)
        else:
            if images is not None:
                raise KpnetError(f"{path}: images: a project has its frames in labeled-data; leave it out")
            folder = path.parent if path.name == "config.yaml" else path
            skipped = Skipped(folder, strict)
            instances = _read_project(folder, videos, skipped)
        super().__init__(folder, instances, skipped, skeleton=skeleton, exif=exif, **options)


@dataclass
class _Columns:
    """The columns of a table by (individual, body part, x or y), in the file's order."""

    place: dict[tuple[str, str, str], int]
    index: int  # number of columns that name the frame

    @property
    def individuals(self) -> list[str]:
        return list(dict.fromkeys(individual for individual, _, _ in self.place))


@dataclass
class _Rows:
    """What has been read: for each labelled animal its frame, its points and where they are, for messages."""

    paths: list[str] = field(default_factory=list)
    image_index: list[int] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    lines: dict[str, str] = field(default_factory=dict)  # frame to where it stands


def _read_project(folder: Path, videos: Sequence[str] | None, skipped: Skipped) -> Instances:
    config = _read_config(folder / "config.yaml")
    skeleton = _skeleton(folder, config, skipped)
    rows = _Rows()
    for table in _tables(folder, videos, str(config.get("scorer"))):
        _read_table(folder, table, _lines(table, skipped), skeleton, rows, skipped)
    if not rows.points:
        skipped.warn(0)
    return _instances(skeleton, rows)


def _read_single(path: Path, skipped: Skipped) -> Instances:
    """Read a table without a project. Its keypoints are all of its body parts."""
    lines = _lines(path, skipped)
    columns, _ = _header(path, [cells for _, cells in lines[:4]])
    skeleton = Skeleton.of_names(list(dict.fromkeys(part for _, part, _ in columns.place)))
    rows = _Rows()
    _read_table(path.parent, path, lines, skeleton, rows, skipped)
    if not rows.points:
        skipped.warn(0)
    if all(Path(name).name.removesuffix(".0").isdigit() for name in rows.paths):
        raise KpnetError(
            f"{path}: its rows are numbers of frames, as in DeepLabCut's predictions on a video; expected labels, "
            "whose rows are names of images"
        )
    return _instances(skeleton, rows)


def _instances(skeleton: Skeleton, rows: _Rows) -> Instances:
    points, images = np.stack(rows.points), np.array(rows.paths)
    instances = Instances(skeleton, images, np.array(rows.image_index), points, rows.origins)
    labelled = instances.image_index[np.isfinite(points).all(-1).any(-1)]
    # A row of empty cells is a frame that nobody has labelled, or that shows nothing: no one can tell.
    instances.background.partial |= set(np.delete(images, labelled).tolist())
    return instances


def _read_config(path: Path) -> Mapping[str, Any]:
    """Return config.yaml with all its values as text, so that names such as `true`, 007 and 1.10 stay as they are."""
    text, _ = decode_text(path, read_bytes(path, _EXPECTED), _EXPECTED)
    values = parse_yaml(text, str(path), _EXPECTED, scalars_as_text=True)
    if not isinstance(values, Mapping) or not (values.get("bodyparts") or values.get("multianimalbodyparts")):
        raise KpnetError(f"{path}: no bodyparts in it; expected {_EXPECTED}")
    return values


def _skeleton(folder: Path, config: Mapping[str, Any], skipped: Skipped) -> Skeleton:
    """Return the project's skeleton. With several animals, the points that an arena has once come last."""
    several = str(config.get("multianimalproject")).lower() in ("true", "yes", "on")
    names = _names(folder, "multianimalbodyparts" if several else "bodyparts", config)
    if several and isinstance(config.get("uniquebodyparts"), list):
        names += _names(folder, "uniquebodyparts", config)
    if not names:
        raise KpnetError(f"{folder / 'config.yaml'}: bodyparts: expected a list of names, found none")
    try:
        own = Skeleton.of_names(names)
    except KpnetError as error:  # a name that appears twice
        raise KpnetError(f"{folder / 'config.yaml'}: bodyparts: {error}") from None
    given = config.get("skeleton")
    edges = [tuple(map(str, edge[:3])) for edge in given if isinstance(edge, list)] if isinstance(given, list) else []
    known = tuple((edge[0], edge[1]) for edge in edges if len(edge) == 2 and set(edge) <= set(names))
    if len(known) != len(edges) and edges != [("bodypart1", "bodypart2"), ("objectA", "bodypart3")]:
        skipped.note("config.yaml: skeleton: pairs with a name that is no body part are not drawn")
    return Skeleton(own.names, own.pairs, known) if known else own


def _names(folder: Path, key: str, config: Mapping[str, Any]) -> list[str]:
    names = config.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        found = (
            "nothing" if names is None else f"{type(names).__name__} {shorten(names) if isinstance(names, str) else ''}"
        )
        raise KpnetError(f"{folder / 'config.yaml'}: {key}: expected a list of names, found {found.strip()}")
    return list(names)


def _tables(folder: Path, videos: Sequence[str] | None, scorer: str) -> list[Path]:
    """Return one table for each video: the scorer's, or the only one; a CSV where there is one, else HDF5."""
    labelled = folder / "labeled-data"
    folders = sorted(f for f in labelled.iterdir() if f.is_dir()) if labelled.is_dir() else []
    names = [f.name for f in folders]
    for video in videos or ():
        if video not in names:
            raise KpnetError(f'{labelled}: no folder "{video}"{did_you_mean(video, names)}')
    tables = []
    for video_folder in folders if videos is None else [labelled / video for video in videos]:
        files = [*sorted(video_folder.glob("CollectedData_*.csv")), *sorted(video_folder.glob("CollectedData_*.h5"))]
        scorers = list(dict.fromkeys(file.stem.removeprefix("CollectedData_") for file in files))
        if len(scorers) > 1 and scorer not in scorers:
            raise KpnetError(
                f"{video_folder}: labels of {', '.join(scorers)}, and the config's scorer is {scorer}: set one of them"
            )
        chosen = scorer if scorer in scorers else next(iter(scorers), None)
        tables += [file for file in files if file.stem == f"CollectedData_{chosen}"][:1]
    if not tables:
        raise KpnetError(f"{labelled}: found no VIDEO/CollectedData_{scorer}.csv (or .h5) in it")
    return tables


def _lines(table: Path, skipped: Skipped) -> list[tuple[int, list[str]]]:
    """Return the number and the cells of each line of a table."""
    if table.suffix.lower() == ".h5":
        from kpnet.data.formats.deeplabcut_h5 import read_h5

        return list(enumerate(read_h5(table), start=1))
    text = read_text_table(table, "a DeepLabCut table of labels")
    skipped.notes += [f"{table.name}: {note}" for note in text.notes]
    lines = text.lines
    if text.decimal_comma:
        lines = [[cell.replace(",", ".") if is_number(cell) else cell for cell in line] for line in lines]
    return list(zip(text.numbers, lines, strict=True))


def _read_table(
    folder: Path, table: Path, lines: list[tuple[int, list[str]]], skeleton: Skeleton, rows: _Rows, skipped: Skipped
) -> None:
    columns, start = _header(table, [cells for _, cells in lines[:4]])
    where, known = table.parent.relative_to(folder), set(skeleton.names)
    for count, part in enumerate(dict.fromkeys(part for _, part, _ in columns.place if part not in known)):
        close = did_you_mean(part, skeleton.names) if count < _COMPARED else ""
        skipped.add(
            f'{where / table.name}: body part "{part}"{close}, which the config lacks; add it there, or drop it'
        )
    for number, cells in lines[start:]:
        if any(cells):
            _read_row(where, f"{where / table.name}, line {number}", cells, columns, skeleton, rows, skipped)


def _header(table: Path, lines: list[list[str]]) -> tuple[_Columns, int]:
    """Return the columns and the index of the first line of data.

    A frame's name is in one cell, or in three: labeled-data, VIDEO, FRAME.
    """
    heads = {line[0]: line for line in lines if line and line[0] in _HEADER}
    if not {"bodyparts", "coords"} <= set(heads):
        found = ", ".join(lines[0][:3]) if lines else "nothing"
        raise KpnetError(f"{table}: expected header lines scorer, bodyparts and coords, found {found}")
    parts, coords = heads["bodyparts"], heads["coords"]
    index = next((k for k, cell in enumerate(coords) if k and cell), len(coords))
    individuals = heads.get("individuals", [""] * len(coords))
    if not len(parts) == len(coords) == len(individuals):
        raise KpnetError(
            f"{table}: its header lines: expected as many cells in each, found {len(parts)} and {len(coords)}"
        )
    place: dict[tuple[str, str, str], int] = {}
    for k in range(index, len(coords)):
        if coords[k] in ("x", "y") and place.setdefault((individuals[k], parts[k], coords[k]), k) != k:
            raise KpnetError(f'{table}: body part "{parts[k]}" has two columns {coords[k]}, expected one')
    unpaired = [part for who, part, axis in place if (who, part, {"x": "y", "y": "x"}[axis]) not in place]
    if unpaired or not place:
        raise KpnetError(f"{table}: {unpaired[0] if unpaired else 'coords'}: expected a column x and a column y")
    return _Columns(place, index), len(heads)


def _read_row(
    where: Path, origin: str, cells: list[str], columns: _Columns, skeleton: Skeleton, rows: _Rows, skipped: Skipped
) -> None:
    width = 1 + max(columns.place.values())  # a table may have likelihoods between them
    if len(cells) < width:
        return skipped.add(f"{origin}: cells: expected {width}, found {len(cells)}; is the line cut short?")
    name = PureWindowsPath("/".join(cells[: columns.index]))  # either kind of slash
    try:
        values = {key: float(cells[k] or "nan") for key, k in columns.place.items()}
    except ValueError as error:
        return skipped.add(f"{origin}: {error}; expected pixels, or an empty cell for a missing point")
    # The frames of a project are beside its table, whatever the path says.
    frame = str(where / name.name) if where.parts else name.as_posix()
    if (before := rows.lines.setdefault(frame, origin)) != origin:
        return skipped.add(f"{origin}: {frame} stands in {before} already; keep one of them")
    rows.paths.append(frame)
    for individual in columns.individuals:
        absent = np.nan
        xy = np.array([[values.get((individual, name, axis), absent) for axis in "xy"] for name in skeleton.names])
        xy[np.isnan(xy).any(-1)] = np.nan
        if len(columns.individuals) > 1 and np.isnan(xy).all():
            continue
        rows.points.append(xy)
        rows.image_index.append(len(rows.paths) - 1)
        rows.origins.append(f"{origin}, {individual}" if individual else origin)


def write_deeplabcut(dataset: KeypointDataset, folder: Path, *, scorer: str = "kpnet") -> None:
    """Write config.yaml and labeled-data/FOLDER/CollectedData_SCORER.csv; several animals if an image has several."""
    names = dataset.skeleton.names
    videos: dict[Path, dict[str, list[np.ndarray]]] = {}
    for index, path, _ in write_images(dataset, folder / "labeled-data", place=_video):
        videos.setdefault(path.parent, {}).setdefault(path.name, []).append(sample_points(dataset, index))
    most = max(len(animals) for frames in videos.values() for animals in frames.values())
    absent = np.full((len(names), 2), np.nan)
    who = [f"individual{k + 1}" for k in range(most)]
    config: dict[str, Any] = {"Task": "kpnet", "scorer": scorer, "multianimalproject": most > 1}
    config["bodyparts"] = list(names)
    if most > 1:
        config |= {"bodyparts": "MULTI!", "individuals": who}
        config |= {"multianimalbodyparts": list(names), "uniquebodyparts": []}
    config["skeleton"] = [list(edge) for edge in dataset.skeleton.edges]
    columns = [(animal, part, axis) for animal in who for part in names for axis in "xy"]
    heads = {"scorer": [scorer] * len(columns), "individuals": [c[0] for c in columns]}
    heads |= {"bodyparts": [c[1] for c in columns], "coords": [c[2] for c in columns]}
    for video, frames in videos.items():
        lines = [[head, "", "", *cells] for head, cells in heads.items() if most > 1 or head != "individuals"]
        for name, animals in frames.items():
            row = np.stack([*animals, *[absent] * (most - len(animals))])
            lines.append(["labeled-data", video.name, name, *csv_cells(row.ravel())])
        write_csv(folder / "labeled-data" / video / f"CollectedData_{scorer}.csv", lines)
    (folder / "config.yaml").write_text(write_yaml(config), encoding="utf-8")


def _video(path: Path) -> Path:
    """Return the place of an image in DeepLabCut's single level of folders."""
    folders = [part for part in path.parent.parts if part not in ("labeled-data", "images")]
    return Path("_".join(folders) or "images") / path.name
