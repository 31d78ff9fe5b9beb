"""Measure what kpnet's data loading adds to decoding and albumentations, in microseconds per image in one process.

    python benchmarks/speed/loading.py data.root=FOLDER [key=value ...]

FOLDER holds helen68, whose JPEGs are loaded with the augmentation of examples/facial68. The plain loop decodes, runs
the same transforms with albumentations' own keypoints, and makes tensors. The last table is the augmentation of a 96x96
grey face, with 15 points and without.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from torch.utils.data import default_collate

from kpnet import load_config
from kpnet.core.skeleton import Skeleton
from kpnet.data.build import build_train
from kpnet.data.formats.image_files import ImageFileDataset
from kpnet.data.transforms.augment import Augment

EXAMPLE = Path(__file__).parents[2] / "examples/facial68/facial68.yaml"
BATCH, ROUNDS = 32, 200
POINTS = A.KeypointParams(format="xy", remove_invisible=False)


def compare(jobs: dict[str, Callable[[int], object]]) -> None:
    """Print each job's microseconds per image of the thread's own time, and their ratio to the first job's.

    Both are medians over rounds in which each job takes its turn at the same 32 images, because a machine changes its
    pace by the minute.
    """
    seconds = {name: np.zeros(ROUNDS) for name in jobs}
    for turn in range(-5, ROUNDS):  # the first fill the caches
        for name, job in jobs.items():
            start = time.thread_time()
            job(max(turn, 0) * BATCH)
            seconds[name][turn] = (time.thread_time() - start) / BATCH
    first = next(iter(seconds.values()))
    for name, own in seconds.items():
        print(f"{name:28} {1e6 * median(own):5.0f} us  {median(own / first):.2f} x")


def named(transforms: list) -> list[A.BasicTransform]:
    """Build albumentations' transforms from a config's list."""
    return [getattr(A, name)(**options) for spec in transforms for name, options in spec.items()]


def photographs(overrides: list[str]) -> None:
    """Compare the loading of helen68's photographs with a plain loop."""
    config = load_config(EXAMPLE, overrides)
    dataset = build_train(config)
    files = dataset.parts[0].dataset
    assert isinstance(files, ImageFileDataset)
    assert config.model.input_size is not None
    height, width = config.model.input_size
    fit = [A.LongestMaxSize(height, interpolation=cv2.INTER_AREA), A.PadIfNeeded(height, width)]
    pipeline = A.Compose([*fit, *named(config.data.transforms)], keypoint_params=POINTS)

    def plain(index: int) -> dict[str, torch.Tensor]:
        image = cv2.imread(str(files.path(index)), cv2.IMREAD_COLOR_RGB)
        out = pipeline(image=image, keypoints=files.keypoints(index))
        pixels = out["image"].transpose(2, 0, 1).astype(np.float32) / 255
        return {"image": torch.from_numpy(pixels), "keypoints": torch.from_numpy(out["keypoints"])}

    def samples(read: Callable[[int], dict], start: int) -> list[dict]:
        return [read((start + k) % len(dataset)) for k in range(BATCH)]

    compare(
        {
            "plain loop": lambda start: samples(plain, start),
            "kpnet": lambda start: samples(dataset.__getitem__, start),
        }
    )
    compare(
        {
            "plain loop, in batches": lambda start: default_collate(samples(plain, start)),
            "kpnet, in batches": lambda start: default_collate(samples(dataset.__getitem__, start)),
        }
    )


def grey_faces() -> None:
    """Compare the augmentation of grey faces with albumentations alone."""
    specs: list[Any] = [
        {"HorizontalFlip": {"p": 0.5}},
        {"Affine": {"rotate": [-30, 30], "scale": [0.8, 1.2], "p": 1.0}},
        {"RandomBrightnessContrast": {"p": 0.5}},
    ]
    ours = Augment(specs, Skeleton.load("facial15"))
    with_points, alone = A.Compose(named(specs), keypoint_params=POINTS), A.Compose(named(specs))
    rng = np.random.default_rng(0)
    image, xy = rng.integers(0, 256, (96, 96), np.uint8), rng.uniform(10, 86, (15, 2))
    compare(
        {
            "albumentations, 15 points": lambda start: [with_points(image=image, keypoints=xy) for _ in range(BATCH)],
            "albumentations, image alone": lambda start: [alone(image=image) for _ in range(BATCH)],
            "kpnet, 15 points": lambda start: [ours(image, xy, start + k) for k in range(BATCH)],
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    photographs(given.overrides)
    grey_faces()


if __name__ == "__main__":
    main()
