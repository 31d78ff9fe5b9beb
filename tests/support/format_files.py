"""Images with known points, written in each of the formats that others use, without kpnet's own writers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

NAMES = ("nose", "left_ear", "right_ear")


def dots(size: tuple[int, int], xy: np.ndarray) -> np.ndarray:
    """Uint8 (H, W, 3), black, with a soft white dot at each of the finite points (K, 2)."""
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.zeros(size)
    for px, py in xy[np.isfinite(xy).all(-1)]:
        image = np.maximum(image, 250 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 2.0**2)))
    return np.repeat(image.round().astype(np.uint8)[..., None], 3, 2)


def brightest(image: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The centroid (2,) of the dot about a point."""
    grey = image[..., 0].astype(float) if image.ndim == 3 else image.astype(float)
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]]
    grey = grey * ((x - near[0]) ** 2 + (y - near[1]) ** 2 < 8**2)
    return np.array([(x * grey).sum(), (y * grey).sum()]) / grey.sum()


# One picture a row: its size, and its instances' points; far apart, so that each dot has a centroid of its own.
PICTURES: list[tuple[str, tuple[int, int], list[list[list[float]]]]] = [
    ("a.png", (60, 80), [[[20.25, 12.5], [50, 14], [14, 40]], [[64, 30.5], [40, 44], [64.5, 50]]]),
    ("b.png", (48, 64), [[[10, 10], [30.75, 20], [50, 33]]]),
    ("c.png", (64, 48), [[[20, 15], [np.nan, np.nan], [30, 50]]]),
]


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, size, instances in PICTURES:
        cv2.imwrite(str(folder / name), dots(size, np.concatenate([np.array(xy) for xy in instances])))


def every_instance() -> list[tuple[str, np.ndarray]]:
    return [(name, np.array(xy, float)) for name, _, instances in PICTURES for xy in instances]


def coco_values() -> dict[str, Any]:
    """The image file's order is not the annotations'; ids are no indices. A box is drawn about the points."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, (height, width), instances) in enumerate(PICTURES):
        images.insert(0, {"id": 100 + number, "file_name": name, "height": height, "width": width})
        for xy in instances:
            points = np.array(xy)
            keypoints = []
            for k, (x, y) in enumerate(points.tolist()):
                keypoints += [0, 0, 0] if np.isnan(x) else [x, y, 1 if k == 2 else 2]
            low, high = np.nanmin(points, 0), np.nanmax(points, 0)
            box = [*(low - 3 + 0.5), *(high - low + 6)]
            annotations.append(
                {"id": 7 + len(annotations), "image_id": 100 + number, "category_id": 1, "iscrowd": 0,
                 "keypoints": keypoints, "num_keypoints": 3, "bbox": box, "area": float(box[2] * box[3] / 2)}
            )  # fmt: skip
    category = {"id": 1, "name": "head", "keypoints": list(NAMES), "skeleton": [[1, 2], [1, 3]]}
    return {"images": images, "annotations": annotations, "categories": [category]}


def write_coco(folder: Path, values: dict[str, Any] | None = None) -> Path:
    write_pictures(folder / "images")
    path = folder / "heads.json"
    path.write_text(json.dumps(coco_values() if values is None else values))
    return path


def write_pts(folder: Path, *, index_base: int = 1, braces: bool = True) -> Path:
    """Write one instance for each image: the first."""
    write_pictures(folder)
    for name, _, instances in PICTURES:
        lines = [f"{x:.4f} {y:.4f}" for x, y in (np.array(instances[0]) + index_base).tolist()]
        text = ["version: 1", "n_points: 3", *(["{", *lines, "}"] if braces else lines)]
        (folder / name).with_suffix(".pts").write_text("\n".join(text) + "\n")
    return folder


def dlc_lines(video: str, *, split: bool = False, scorer: str = "me") -> list[str]:
    """A table's lines: a frame in one cell, or in three."""
    blank = ",," if split else ""
    heads = [("scorer", [scorer] * 6), ("bodyparts", [n for n in NAMES for _ in "xy"]), ("coords", ["x", "y"] * 3)]
    lines = [f"{name}{blank},{','.join(cells)}" for name, cells in heads]
    for name, _, instances in PICTURES:
        cells = ["" if np.isnan(v) else repr(v) for v in np.array(instances[0]).ravel().tolist()]
        lines.append(",".join([f"labeled-data{',' if split else '/'}{video}{',' if split else '/'}{name}", *cells]))
    return lines


def write_dlc(folder: Path, *, split: bool = False) -> Path:
    write_pictures(folder / "labeled-data" / "v1")
    config = ["Task: t", "scorer: me", f"bodyparts: [{', '.join(NAMES)}]", "skeleton: [[nose, left_ear]]"]
    (folder / "config.yaml").write_text("\n".join(config) + "\n")
    table = folder / "labeled-data" / "v1" / "CollectedData_me.csv"
    table.write_text("\n".join(dlc_lines("v1", split=split)) + "\n")
    return folder


def csv_lines(*, numbers: bool = False) -> list[str]:
    heads = [f"x_{k},y_{k}" for k in range(3)] if numbers else [f"{name}_x,{name}_y" for name in NAMES]
    lines = [",".join(["image", *heads])]
    for name, xy in every_instance():
        lines.append(",".join([name, *("" if np.isnan(v) else repr(v) for v in xy.ravel().tolist())]))
    return lines


def write_points_csv(folder: Path, *, numbers: bool = False) -> Path:
    write_pictures(folder / "images")
    path = folder / "points.csv"
    path.write_text("\n".join(csv_lines(numbers=numbers)) + "\n")
    return path
