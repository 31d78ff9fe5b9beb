"""Convert data from one format to another. Nothing is overwritten, and a failure leaves nothing behind."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpnet.config.fields import Part
from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.files import partial_path, write_atomic
from kpnet.core.outputs import check_writable
from kpnet.core.registry import split_spec
from kpnet.core.validation import check_options
from kpnet.data.base import KeypointDataset
from kpnet.data.formats.coco import write_coco
from kpnet.data.formats.deeplabcut import write_deeplabcut
from kpnet.data.formats.kaggle_csv import write_kaggle_csv
from kpnet.data.formats.npz import write_npz
from kpnet.data.formats.points_csv import write_points_csv
from kpnet.data.formats.pts import write_pts
from kpnet.data.formats.writing import Writer

_BY_SUFFIX = {".npz": "npz", ".csv": "kaggle_csv"}


def convert(dataset: KeypointDataset, target: Path, form: Part | None = None) -> list[str]:
    """Write a dataset in another format.

    Args:
        dataset: The samples to write.
        target: The folder to write, or the file for `npz` and `kaggle_csv`. It must not exist.
        form: Name of the format, or `{"name": …}` with its options. None: by the target's suffix.

    Returns:
        The information that the samples have and the format cannot store, such as "boxes".

    Raises:
        KpnetError: The target exists, there is no writer for the format, or it cannot hold the samples.

    Example:
        >>> convert(KaggleCSV("val.csv"), Path("val_coco"), "coco")
        []
    """
    name, options, writer = _writer(target, form)
    if os.path.lexists(target):
        raise KpnetError(f"{target}: it exists already; give another name, or remove it first")
    if not target.parent.is_dir():
        raise KpnetError(f"{target}: there is no folder {target.parent}")
    check_writable(target.parent)
    if writer.suffix and target.suffix.lower() != writer.suffix:
        raise KpnetError(f"{target}: {name} is a file; expected a name that ends in {writer.suffix}")
    if writer.suffix:
        buffer = io.BytesIO()
        writer.write(dataset, buffer, **options)
        write_atomic(target, buffer.getvalue())
    else:
        _write_folder(dataset, target, writer, options)
    return _dropped_information(dataset, name, writer)


def _writer(target: Path, form: Part | None) -> tuple[str, dict[str, Any], Writer]:
    if form is None and target.suffix.lower() not in _BY_SUFFIX:
        raise KpnetError(f"{target}: give its format with --to; there are: {', '.join(WRITERS)}")
    name, options = split_spec(_BY_SUFFIX[target.suffix.lower()] if form is None else form, "--to")
    if name not in WRITERS:
        raise KpnetError(f'no writer for "{name}"{did_you_mean(name, WRITERS)}; there are: {", ".join(WRITERS)}')
    writer = WRITERS[name]
    return name, check_options(writer.write, options, f"--to {name}"), writer


def _write_folder(dataset: KeypointDataset, target: Path, writer: Writer, options: dict[str, Any]) -> None:
    beside = partial_path(target)
    try:
        beside.mkdir()
        writer.write(dataset, beside, **options)
        os.rename(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _dropped_information(dataset: KeypointDataset, name: str, writer: Writer) -> list[str]:
    """Return the information that the target format cannot store."""
    every = range(len(dataset))
    boxes = not writer.boxes and any(dataset.box(index) is not None for index in every)
    hidden = not writer.visibility and any((dataset.visibility(index) == 1).any() for index in every)
    names = name == "pts" and dataset.skeleton.name != "ibug68" and not dataset.skeleton.names[0].isdecimal()
    groups = name in ("pts", "kaggle_csv") and any(dataset.instance(index) for index in every)
    weights = any((dataset.point_weights(index) != 1).any() for index in every)
    lost = {"boxes": boxes, "which points are hidden": hidden, "the points' names": names}
    lost |= {"which instances share an image": groups, "the points' weights": weights}
    return [what for what, is_lost in lost.items() if is_lost]


WRITERS: Mapping[str, Writer] = {
    "coco": Writer(write_coco),
    "pts": Writer(write_pts, boxes=False, visibility=False),
    "deeplabcut": Writer(write_deeplabcut, boxes=False, visibility=False),
    "points_csv": Writer(write_points_csv),
    "npz": Writer(write_npz, ".npz"),
    "kaggle_csv": Writer(write_kaggle_csv, ".csv", boxes=False, visibility=False),
}
