"""Images of 0 to 3 shapes of three points each, with a COCO file of their points and no boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIDE = 64
NAMES = ("tip", "left_end", "right_end")
SHAPE = np.array([(0.0, -9.0), (-6.0, 6.0), (6.0, 6.0)])  # the points about the shape's centre


def draw_shapes(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Uint8 (SIDE, SIDE) with `count` arrowheads that do not touch, and their points (count, 3, 2)."""
    image, centres = np.full((SIDE, SIDE), 40, np.uint8), np.zeros((0, 2))
    points: list[np.ndarray] = []
    while len(points) < count:
        centre, angle = rng.uniform(12, SIDE - 13, 2), rng.uniform(0, 2 * np.pi)
        if len(centres) and np.linalg.norm(centres - centre, axis=1).min() < 24:
            continue
        cos, sin = np.cos(angle), np.sin(angle)
        xy = SHAPE @ np.array([[cos, sin], [-sin, cos]]) + centre
        cv2.fillPoly(image, [np.round(xy * 16).astype(np.int32)], 120, cv2.LINE_AA, 4)
        cv2.circle(image, np.round(xy[0] * 16).astype(int).tolist(), 32, 250, -1, cv2.LINE_AA, 4)
        cv2.circle(image, np.round(xy[1] * 16).astype(int).tolist(), 32, 0, -1, cv2.LINE_AA, 4)
        centres, points = np.vstack([centres, centre]), [*points, xy]
    return image, np.array(points).reshape(-1, 3, 2)


def write_shapes(folder: Path, counts: list[int], seed: int = 0) -> Path:
    """Write images with so many shapes each, and their labels; returns the file of labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, count in enumerate(counts):
        image, points = draw_shapes(count, rng)
        name = f"{seed}_{number}.png"
        cv2.imwrite(str(folder / name), image)
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for xy in points:
            keypoints = np.column_stack([xy, np.full(3, 2)]).round(2).ravel().tolist()
            entry = {"id": len(annotations), "image_id": number, "category_id": 1, "keypoints": keypoints}
            annotations.append(entry)
    categories = [{"id": 1, "name": "shape", "keypoints": list(NAMES), "skeleton": [[1, 2], [1, 3]]}]
    path = folder / f"labels_{seed}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def shapes_config(train: Path, val: Path | None, way: str = "two_stage") -> dict[str, Any]:
    """A config that trains on them in seconds, of a finder and crops or of the head `centers`."""
    backbone = {"name": "conv_sandwich", "channels": [8, 16, 32], "norm": "batch"}
    model: dict[str, Any] = {
        "backbone": backbone,
        "head": {"name": "heatmap", "decoder": {"name": "top_down", "width": 16}, "stride": 2},
        "in_channels": 1,
        "input_size": 32,
        "instances": {"backbone": backbone, "head": {"name": "centers", "stride": 4}, "input_size": SIDE},
    }
    if way == "single_stage":
        del model["instances"]
        model |= {"head": {"name": "centers", "stride": 2}, "input_size": SIDE}
    return {
        "name": way,
        "model": model,
        "data": {"format": "coco", "train": str(train), "val": None if val is None else str(val)},
        "train": {"epochs": 2, "batch_size": 4, "optimizer": {"name": "adamw", "lr": 3e-3}},
        "trainer": {"accelerator": "cpu", "logger": None},
    }


def trained_shapes(folder: Path) -> Path:
    """A run of a finder and crops, trained for a moment, and measured on 3 shapes in 2 of 3 images."""
    from kpnet.config.loading import load_config
    from kpnet.training.supervised import train

    labels, val = write_shapes(folder / "data", [2, 1, 3]), write_shapes(folder / "data", [1, 2, 0], seed=1)
    return train(load_config(shapes_config(labels, val)), out=folder / "run").folder
