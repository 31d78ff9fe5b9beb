"""Writing a dataset in another format: one function a format, each into a folder or file that is not there yet."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import yaml

from kpnet.coordinates import box_to_corner_size
from kpnet.data.base import KeypointDataset
from kpnet.data.images import to_channels
from kpnet.data.instances import InstanceDataset
from kpnet.data.picture_files import PictureFiles
from kpnet.data.points_csv import BOX
from kpnet.errors import KpnetError


@dataclass(frozen=True)
class Writer:
    """`write(dataset, target, **options)`: target is an empty folder, or a file to write, by `suffix`.

    Its keyword-only parameters are the options.
    """

    write: Callable[..., None]
    suffix: str = ""  # of a file; empty: a folder
    boxes: bool = True
    visibility: bool = True


def write_coco(dataset: KeypointDataset, folder: Path) -> None:
    """annotations.json, and the pictures in images/."""
    names = dataset.skeleton.names
    category: dict[str, Any] = {"id": 1, "name": dataset.skeleton.name or "object", "keypoints": list(names)}
    category["skeleton"] = [[a + 1, b + 1] for a, b in dataset.skeleton.edge_indices]
    images: dict[str, dict[str, Any]] = {}
    annotations = []
    for index, path, (height, width) in _pictures(dataset, folder / "images"):
        image = {"id": len(images) + 1, "file_name": str(path), "height": height, "width": width}
        image = images.setdefault(str(path), image)
        seen, xy = dataset.visibility(index), _points(dataset, index)
        triples = [[x, y, int(v)] if v else [0, 0, 0] for (x, y), v in zip(xy.tolist(), seen, strict=True)]
        row = {"id": index + 1, "image_id": image["id"], "category_id": 1, "iscrowd": 0}
        row |= {"keypoints": [value for triple in triples for value in triple], "num_keypoints": int((seen > 0).sum())}
        box = dataset.box(index)
        if box is not None:
            row |= {"bbox": box_to_corner_size(box).tolist(), "area": float((box[2:] - box[:2]).prod())}
        if isinstance(areas := getattr(dataset, "areas", None), np.ndarray) and np.isfinite(areas[index]):
            row["area"] = float(areas[index])
        annotations.append(row)
    values = {"images": list(images.values()), "annotations": annotations, "categories": [category]}
    (folder / "annotations.json").write_text(json.dumps(values), encoding="utf-8")


def write_pts(dataset: KeypointDataset, folder: Path, *, first: Literal[0, 1] = 1) -> None:
    """A .pts beside each picture; of several instances or of one stem a picture each, with a number behind its name."""
    written: dict[str, Path] = {}
    for index, path in enumerate(_own_stems([path for _, path, _ in _pictures(dataset, None)])):
        target, name = folder / path, dataset.image_name(index)
        if name in written:
            shutil.copyfile(written[name], target)
        else:
            _write_picture(dataset, index, target)
            written[name] = target
        lines = [f"{x:.6f} {y:.6f}" for x, y in (_points(dataset, index) + first).tolist()]
        text = ["version: 1", f"n_points: {len(lines)}", "{", *lines, "}"]
        target.with_suffix(".pts").write_text("\n".join(text) + "\n", encoding="utf-8")


def write_deeplabcut(dataset: KeypointDataset, folder: Path, *, scorer: str = "kpnet") -> None:
    """config.yaml and labeled-data/FOLDER/CollectedData_SCORER.csv; several animals where an image has several."""
    names, most = dataset.skeleton.names, 1 + max(dataset.instance(index) for index in range(len(dataset)))
    who = [f"individual{k + 1}" for k in range(most)]
    config: dict[str, Any] = {
        "Task": "kpnet",
        "scorer": scorer,
        "multianimalproject": most > 1,
        "bodyparts": list(names),
    }
    if most > 1:
        config |= {
            "bodyparts": "MULTI!",
            "individuals": who,
            "multianimalbodyparts": list(names),
            "uniquebodyparts": [],
        }
    config["skeleton"] = [list(edge) for edge in dataset.skeleton.edges]
    videos: dict[Path, dict[str, np.ndarray]] = {}
    for index, path, _ in _pictures(dataset, folder / "labeled-data", place=_video):
        rows = videos.setdefault(path.parent, {})
        row = rows.setdefault(path.name, np.full((most, len(names), 2), np.nan))
        row[dataset.instance(index)] = _points(dataset, index)
    columns = [(animal, part, axis) for animal in who for part in names for axis in "xy"]
    heads = {"scorer": [scorer] * len(columns), "individuals": [c[0] for c in columns]}
    heads |= {"bodyparts": [c[1] for c in columns], "coords": [c[2] for c in columns]}
    for video, rows in videos.items():
        lines = [[head, "", "", *cells] for head, cells in heads.items() if most > 1 or head != "individuals"]
        lines += [["labeled-data", video.name, name, *_cells(row.ravel())] for name, row in rows.items()]
        _write_csv(folder / "labeled-data" / video / f"CollectedData_{scorer}.csv", lines)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def write_points_csv(dataset: KeypointDataset, folder: Path, *, parquet: bool = False) -> None:
    """points.csv, or points.parquet, and the pictures in images/."""
    names = dataset.skeleton.names
    every = range(len(dataset))
    seen = any((dataset.visibility(index) == 1).any() for index in every)
    boxed = any(dataset.box(index) is not None for index in every)
    header = ["image", *(f"{name}_{axis}" for name in names for axis in "xy")]
    header += [f"{name}_visibility" for name in names] if seen else []
    header += BOX if boxed else []
    rows: list[list[Any]] = []
    for index, path, _ in _pictures(dataset, folder / "images"):
        box = dataset.box(index)
        values = _points(dataset, index).ravel()
        values = np.append(values, dataset.visibility(index)) if seen else values
        values = np.append(values, np.full(4, np.nan) if box is None else box) if boxed else values
        rows.append([str(path), *(values.tolist() if parquet else _cells(values))])
    if not parquet:
        return _write_csv(folder / "points.csv", [header, *rows])
    import pandas as pd

    try:
        pd.DataFrame(rows, columns=header).to_parquet(folder / "points.parquet", index=False)
    except ImportError:
        raise KpnetError("writing Parquet needs pyarrow: pip install kpnet[formats]; or write CSV") from None


def write_npz(dataset: KeypointDataset, file: io.BytesIO) -> None:
    """Images of one size alone."""
    every = range(len(dataset))
    images = [dataset.read(index)[0] for index in every]
    _check_one_size(dataset, images, "npz")
    none = np.full(4, np.nan)
    boxes = [dataset.box(index) for index in every]
    arrays = {
        "images": np.stack(images),
        "keypoints": np.stack([_points(dataset, index) for index in every]),
        "names": np.array(dataset.skeleton.names),
        "visibility": np.stack([dataset.visibility(index) for index in every]),
        "image_names": np.array([dataset.image_name(index) for index in every]),
    }
    if any(box is not None for box in boxes):
        arrays["boxes"] = np.stack([none if box is None else box for box in boxes])
    np.savez_compressed(file, allow_pickle=False, **arrays)


def write_kaggle_csv(dataset: KeypointDataset, file: io.BytesIO) -> None:
    """Grey square images of one size alone."""
    images = [dataset.read(index)[0] for index in range(len(dataset))]
    _check_one_size(dataset, images, "kaggle_csv", square=True)
    header = [f"{name}_{axis}" for name in dataset.skeleton.names for axis in "xy"]
    lines: list[list[str]] = [["ImageId", *header, "Image"]]
    for index, image in enumerate(images):
        pixels = " ".join(map(str, to_channels(image, 1).ravel().tolist()))
        lines.append([dataset.image_name(index), *_cells(_points(dataset, index).ravel()), pixels])
    file.write(_csv_text(lines).encode())


WRITERS: Mapping[str, Writer] = {
    "coco": Writer(write_coco),
    "pts": Writer(write_pts, boxes=False, visibility=False),
    "deeplabcut": Writer(write_deeplabcut, boxes=False, visibility=False),
    "points_csv": Writer(
        write_points_csv,
    ),
    "npz": Writer(write_npz, ".npz"),
    "kaggle_csv": Writer(write_kaggle_csv, ".csv", boxes=False, visibility=False),
}


def _points(dataset: KeypointDataset, index: int) -> np.ndarray:
    return dataset.keypoints(index) if isinstance(dataset, InstanceDataset) else dataset.read(index)[1]


def _pictures(
    dataset: KeypointDataset, folder: Path | None, place: Callable[[Path], Path] = lambda path: path
) -> Iterator[tuple[int, Path, tuple[int, int]]]:
    """Index of each sample, its picture's path beneath the folder, and H, W. Each picture is written once (None: not).

    Files are copied as they are, unless they are turned by EXIF: then the upright pixels are written, which no reader
    turns again. Other images become PNGs. place: another path for one.
    """
    known: dict[str, tuple[Path, tuple[int, int]]] = {}
    taken: dict[Path, str] = {}
    for index in range(len(dataset)):
        name = dataset.image_name(index)
        if name not in known:
            files = isinstance(dataset, PictureFiles)
            path = place(_beneath(Path(name) if files else Path(f"{name}.png")))
            if path in taken:
                raise KpnetError(f"{name} and {taken[path]} would both be written as {path}: rename one")
            taken[path] = name
            size = (0, 0) if folder is None else _write_picture(dataset, index, folder / path)
            known[name] = path, size
        yield index, *known[name]


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


def _beneath(path: Path) -> Path:
    """Never above or outside of the folder that is written."""
    return Path(*(part for part in path.parts if part not in ("..", path.anchor)))


def _video(path: Path) -> Path:
    """DeepLabCut has one level of folders."""
    folders = [part for part in path.parent.parts if part not in ("labeled-data", "images")]
    return Path("_".join(folders) or "images") / path.name


def _write_picture(dataset: KeypointDataset, index: int, target: Path) -> tuple[int, int]:
    image = dataset.read(index)[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(dataset, PictureFiles) and dataset.as_stored(index):
        shutil.copyfile(dataset.path(index), target)
    else:
        bgr = image if image.ndim == 2 or image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        options = [cv2.IMWRITE_JPEG_QUALITY, 100] if target.suffix.lower() in (".jpg", ".jpeg") else []
        done, data = cv2.imencode(target.suffix, bgr, options)
        if not done:
            raise KpnetError(f"{target}: the picture could not be encoded")
        target.write_bytes(data.tobytes())
    return image.shape[0], image.shape[1]


def _check_one_size(dataset: KeypointDataset, images: list[np.ndarray], form: str, *, square: bool = False) -> None:
    shape = images[0].shape
    for index, image in enumerate(images):
        if image.shape != shape or (square and shape[0] != shape[1]):
            what = "square images of one size" if square else "images of one size"
            raise KpnetError(
                f"{dataset.image_name(index)}: {image.shape[1]}x{image.shape[0]} pixels; {form} holds {what}; "
                "crop or resize the pictures first, or convert to coco or points_csv"
            )


def _cells(values: np.ndarray) -> list[str]:
    return ["" if np.isnan(value) else repr(value) for value in values.tolist()]


def _csv_text(lines: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _write_csv(path: Path, lines: list[list[Any]]) -> None:
    path.write_text(_csv_text(lines), encoding="utf-8")
