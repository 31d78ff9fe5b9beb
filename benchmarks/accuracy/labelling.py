"""Simulate the loop of `kpnet label --train`: how many labels does a queue save, and how good are its proposals?

    python benchmarks/accuracy/labelling.py shared=FOLDER [LOOP ...]
    python benchmarks/accuracy/labelling.py --small --out small.csv

FOLDER holds data/faces15 and data/helen68. A LOOP is data and a seed: "faces15 0", "helen68 0" or "faces15 1";
without one, all are run. The training split is a folder of images whose labels are revealed image by image: 30 at
random, then those at the front of the queue, which are the uncertain ones as `kpnet label --queue uncertain` shows
them, or random ones. Each round trains from scratch as the page's button does, with one label in five held back and
the same number of steps. It measures the model at the end of its training on the validation split, and what it
proposes for the images that are labelled next, before they are labelled. Each row is appended to
`benchmarks/results/labelling.csv`; a loop that was interrupted goes on where it was.

A keystroke is a key, a click or a drag. By hand an image takes a click for each point and a key for the next image;
with proposals it takes a key that accepts them, a drag for each point that is further off than 5 % of the image's
longer side, and a key for the next image.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from running import RESULTS, append_row, split_folder

import kpnet
from kpnet.core.skeleton import Skeleton
from kpnet.data import PTS, KaggleCSV, KeypointDataset, SyntheticFaces
from kpnet.data.convert import convert
from kpnet.data.formats.instances import PERSON
from kpnet.data.formats.points_csv import PointsCSV
from kpnet.labelling.background_training import FOLDS, LEAST_FOR_VALIDATION, overrides
from kpnet.labelling.label_rows import Instance, Point
from kpnet.labelling.labels import LabelFile, write_skeleton
from kpnet.labelling.ranking import Candidate, rank_uncertain
from kpnet.labelling.session import CHOSEN

QUEUES = ("uncertain", "random")
RADIUS = 0.05  # of the longer side: a proposal within it needs no touch


@dataclass(frozen=True)
class Loop:
    """What is simulated: images, a seed, the numbers of labels of its rounds, and the trainings."""

    data: str
    seed: int = 0
    rounds: tuple[int, ...] = (30, 60, 120, 160, 240)
    side: int = 64  # of the model's input
    steps: int = 300
    batch: int = 16

    @property
    def name(self) -> str:
        return f"{self.data} {self.seed}"


LOOPS = (Loop("faces15", 0), Loop("helen68", 0), Loop("faces15", 1))
SMALL = Loop("synthetic", 0, (6, 9, 12), 32, 4, 4)
SKELETONS = {"faces15": "facial15", "synthetic": "facial15", "helen68": "ibug68"}
RECIPES = {"faces15": "facial_heatmap", "synthetic": "facial_heatmap", "helen68": "examples/facial68/facial68.yaml"}


def open_split(data: str, split: str, shared: Path) -> KeypointDataset:
    """Return the training or the validation split of the data."""
    if data == "faces15":
        return KaggleCSV(shared / "data/faces15" / {"train": "training.csv", "val": "val.csv"}[split])
    if data == "helen68":
        return PTS(shared / "data/helen68" / split, index_base=0, skeleton=Skeleton.load("ibug68"))
    return SyntheticFaces(24, seed=int(split == "val"))


def in_files(data: str, split: str, shared: Path, folder: Path) -> Path:
    """Return the labels of the split, whose images are files; both are written once."""
    target = folder / f"{data}_{split}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        convert(open_split(data, split, shared), target, "points_csv")
    return target / "points.csv"


def train(loop: Loop, pool: PointsCSV, labelled: Sequence[int], run: Path) -> None:
    """Train on the labelled images, as the page's button does, unless it is done."""
    if (run / "final").is_dir():
        return
    held = len(labelled) // FOLDS if len(labelled) >= LEAST_FOR_VALIDATION else 0
    epochs = math.ceil(loop.steps / math.ceil((len(labelled) - held) / loop.batch))
    settings = [
        *overrides(*write_labels(pool, labelled, run), len(labelled)),
        "model.backbone.channels=[16, 32, 64, 128, 256]",
        "model.backbone.residual=0",
        f"model.input_size=[{loop.side}, {loop.side}]",
        "data.workers=0",
        *(f"train.epochs={epochs}", f"train.batch_size={loop.batch}", f"train.seed={loop.seed}"),
        f"trainer.check_val_every_n_epoch={epochs}",
    ]
    kpnet.train(RECIPES[loop.data], settings, out=run, force=True)


def write_labels(pool: KeypointDataset, labelled: Sequence[int], run: Path) -> tuple[LabelFile, Path]:
    """Write the labels of these images as the page does, and return their file and that of the skeleton."""
    files = [file for index in range(len(pool)) if (file := pool.image_file(index)) is not None]
    folder = files[0].parent
    path = folder / f"labels_{run.name}.csv"
    path.unlink(missing_ok=True)
    revealed = {index: (Instance(tuple(map(_point, pool.read(index)[1]))),) for index in labelled}
    names = [file.name for file in files]
    labels = LabelFile(path, names, pool.skeleton, revealed)
    labels.put(labelled[-1], revealed[labelled[-1]], 0)  # the first change writes the file
    return labels, write_skeleton(path, pool.skeleton)


def _point(xy: np.ndarray) -> Point | None:
    return Point(float(xy[0]), float(xy[1]), 2, PERSON) if np.isfinite(xy).all() else None


def rank(predictor: kpnet.Predictor, pool: KeypointDataset, left: Sequence[int]) -> list[int]:
    """Return the images in the order of `kpnet label --queue uncertain`."""
    images: list[Candidate] = [(index, partial(_read, pool, index), None) for index in left]
    return [each.index for each in rank_uncertain(predictor, images, CHOSEN)]


def _read(pool: KeypointDataset, index: int) -> np.ndarray:
    return pool.read(index)[0]


def proposed(predictor: kpnet.Predictor, pool: KeypointDataset, images: Sequence[int]) -> dict[str, float]:
    """Return the share of proposed points that need no touch, and the keystrokes of an image by hand and with them."""
    near, points = 0, 0
    for index in images:
        image, truth = pool.read(index)
        known = np.isfinite(truth).all(-1)
        distance = np.linalg.norm(predictor(image).keypoints[0] - truth, axis=-1)[known]
        near, points = near + int((distance <= RADIUS * max(image.shape[:2])).sum()), points + len(distance)
    return {
        "near_percent": round(100 * near / points, 1),
        "keys_by_hand": round(points / len(images) + 1, 1),
        "keys": round((points - near) / len(images) + 2, 1),
    }


def simulate(loop: Loop, queue: str, shared: Path, folder: Path, table: Path) -> None:
    """Run the rounds of one queue, and append a row for each one that is not in the table."""
    arm_key = {"data": loop.data, "seed": loop.seed, "steps": loop.steps, "queue": queue}
    if all(is_measured(table, {**arm_key, "labels": count}) for count in loop.rounds):
        return
    everything, val = (in_files(loop.data, split, shared, folder) for split in ("train", "val"))
    pool = PointsCSV(everything, skeleton=Skeleton.load(SKELETONS[loop.data]))
    draw = np.random.default_rng(loop.seed).permutation(len(pool)).tolist()
    labelled = draw[: loop.rounds[0]]
    for count, following in zip(loop.rounds, (*loop.rounds[1:], loop.rounds[-1] + loop.rounds[0]), strict=True):
        arm = "start" if count == loop.rounds[0] else queue
        run = folder / f"{loop.data}_{loop.seed}_{loop.steps}_{arm}_{count}"
        note = run / f"next_{queue}.json"
        key = {**arm_key, "labels": count}
        if note.is_file() and is_measured(table, key):
            labelled = json.loads(note.read_text())
            continue
        train(loop, pool, labelled, run)
        predictor = kpnet.Predictor(run)
        left = [index for index in draw if index not in set(labelled)]
        images = (rank(predictor, pool, left) if queue == "uncertain" else left)[: following - count]
        measures = kpnet.evaluate(run, val)
        row = {
            **key,
            "score": round(measures["score"], 1),
            "rmse_percent": round(100 * measures["rmse_px"] / loop.side, 3),
            "val_near_percent": round(100 * measures["pck@5%"], 1),
            **proposed(predictor, pool, images),
            "seconds": round(pd.read_csv(run / "metrics.csv").seconds.sum()),
        }
        if not is_measured(table, key):
            append_row(table, row)
        print(json.dumps(row), flush=True)
        labelled = [*labelled, *images]
        note.write_text(json.dumps(labelled))


def is_measured(table: Path, key: Mapping[str, Any]) -> bool:
    """Return whether the table has the row."""
    if not table.is_file():
        return False
    rows = pd.read_csv(table)
    return bool((rows[list(key)] == pd.Series(dict(key))).all(axis=1).any())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="*", metavar="shared=FOLDER | LOOP")
    parser.add_argument("--small", action="store_true", help="seconds on synthetic faces: a try of the script")
    parser.add_argument("--steps", type=int, default=Loop.steps, help="optimizer steps of each training")
    parser.add_argument("--out", type=Path, default=RESULTS / "labelling.csv", help="the table")
    parser.add_argument("--runs", type=Path, default=Path("runs/labelling"), help="folder of the trainings")
    given = parser.parse_intermixed_args(arguments)
    shared, asked = split_folder(given.arguments, "shared", "../shared")
    for name in asked:
        if name not in (known := [loop.name for loop in LOOPS]):
            parser.error(f'no loop "{name}"; there are: {", ".join(known)}')
    loops = [replace(loop, steps=given.steps) for loop in LOOPS if not asked or loop.name in asked]
    for loop in [SMALL] if given.small else loops:
        for queue in QUEUES:
            simulate(loop, queue, Path(shared), given.runs, given.out)


if __name__ == "__main__":
    main()
