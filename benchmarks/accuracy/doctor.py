"""Plant wrong labels in faces15, and measure which of them `kpnet data doctor` finds, beside the shape alone.

    python benchmarks/accuracy/doctor.py data.root=data/faces15 [--folds 5] [--out runs] [--real] [SEED ...]

Each seed trains on its folds, in OUT/doctor_SEED, and appends a row for each kind to `benchmarks/results/doctor.csv`,
unless its rows are there already. A kind is found where a sample has a suspicion of that kind, and a false alarm is one
of a sample without a planted error; wrong labels that are in faces15 by themselves count as false alarms too. The
baseline is the Mahalanobis distance of the aligned labels, with the threshold that is best for it among the samples of
that kind and clean ones.
The thresholds of `kpnet.evaluation.suspicions` were chosen on seed 0; seed 1 chose nothing.

With --real, the same predictions also examine the labels as they are, without planted errors. What is found is printed,
numbered by the file's rows from 1; and so that there is more to look at, the ten worst at half of the threshold for
single points are drawn into OUT/doctor_SEED_real.png.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from running import RESULTS, append_row, split_folder

from kpnet.coordinates import pixel_to_normalized
from kpnet.core.skeleton import Skeleton
from kpnet.data import KaggleCSV
from kpnet.data.check import align_to_shape, common_shape
from kpnet.data.convert import convert
from kpnet.evaluation import suspicions
from kpnet.evaluation.doctor import examine
from kpnet.evaluation.measurement import Predictions
from kpnet.evaluation.suspicions import EXCHANGED, INSTANCE, OFF, ORDER, SIDES, Suspicion
from kpnet.experiments.folds import fold_config, predict_folds
from kpnet.plot import draw_contact_sheet, save_figure

SHARE = 0.05  # of the images get one error each
KINDS = ("swap", "order", "off", "face")
FAR = 8.0  # pixels that a point is moved by


def plant(xy: np.ndarray, skeleton: Skeleton, seed: int, side: int = 96) -> tuple[np.ndarray, dict[int, str]]:
    """Return points (N, K, 2) with errors in 5 % of the images, and the kind of the error of each such image.

    Half of the swaps exchange all pairs, half one pair; half of the orders are shifted, half are at random.
    """
    draws = np.random.default_rng(seed)
    chosen = draws.permutation(len(xy))[: round(SHARE * len(xy))]
    planted, kinds = xy.copy(), {}
    for number, index in enumerate(chosen.tolist()):
        kind, second = KINDS[number % 4], number // 4 % 2
        order = np.arange(len(skeleton))
        if kind == "swap":
            pairs = [tuple(map(skeleton.names.index, pair)) for pair in skeleton.pairs]
            for a, b in [pairs[draws.integers(len(pairs))]] if second else pairs:
                order[[a, b]] = order[[b, a]]
        elif kind == "order":
            order = draws.permutation(order) if second else np.roll(order, draws.integers(1, len(order)))
        planted[index] = xy[index, order]
        if kind == "face":
            planted[index] = xy[draws.choice(np.delete(np.arange(len(xy)), index))]
        while kind == "off":
            k, angle = draws.integers(len(skeleton)), draws.uniform(0, 2 * np.pi)
            moved = xy[index, k] + FAR * np.array([np.cos(angle), np.sin(angle)])
            if np.isfinite(moved).all() and (moved >= 0).all() and (moved <= side - 1).all():
                planted[index, k] = moved
                break
        kinds[index] = kind
    return planted, kinds


FOUND_AS = {"swap": {SIDES, EXCHANGED}, "order": {ORDER, EXCHANGED}, "off": {OFF}, "face": {INSTANCE}}


def shape_distance(xy: np.ndarray) -> np.ndarray:
    """Return the Mahalanobis distance (N,) of complete samples (N, K, 2) from all, aligned by similarities."""
    points = xy[..., 0] + 1j * xy[..., 1]
    shape = common_shape(points)
    rest = align_to_shape(points, shape) - shape
    flat = np.nan_to_num(np.concatenate([rest.real, rest.imag], axis=1))
    covariance = np.cov(flat.T) + 1e-3 * np.eye(flat.shape[1])
    return np.sqrt((flat @ np.linalg.inv(covariance) * flat).sum(1))


def f1(hits: int, false: int, planted: int) -> float:
    return 2 * hits / (hits + false + planted)


def best_f1(values: np.ndarray, wrong: np.ndarray) -> float:
    """Return the F1 at the threshold that is best."""
    hits = np.cumsum(wrong[np.argsort(-values)])
    return float((2 * hits / (np.arange(1, len(hits) + 1) + wrong.sum())).max())


def rows(seed: int, xy: np.ndarray, kinds: dict[int, str], found: list[Suspicion]) -> list[dict[str, object]]:
    """Return a row for each kind: what was found, the false alarms, F1, and the baseline's F1."""
    distance, table = shape_distance(xy), []
    for kind in KINDS:
        planted = {index for index, each in kinds.items() if each == kind}
        named = {each.index for each in found if each.kind in FOUND_AS[kind]}
        hits, false = len(named & planted), len(named - kinds.keys())
        fair = np.array([index in planted or index not in kinds for index in range(len(xy))])
        wrong = np.array([index in planted for index in range(len(xy))])
        row: dict[str, object] = {"seed": seed, "kind": kind, "planted": len(planted), "found": hits, "false": false}
        row |= {"f1": round(f1(hits, false, len(planted)), 3)}
        table.append({**row, "f1 of the shape alone": round(best_f1(distance[fair], wrong[fair]), 3)})
    return table


def measured_seeds(path: Path) -> set[str]:
    """Return the seeds that the table has rows of."""
    if not path.is_file():
        return set()
    with path.open(newline="") as file:
        return {row["seed"] for row in csv.DictReader(file)}


def examine_real(data: KaggleCSV, predictions: Predictions, size: tuple[int, int], sheet: Path) -> None:
    """Print what the predictions find in the labels as they are, and draw it."""
    target = torch.from_numpy(pixel_to_normalized(data.keypoints, size)).to(predictions.target)
    predictions = dataclasses.replace(predictions, target=target)
    found = examine(data, predictions, data.skeleton, size).suspicions
    with patch.object(suspicions, "_OFF", suspicions._OFF / 2):
        examined = examine(data, predictions, data.skeleton, size)
    reported = {(each.index, each.points) for each in found}
    notes: dict[int, str] = {}
    for each in examined.suspicions:
        known = (each.index, each.points) in reported
        print(f"row {each.index + 1}{'' if known else ' (not reported)'}: {each.kind}, {each.note}, z {each.z:.1f}")
        notes.setdefault(each.index, f"row {each.index + 1}: {each.note}")
    if notes:
        save_figure(draw_contact_sheet(data, list(notes)[:10], notes, examined.predicted), sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="*", metavar="data.root=FOLDER | SEED")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the planted labels and trainings")
    parser.add_argument("--real", action="store_true", help="also examine the labels without planted errors")
    given = parser.parse_intermixed_args()
    root, seeds = split_folder(given.arguments, "data.root", "data/faces15")
    table = RESULTS / "doctor.csv"
    real = KaggleCSV(Path(root) / "training.csv")
    for seed in map(int, seeds or ["0", "1"]):
        done = str(seed) in measured_seeds(table)
        if done and not given.real:
            continue
        xy, kinds = plant(real.keypoints, real.skeleton, seed)
        path = given.out / f"planted_{seed}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            convert(real.replace_keypoints(xy, np.zeros(0)), path)
        data = KaggleCSV(path)
        config = fold_config(path, "kaggle_csv", data, given.folds)
        view, predictions = predict_folds(config, given.folds, given.out / f"doctor_{seed}")
        if not done:
            found = examine(data, predictions, view.skeleton, config.model.input_size).suspicions
            for row in rows(seed, data.keypoints, kinds, found):
                append_row(table, row)
                print(row, flush=True)
        if given.real:
            examine_real(real, predictions, config.model.input_size, given.out / f"doctor_{seed}_real.png")


if __name__ == "__main__":
    main()
