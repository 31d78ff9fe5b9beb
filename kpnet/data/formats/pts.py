"""The layout of 300-W: a `.pts` text file beside each picture, of the same stem, with the points of one face."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.image_files import ImageFileDataset, read_text
from kpnet.data.formats.instances import Instances, unnamed_skeleton
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.writing import sample_points, write_image, write_images
from kpnet.data.images import IMAGE_SUFFIXES, find_files


@DATASETS.register("pts")
class PTS(ImageFileDataset):
    """A folder, and those beneath it, of pictures with a `.pts` file each: `version: 1`, `n_points: 68`, and a line
    `x y` a point, between braces or without.

    index_base: 1 or 0, the coordinates of the upper left pixel's centre: 1 as 300-W publishes them.
    exif: the points are on the picture as a viewer turns it, not on its stored pixels.

    The points are those of the skeleton, if it has as many; else 68 are ibug68's, and others are called 0, 1, 2, …
    `nan nan` is a missing point. Files with another number of points than most are left out.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        index_base: Literal[0, 1] = 1,
        exif: bool = False,
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        skipped = Skipped(Path(path), strict)
        instances = _read_folder(skipped, index_base, skeleton)
        super().__init__(skipped.source, instances, skipped, skeleton=skeleton, exif=exif, **options)


def _read_folder(skipped: Skipped, index_base: int, skeleton: Skeleton | None) -> Instances:
    folder = skipped.source
    if not folder.is_dir():
        raise KpnetError(f"{folder}: no such folder; expected one with pictures and .pts files")
    files = find_files(folder, (".pts", *IMAGE_SUFFIXES))
    pictures: dict[Path, list[Path]] = {}
    for path in files:
        if path.suffix.lower() != ".pts":
            pictures.setdefault(path.with_suffix(""), []).append(path)
    labels = [path for path in files if path.suffix.lower() == ".pts"]
    if not labels:
        raise KpnetError(f"{folder}: found no .pts file in it")
    found: list[tuple[str, str, np.ndarray]] = []  # label and picture, beneath the folder, and the points
    for path in labels:
        name, there = str(path.relative_to(folder)), pictures.get(path.with_suffix(""), [])
        try:
            points = read_pts(path) - index_base
        except KpnetError as error:
            skipped.add(str(error).removeprefix(f"{folder}/"))
            continue
        if len(there) != 1:
            which = f"{len(there)} pictures of that name: {', '.join(p.name for p in there)}"
            skipped.add(f"{name}: {which if there else 'no picture of that name beside it'}")
            continue
        found.append((name, str(there[0].relative_to(folder)), points))
    if not found:
        skipped.tell(0)
    count = Counter(len(points) for *_, points in found).most_common(1)[0][0]
    for name, _, points in found:
        if len(points) != count:
            skipped.add(f"{name}: {len(points)} points, expected {count} as in most of the folder")
    called, names, kept = zip(*(each for each in found if len(each[2]) == count), strict=True)
    asked = skeleton is not None and len(skeleton) == count
    own = Skeleton.load("ibug68") if count == 68 and not asked else unnamed_skeleton(count, skeleton)
    return Instances(own, np.array(names), np.arange(len(names)), np.stack(kept), called)


def read_pts(path: Path) -> np.ndarray:
    """Float64 (K, 2) as the file has them; nan nan for a missing one. A KpnetError for what is no such file."""
    expected = "lines `n_points: K` and `x y`"
    head: dict[str, str] = {}
    rows: list[tuple[float, float]] = []
    for number, line in enumerate(read_text(path, expected).splitlines(), start=1):
        key, colon, value = line.partition(":")
        if colon and not rows:
            head[key.strip().lower()] = value.strip()
            continue
        if not (words := line.strip().strip("{}").split()):
            continue
        try:
            x, y = map(float, words)
        except ValueError:
            raise KpnetError(f'{path}: line {number}: "{line.strip()[:40]}"; expected x y of a point') from None
        rows.append((x, y))
    if not rows or str(len(rows)) != head.get("n_points", str(len(rows))):
        raise KpnetError(f"{path}: {len(rows)} points, expected {head.get('n_points', 'at least 1')}; is it cut short?")
    xy = np.array(rows)
    xy[np.isnan(xy).any(-1)] = np.nan
    return xy


def write_pts(dataset: KeypointDataset, folder: Path, *, index_base: Literal[0, 1] = 1) -> None:
    """A .pts beside each picture; of several instances or of one stem a picture each, with a number behind its name."""
    written: dict[str, Path] = {}
    for index, path in enumerate(_own_stems([path for _, path, _ in write_images(dataset, None)])):
        target, name = folder / path, dataset.image_name(index)
        if name in written:
            shutil.copyfile(written[name], target)
        else:
            write_image(dataset, index, target)
            written[name] = target
        lines = [f"{x:.6f} {y:.6f}" for x, y in (sample_points(dataset, index) + index_base).tolist()]
        text = ["version: 1", f"n_points: {len(lines)}", "{", *lines, "}"]
        target.with_suffix(".pts").write_text("\n".join(text) + "\n", encoding="utf-8")


def _own_stems(paths: list[Path]) -> list[Path]:
    """Each with a stem that no other has, for a file of its own beside it: those that share one get numbers."""
    shared = Counter(path.with_suffix("") for path in paths)
    taken = {stem for stem, count in shared.items() if count == 1}
    own = []
    for path in paths:
        if shared[path.with_suffix("")] > 1:
            numbered = (path.with_stem(f"{path.stem}_{number}") for number in itertools.count(1))
            path = next(each for each in numbered if each.with_suffix("") not in taken)
            taken.add(path.with_suffix(""))
        own.append(path)
    return own
