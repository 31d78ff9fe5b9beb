"""Inputs of `kpnet predict` and `kpnet visualize`: images, videos, folders of them, and files of labels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.config.fields import Part
from kpnet.config.loading import run_config
from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError
from kpnet.core.files import alike, file_name
from kpnet.data import KeypointDataset
from kpnet.data.build import open_dataset
from kpnet.data.formats.detect import detect_format
from kpnet.data.formats.image_files import ImageFile, ImageFileDataset
from kpnet.data.formats.npz import IMAGES, check_images, has_keypoints, read_npz
from kpnet.data.formats.points_csv import PARQUET
from kpnet.data.images import (
    FOREIGN_SUFFIXES,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Box,
    find_files,
    walk_files,
    walk_image_files,
)
from kpnet.inference.image_lists import is_image_list, read_image_list
from kpnet.models.ensemble import Ensemble
from kpnet.models.exported import ExportedModel
from kpnet.models.keypoint_model import KeypointModel

TABLES = (".csv", ".json", ".npz", *PARQUET)  # files that hold or name many images

_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image to predict, not read yet.

    Attributes:
        name: Name of the image in the predictions.
        target: Path of its drawn copy below the output folder.
        load: Reads the image: uint8 (H, W) or RGB (H, W, 3).
        labels: Returns the points that the image came with: name to x and y in its pixels, and weight.
        boxes: Boxes of its instances. None: the whole image is one.
        warning: A line that says which instances are skipped, or None.
        file: File that it is read from, if it has one of its own.
        source: An image file that `load` reads as it is, and how.
    """

    name: str
    target: Path
    load: Callable[[], np.ndarray]
    labels: Callable[[], Mapping[str, list[float]]] = dict
    boxes: tuple[Box, ...] | None = None
    warning: str | None = None
    file: Path | None = None
    source: ImageFile | None = None


def find_images(
    inputs: Sequence[Path],
    failures: list[str],
    trained: DataConfig | None = None,
    boxes: bool = False,
    form: Part | None = None,
    finds: bool = False,
) -> list[InputImage]:
    """Find the images of the inputs, without reading them.

    Args:
        inputs: Image files, folders of images, and files of labels.
        failures: Gets a line for each input that cannot be used.
        trained: The `data` section of the model's run. Its formats' options are used for inputs of these formats, and
            their `bits` for image files.
        boxes: Use the boxes of inputs that have some.
        form: Name of the inputs' data format, or a mapping with its options. None: files of labels are detected by
            their suffix, and folders are images.
        finds: Whether the model finds instances itself. The boxes of a list of images are used all the same, and not
            those of labels.

    Returns:
        The images in the order of the inputs, each with a target of its own.

    Raises:
        KpnetError: An input does not exist.
    """
    return _with_unique_targets(stream_images(inputs, failures, trained, boxes, form, finds))


def stream_images(
    inputs: Sequence[Path],
    failures: list[str],
    trained: DataConfig | None = None,
    boxes: bool = False,
    form: Part | None = None,
    finds: bool = False,
) -> Iterator[InputImage]:
    """Find the images of the inputs as they are asked for, so that nothing grows with their number.

    The names of one folder, and what a file of labels holds, are in memory while its images are yielded.

    Args:
        inputs: As in `find_images`, as the other arguments.
        failures: Gets a line for each input that cannot be used, when its turn comes.
        trained: The `data` section of the model's run.
        boxes: Use the boxes of inputs that have some.
        form: Name of the inputs' data format, or a mapping with its options.
        finds: Whether the model finds instances itself.

    Returns:
        An iterator of the images that `find_images` returns, whose targets are not made unique.

    Raises:
        KpnetError: An input does not exist.
    """
    for path in inputs:
        if not path.exists():
            raise KpnetError(f"{path}: no such file or folder")

    def images() -> Iterator[InputImage]:
        for path in inputs:
            try:
                yield from _images_of(path, trained, boxes, form, failures, finds)
            except KpnetError as error:
                failures.append(str(error))

    return images()


def _images_of(
    path: Path, trained: DataConfig | None, boxes: bool, form: Part | None, failures: list[str], finds: bool
) -> Iterable[InputImage]:
    if form is not None:
        return dataset_images(open_dataset(path, form), str(path), path.stem, boxes and not finds)
    bits = 16 if trained is None else trained.image_bits()
    if is_image_list(path):
        listed = read_image_list(path, failures)
        return (
            _image_file(path.parent / image, Path(image), bits, own if boxes or finds else None)
            for image, own in listed
        )
    if path.suffix.lower() == ".npz" and path.is_file() and not has_keypoints(path):
        pixels = check_images(path, read_npz(path, [IMAGES])[IMAGES])
        pixels = pixels[..., 0] if pixels.shape[3:] == (1,) else pixels
        return (
            InputImage(f"{path}:{row}", Path(file_name(f"{path.stem}_{row}", ".png")), partial(np.array, image))
            for row, image in enumerate(pixels)
        )
    # The points of a file of labels may be others than the model's.
    if path.suffix.lower() in TABLES and path.is_file():
        given, detected = detect_format(path)
        data = open_dataset(given, detected if trained is None else trained.format_named(detected))
        return dataset_images(data, str(path), path.stem, boxes and not finds)
    if not path.is_dir():
        return [_image_file(path, Path(path.name), bits)]
    return (_image_file(file, file.relative_to(path), bits) for file in walk_image_files(path))


def _image_file(file: Path, target: Path, bits: int, boxes: tuple[Box, ...] | None = None) -> InputImage:
    """Return an image file, whose drawn copy has the name of `target` and lies in the same folders below the output."""
    source = ImageFile(file, bits=bits)
    inside = Path(*(part for part in target.parts[:-1] if part not in (target.anchor, "..")))
    return InputImage(
        str(file), inside / file_name(target.stem, ".png"), source.read, boxes=boxes, file=file, source=source
    )


def dataset_images(dataset: KeypointDataset, called: str, stem: str, boxes: bool = False) -> list[InputImage]:
    """List every image of a dataset once, without reading it.

    Args:
        dataset: The dataset.
        called: Beginning of the images' names.
        stem: Beginning of their targets.
        boxes: Use the boxes of the instances of an image that has some; its instances without a box are skipped.

    Returns:
        The images in the order of the dataset, each with a target of its own.
    """
    groups: list[tuple[str, list[int]]] = []  # the instances of each image
    last: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        name = dataset.image_name(index)
        if dataset.instance(index) == 0 or name not in last:
            last[name] = []
            groups.append((name, last[name]))
        last[name].append(index)
    images = []
    for name, indices in groups:
        around = [(i, tuple(box.tolist())) for i in indices if boxes and (box := dataset.box(i)) is not None]
        first = around[0][0] if around else indices[0]
        skipped = len(indices) - len(around) if around else 0
        warning = f"{called}:{name}: {skipped} of {len(indices)} instances have no box and are skipped"
        images.append(
            InputImage(
                f"{called}:{name}",
                Path(file_name(str(Path(f"{stem}_{name.replace('/', '_')}").with_suffix("")), ".png")),
                partial(_read, dataset, first),
                partial(_labels, dataset, first),
                tuple(box for _, box in around) if around else None,
                warning if skipped else None,
                dataset.image_file(first),
                dataset.image_source(first) if isinstance(dataset, ImageFileDataset) else None,
            )
        )
    return _with_unique_targets(images)


def _with_unique_targets(images: Iterable[InputImage]) -> list[InputImage]:
    """Append a number to each target that another image already has."""
    unique: dict[str, InputImage] = {}
    for image in images:
        target, count = image.target, 1
        while alike(target) in unique:
            count += 1
            target = image.target.with_stem(f"{image.target.stem}_{count}")
        unique[alike(target)] = replace(image, target=target)
    return list(unique.values())


def _sample(dataset: KeypointDataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Read a sample, in one thread at a time unless its image is a file of its own: a decoder seeks, and then reads."""
    with nullcontext() if isinstance(dataset, ImageFileDataset) else _ONE_AT_A_TIME:
        return dataset.read(index)


def _read(dataset: KeypointDataset, index: int) -> np.ndarray:
    return _sample(dataset, index)[0]


def _labels(dataset: KeypointDataset, index: int) -> dict[str, list[float]]:
    points = np.column_stack([_sample(dataset, index)[1], dataset.point_weights(index)])
    named = zip(dataset.skeleton.names, points, strict=True)
    return {name: point.tolist() for name, point in named if np.isfinite(point).all()}


def find_videos(inputs: Sequence[Path]) -> tuple[list[Path], dict[str, Path]]:
    """Separate the videos from the other inputs.

    Args:
        inputs: Files and folders.

    Returns:
        The other inputs, without folders that hold videos but no image; and the videos among the files and in the
        folders, by unique names.
    """
    others: list[Path] = []
    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside = find_files(path, VIDEO_SUFFIXES)
            found += inside
            images = walk_files(path, IMAGE_SUFFIXES + FOREIGN_SUFFIXES)
            others += [path] if not inside or next(images, None) is not None else []
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            found.append(path)
        else:
            others.append(path)
    named: dict[str, tuple[str, Path]] = {}
    for path in found:
        name = first = file_name(path.stem)
        count = 1
        while alike(name) in named:
            count += 1
            name = f"{first}_{count}"
        named[alike(name)] = name, path
    return others, dict(named.values())


def trained_bits(sources: Sequence[Any], model: KeypointModel | ExportedModel | Ensemble) -> int:
    """Return the `bits` of 16-bit images with which models were trained.

    Args:
        sources: What the model was loaded from: run folders, exported files, models. Models and folders without a
            config do not say.
        model: The model.

    Returns:
        The bits; 16 where nothing says it.

    Raises:
        KpnetError: The models were trained with different ones, or a config is wrong.
    """
    found: dict[int, str] = {}
    parts = list(model.models) if isinstance(model, Ensemble) else [model]
    for source, part in zip(sources, parts, strict=False):
        if isinstance(part, ExportedModel):
            found.setdefault(part.info.bits, part.name)
        elif isinstance(source, (str, Path)):
            config = run_config(Path(source))
            found.setdefault(16 if config is None else config.data.image_bits(), str(source))
    if len(found) > 1:
        (first, one), (second, other) = list(found.items())[:2]
        raise KpnetError(
            f"{other}: was trained on images of {second} bits, and {one} of {first}; predict with one of them, or give "
            "Predictor the bits"
        )
    return next(iter(found), 16)
