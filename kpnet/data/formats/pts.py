"""The layout of 300-W (Sagonas et al. 2013, 300 Faces in-the-Wild Challenge): a text file beside each image.

Layout: a folder, with or without subfolders, of images and `.pts` files. `a.pts` has the keypoints of the one face in
`a.png` or `a.jpg`:

    version: 1
    n_points: 68
    {
    30.5 40.25
    …
    }

The braces may be missing. `nan nan` is a missing keypoint. The format has no names, boxes or visibilities.

Coordinates: x and y in pixels; the centre of the upper left pixel is 1, 1 as 300-W publishes them (MATLAB counts so).
kpnet subtracts `index_base`, so that it is 0, 0.

Skipped with a warning: files that cannot be parsed, that have no image or several beside them, that have another number
of keypoints than most files of the folder, or whose image is damaged. Images without a `.pts` file are ignored.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.reading import read_text
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.image_files import ImageFileDataset
from kpnet.data.formats.instances import Instances, unnamed_skeleton
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.writing import own_stems, sample_points, write_image, write_images
from kpnet.data.images import IMAGE_SUFFIXES, find_files


@DATASETS.register("pts")
class PTS(ImageFileDataset):
    """Images in folders with a `.pts` file for each, as in 300-W.

    Args:
        path: The folder.
        index_base: Coordinate of the centre of the upper left pixel: 1, as 300-W publishes its files, or 0.
        exif: Whether keypoints were placed on the image as an image viewer rotates it; false for the stored pixels, as
            MATLAB and PIL read them.
        skeleton: Skeleton to use if it has as many keypoints as the files. Otherwise 68 keypoints are `ibug68`, and
            others are called 0, 1, 2, …
        strict: Raise an error at the first file that cannot be used, instead of skipping it with a warning.
        **options: `complete_only` and the arguments of `KeypointDataset`.

    Raises:
        KpnetError: There is no such folder, or no usable `.pts` file in it.

    Example:
        >>> dataset = PTS("helen/trainset", index_base=1)
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
        instances = _read_folder(skipped, skeleton)
        options["index_base"] = index_base
        super().__init__(skipped.source, instances, skipped, skeleton=skeleton, exif=exif, **options)


def _read_folder(skipped: Skipped, skeleton: Skeleton | None) -> Instances:
    folder = skipped.source
    if not folder.is_dir():
        raise KpnetError(f"{folder}: no such folder; expected a folder of images and .pts files")
    files = find_files(folder, (".pts", *IMAGE_SUFFIXES))
    images: dict[Path, list[Path]] = {}
    for path in files:
        if path.suffix.lower() != ".pts":
            images.setdefault(path.with_suffix(""), []).append(path)
    labels = [path for path in files if path.suffix.lower() == ".pts"]
    if not labels:
        raise KpnetError(f"{folder}: found no .pts file in it")
    found: list[tuple[str, str, np.ndarray]] = []  # label and image, below the folder, and the points
    for path in labels:
        name, beside = str(path.relative_to(folder)), images.get(path.with_suffix(""), [])
        try:
            points = read_pts(path)
        except KpnetError as error:
            skipped.add(str(error).removeprefix(f"{folder}/"))
            continue
        if len(beside) != 1:
            several = f"{len(beside)} images of that name: {', '.join(p.name for p in beside)}"
            skipped.add(f"{name}: {several if beside else 'no image of that name beside it'}")
            continue
        found.append((name, str(beside[0].relative_to(folder)), points))
    if not found:
        skipped.warn(0)
    count = Counter(len(points) for *_, points in found).most_common(1)[0][0]
    for name, _, points in found:
        if len(points) != count:
            skipped.add(f"{name}: points: expected {count} as in most of the folder, found {len(points)}")
    origins, names, kept = zip(*(each for each in found if len(each[2]) == count), strict=True)
    fits = skeleton is not None and len(skeleton) == count
    own = Skeleton.load("ibug68") if count == 68 and not fits else unnamed_skeleton(count, skeleton)
    return Instances(own, np.array(names), np.arange(len(names)), np.stack(kept), origins)


def read_pts(path: Path) -> np.ndarray:
    """Return a file's keypoints as they are in it, float64 (K, 2), NaN where missing, or raise KpnetError."""
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
        expected = head.get("n_points", "at least 1")
        raise KpnetError(f"{path}: points: expected {expected}, found {len(rows)}; is it cut short?")
    xy = np.array(rows)
    xy[np.isnan(xy).any(-1)] = np.nan
    return xy


def write_pts(dataset: KeypointDataset, folder: Path, *, index_base: Literal[0, 1] = 1) -> None:
    """Write each sample's image with a .pts file beside it.

    An image of several instances is written once for each. These, and images of one stem, get a number at their name.
    """
    written: dict[str, Path] = {}
    for index, path in enumerate(own_stems([path for _, path, _ in write_images(dataset, None)])):
        target, name = folder / path, dataset.image_name(index)
        if name in written:
            shutil.copyfile(written[name], target)
        else:
            write_image(dataset, index, target)
            written[name] = target
        lines = [f"{x:.6f} {y:.6f}" for x, y in (sample_points(dataset, index) + index_base).tolist()]
        text = ["version: 1", f"n_points: {len(lines)}", "{", *lines, "}"]
        target.with_suffix(".pts").write_text("\n".join(text) + "\n", encoding="utf-8")
