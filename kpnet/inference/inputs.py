"""What `kpnet predict` and `visualize` are given: picture files, folders of them, CSVs with an Image column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError
from kpnet.core.registry import split_spec
from kpnet.data import KeypointDataset
from kpnet.data.build import open_dataset
from kpnet.data.formats.detect import detect_format
from kpnet.data.formats.points_csv import PARQUET
from kpnet.data.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Box, read_image

TABLES = (".csv", ".json", ".npz", *PARQUET)  # files that hold or name many pictures


@dataclass(frozen=True)
class InputImage:
    """`name` is what predictions call it, `target` its drawn copy's place below the output folder.

    `labels` gives the points that it came with: name to x, y in its pixels, and weight. `boxes`: its instances', or
    None where the whole picture is one. `lost`: a line that says what of it is left out, or None.
    """

    name: str
    target: Path
    load: Callable[[], np.ndarray]
    labels: Callable[[], Mapping[str, list[float]]] = dict
    boxes: tuple[Box, ...] | None = None
    lost: str | None = None


def find_images(inputs: Sequence[Path], trained: DataConfig | None = None, boxes: bool = False) -> list[InputImage]:
    """Every picture of the inputs, none of them read yet. A KpnetError for an input that has none.

    trained: the data section of the model's run: the options of its format are those of an input of the same one.
    boxes: with the boxes of an input that has some.
    """
    pictures: list[InputImage] = []
    for path in inputs:
        if not path.exists():
            raise KpnetError(f"{path}: no such file or folder")
        # A table's points, if it has any, may be others than the model's.
        if path.suffix.lower() in TABLES:
            given, name = detect_format(path)
            same = trained is not None and split_spec(trained.format, "data.format")[0] == name
            data = open_dataset(given, trained.format if trained is not None and same else name)
            pictures += dataset_images(data, str(path), path.stem, boxes)
        else:
            pictures += _of_files(path)
    return _apart(pictures)


def dataset_images(dataset: KeypointDataset, called: str, stem: str, boxes: bool = False) -> list[InputImage]:
    """Every image of a dataset once, none of them read yet; `called` and `stem` begin their names and targets.

    boxes: with those of its instances, where it has them; an instance without one is left out there.
    """
    images: list[tuple[str, list[int]]] = []
    last: dict[str, list[int]] = {}  # the instances of each image
    for index in range(len(dataset)):
        name = dataset.image_name(index)
        if dataset.instance(index) == 0 or name not in last:
            last[name] = []
            images.append((name, last[name]))
        last[name].append(index)
    pictures = []
    for name, indices in images:
        around = [(i, tuple(box.tolist())) for i in indices if boxes and (box := dataset.box(i)) is not None]
        first = around[0][0] if around else indices[0]
        lost = len(indices) - len(around) if around else 0
        pictures.append(
            InputImage(
                f"{called}:{name}",
                Path(f"{stem}_{name.replace('/', '_')}").with_suffix(".png"),
                partial(_read, dataset, first),
                partial(_labels, dataset, first),
                tuple(box for _, box in around) if around else None,
                f"{called}:{name}: {lost} of {len(indices)} instances have no box and are left out" if lost else None,
            )
        )
    return _apart(pictures)


def _apart(pictures: Iterable[InputImage]) -> list[InputImage]:
    """The same, with a number where a target is another's already."""
    different: dict[Path, InputImage] = {}
    for picture in pictures:
        target, count = picture.target, 1
        while target in different:
            count += 1
            target = picture.target.with_stem(f"{picture.target.stem}_{count}")
        different[target] = replace(picture, target=target)
    return list(different.values())


def _of_files(path: Path) -> list[InputImage]:
    if not path.is_dir():
        return [InputImage(str(path), Path(f"{path.stem}.png"), partial(read_image, path))]
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise KpnetError(f"{path}: found no pictures in it (expected {', '.join(IMAGE_SUFFIXES)})")
    return [InputImage(str(f), f.relative_to(path).with_suffix(".png"), partial(read_image, f)) for f in files]


def _read(dataset: KeypointDataset, index: int) -> np.ndarray:
    return dataset.read(index)[0]


def _labels(dataset: KeypointDataset, index: int) -> dict[str, list[float]]:
    points = np.column_stack([dataset.read(index)[1], dataset.point_weights(index)])
    named = zip(dataset.skeleton.names, points, strict=True)
    return {name: point.tolist() for name, point in named if np.isfinite(point).all()}


def find_videos(inputs: Sequence[Path]) -> tuple[list[Path], dict[str, Path]]:
    """The inputs that are no videos, and the videos: files, and those in folders, each under a name of its own.

    A folder with videos and no picture is not among the former.
    """
    others: list[Path] = []
    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            inside = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
            found += inside
            pictures = any(file.suffix.lower() in IMAGE_SUFFIXES for file in files)
            others += [path] if pictures or not inside else []
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            found.append(path)
        else:
            others.append(path)
    named: dict[str, Path] = {}
    for path in found:
        name, count = path.stem, 1
        while name in named:
            count += 1
            name = f"{path.stem}_{count}"
        named[name] = path
    return others, named
