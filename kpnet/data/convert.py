"""Convert data from one format to another. Nothing is overwritten, and a failure leaves nothing behind."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.config.fields import Part
from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError, did_you_mean, shorten
from kpnet.core.files import partial_path, replacing
from kpnet.core.outputs import check_writable
from kpnet.core.registry import split_spec
from kpnet.core.validation import check_options
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.coco import write_coco
from kpnet.data.formats.cvat import write_cvat
from kpnet.data.formats.deeplabcut import write_deeplabcut
from kpnet.data.formats.detect import detect_format
from kpnet.data.formats.kaggle_csv import write_kaggle_csv
from kpnet.data.formats.label_studio import write_label_studio
from kpnet.data.formats.labelme import write_labelme
from kpnet.data.formats.npz import write_npz
from kpnet.data.formats.points_csv import write_points_csv
from kpnet.data.formats.pts import write_pts
from kpnet.data.formats.skipped import silenced
from kpnet.data.formats.sleap import write_sleap
from kpnet.data.formats.writing import Writer, sample_points, sample_sources
from kpnet.data.formats.yolo import holds_yolo, write_yolo

_BY_SUFFIX = {".npz": "npz", ".csv": "kaggle_csv"}
# Options with which a format reads samples without a labelled point, too.
_READ_ALL: dict[str, dict[str, Any]] = {
    name: {"empty": True} for name in ("coco", "cvat", "label_studio", "labelme", "sleap")
}
_READ_ALIKE = ("index_base", "predictions")  # options of a writer that its reader needs, too


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        samples: Number of samples that are read back.
        lost: The information that the samples have and the format cannot store, each with its count, such as
            "boxes (3)".
    """

    samples: int
    lost: list[str]


def convert(dataset: KeypointDataset, target: Path, form: Part | None = None) -> Conversion:
    """Write a dataset in another format. What was written is read back before it is put in its place.

    Args:
        dataset: The samples to write.
        target: The folder to write, or the file for `npz` and `kaggle_csv`. It must not exist.
        form: Name of the format, or `{"name": …}` with its options. None: by the target's suffix.

    Returns:
        The number of samples that were written, and what was lost.

    Raises:
        KpnetError: The target exists, there is no writer for the format, or it cannot hold the samples.

    Example:
        >>> convert(KaggleCSV("val.csv"), Path("val_coco"), "coco").lost
        []
    """
    name, options, writer = check_target(target, form)
    with replacing(target) if writer.suffix else _new_folder(target) as beside:
        if writer.suffix:
            buffer = io.BytesIO()
            writer.write(dataset, buffer, **options)
            beside.write_bytes(buffer.getvalue())
        else:
            writer.write(dataset, beside, **options)
        try:
            held = np.stack([writer.holds(dataset, index) for index in range(len(dataset))])
            written = _read_back(dataset, beside, name, options, held)
        except KpnetError as error:
            reason = str(error).replace(str(beside), str(target))
            raise KpnetError(f"the samples cannot be written as {name}: read back, {reason}") from None
    return Conversion(len(written), _dropped_information(dataset, written, name, writer, held))


def check_target(target: Path, form: Part | None = None) -> tuple[str, dict[str, Any], Writer]:
    """Raise if `convert` cannot write there, before anything is read.

    Args:
        target: The folder to write, or the file for `npz` and `kaggle_csv`.
        form: Name of the format, or `{"name": …}` with its options. None: by the target's suffix.

    Returns:
        The format's name, its options, and its writer.

    Raises:
        KpnetError: The target exists or cannot be written, or there is no writer for the format.
    """
    name, options, writer = _writer(target, form)
    if os.path.lexists(target):
        raise KpnetError(f"{target}: it exists already; give another name, or remove it first")
    if not target.parent.is_dir():
        raise KpnetError(f"{target}: there is no folder {target.parent}")
    check_writable(target.parent)
    if writer.suffix and target.suffix.lower() != writer.suffix:
        raise KpnetError(f"{target}: {name} is a file; expected a name that ends in {writer.suffix}")
    return name, options, writer


def _read_back(
    dataset: KeypointDataset, path: Path, name: str, options: dict[str, Any], held: np.ndarray
) -> KeypointDataset:
    """Return what was written; raise unless all points are there of those that can be `held`, bool (N, K)."""
    labels = detect_format(path)[0] if path.is_dir() and name != "pts" else path
    own = {key: value for key, value in options.items() if key in _READ_ALIKE} | _READ_ALL.get(name, {})
    asked = dataset.skeleton if name == "pts" else None  # whose files have no names
    with silenced():
        written = DATASETS.find(name).open(DataConfig(format=name, root="."), str(labels), asked, **own)
    if name != "pts" and written.skeleton.names != dataset.skeleton.names:
        lost = next((point for point in dataset.skeleton.names if point not in written.skeleton.names), "")
        raise KpnetError(f'there is no point "{shorten(lost)}" in its place; give it another name')
    before, after = _sums(dataset, held), _sums(written)
    if not np.allclose(before, after, atol=1e-3 * len(dataset)):
        raise KpnetError(f"there are {len(written)} samples, whose points are not those of the {len(dataset)} written")
    return written


def _sums(dataset: KeypointDataset, held: np.ndarray | bool = True) -> np.ndarray:
    """Return how many samples have a point, how many have each, and the sums of its x and y, float64 (1 + 3 K,)."""
    every = np.stack([sample_points(dataset, index) for index in range(len(dataset))])
    known = np.isfinite(every).all(-1) & held
    sums = np.where(known[..., None], every, 0).sum(0)
    return np.concatenate([[known.any(-1).sum()], known.sum(0), sums.ravel()])


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside the target, and rename it to the target unless an error was raised."""
    beside = partial_path(target)
    try:
        beside.mkdir()
        yield beside
        os.rename(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _writer(target: Path, form: Part | None) -> tuple[str, dict[str, Any], Writer]:
    if form is None and target.suffix.lower() not in _BY_SUFFIX:
        raise KpnetError(f"{target}: give its format with --to; there are: {', '.join(WRITERS)}")
    name, options = split_spec(_BY_SUFFIX[target.suffix.lower()] if form is None else form, "--to")
    if name not in WRITERS:
        raise KpnetError(f'no writer for "{name}"{did_you_mean(name, WRITERS)}; there are: {", ".join(WRITERS)}')
    writer = WRITERS[name]
    return name, check_options(writer.write, options, f"--to {name}"), writer


def _dropped_information(
    dataset: KeypointDataset, written: KeypointDataset, name: str, writer: Writer, held: np.ndarray
) -> list[str]:
    """Return the information that the target format cannot store, with its counts."""
    every, skeleton = range(len(dataset)), dataset.skeleton
    named = name != "pts" or skeleton.name == "ibug68" or skeleton.names[0].isdecimal()
    outside = [np.isfinite(sample_points(dataset, index)).all(-1) & ~held[index] for index in every]
    edges, pairs = set(skeleton.edges) - set(written.skeleton.edges), set(skeleton.pairs) - set(written.skeleton.pairs)
    lost = {
        "boxes": 0 if writer.boxes else sum(dataset.box(index) is not None for index in every),
        "which points are hidden": 0
        if writer.visibility
        else sum(int((dataset.visibility(index) == 1).sum()) for index in every),
        "the points' names": 0 if named else len(skeleton),
        "left/right pairs": len(pairs) if named else 0,
        "edges": len(edges) if named else 0,
        "which instances share an image": sum(dataset.instance(index) == 1 for index in every)
        if name in ("pts", "kaggle_csv")
        else 0,
        "the points' weights": sum(int((dataset.point_weights(index) != 1).sum()) for index in every),
        "who made the points": 0 if writer.sources else sum(_stated_sources(dataset, index) for index in every),
        "points outside their images": int(np.sum(outside)),
        "instances without a labelled point": max(0, len(dataset) - len(written)),
    }
    return [f"{what} ({count})" for what, count in lost.items() if count]


def _stated_sources(dataset: KeypointDataset, index: int) -> int:
    """Return how many points of a sample have a source."""
    sources = sample_sources(dataset, index)
    return 0 if sources is None else int(np.count_nonzero(sources))


WRITERS: Mapping[str, Writer] = {
    "coco": Writer(write_coco, sources=True),
    "labelme": Writer(write_labelme),
    "label_studio": Writer(write_label_studio),
    "cvat": Writer(write_cvat, boxes=False),
    "sleap": Writer(write_sleap, boxes=False, visibility=False),
    "pts": Writer(write_pts, boxes=False, visibility=False),
    "deeplabcut": Writer(write_deeplabcut, boxes=False, visibility=False),
    "yolo": Writer(write_yolo, holds=holds_yolo),
    "points_csv": Writer(write_points_csv, sources=True),
    "npz": Writer(write_npz, ".npz"),
    "kaggle_csv": Writer(write_kaggle_csv, ".csv", boxes=False, visibility=False),
}
