"""Measure calibration: train on four fifths of training.csv, calibrate on the last fifth, measure on val.csv.

    python benchmarks/accuracy/calibration.py data.root=data/faces15 [--epochs 30] [--threads 1] [CONFIG ...]

Each config gets two rows of `benchmarks/results/calibration.csv`, before and after `kpnet calibrate`, and a plot of
each beside the run. Then a square of noise covers each eye, and the faces are shifted until points leave the image: the
script prints the confidence of the points that are covered or outside, and of the others.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from running import RESULTS, kpnet, split_folder

from kpnet import load_model
from kpnet.coordinates import normalized_to_pixel
from kpnet.data import KaggleCSV
from kpnet.heads import Keypoints

TABLE = RESULTS / "calibration.csv"
RUNS = Path("runs/calibration")
SIDE, SHIFT = 20, 30  # of the square and of the shift, in pixels


def split(root: Path) -> tuple[Path, Path]:
    """Write fit.csv and calibrate.csv: the first four fifths of the rows of training.csv, and the rest."""
    RUNS.mkdir(parents=True, exist_ok=True)
    header, *rows = (root / "training.csv").read_text().splitlines(keepends=True)
    cut = 4 * len(rows) // 5
    for name, part in (("fit.csv", rows[:cut]), ("calibrate.csv", rows[cut:])):
        (RUNS / name).write_text(header + "".join(part))
    return RUNS / "fit.csv", RUNS / "calibrate.csv"


def measure(config: str, when: str, folder: Path, val: Path, threads: int) -> dict[str, Any]:
    """Evaluate a run and return its row; the reliability plot is written beside the run."""
    plot = folder.with_name(f"{folder.name}_{when}.png")
    found = json.loads(kpnet("evaluate", folder, val, "--json", "--plot", plot, threads=threads))
    reliability = found["reliability"]
    row = {"config": config, "calibrated": when, "score": round(found["score"], 1)}
    row |= {key: round(reliability[key], 4) for key in ("ece", "ece@1%")}
    for level, share in reliability["coverage"].items():
        row[level] = round(share["measured"], 4)
        row[f"{level} interval"] = f"{share['low']:.4f} {share['high']:.4f}"
    return row


def hidden_points(folder: Path, val: Path) -> None:
    """Print the confidence of covered points and of points outside the image, beside that of the others."""
    model, data = load_model(folder), KaggleCSV(val)
    images = torch.stack([data[i]["image"] for i in range(len(data))])
    points = normalized_to_pixel(torch.stack([data[i]["keypoints"] for i in range(len(data))]), (96, 96))
    plain = model.infer(images)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    for eye in ("left_eye_center", "right_eye_center"):
        k = data.skeleton.names.index(eye)
        covered, seen = images.clone(), torch.zeros(points.shape[:2], dtype=torch.bool)
        for i, (x, y) in enumerate(points[:, k].round().int().tolist()):
            box = slice(max(y - SIDE // 2, 0), y + SIDE // 2), slice(max(x - SIDE // 2, 0), x + SIDE // 2)
            covered[i, 0][box] = noise[i, 0][box]
            seen[i] = (points[i] - points[i, k]).abs().amax(-1) < SIDE / 2
        report(f"a square over {eye}", plain, model.infer(covered), points, seen)
    moved = torch.zeros_like(images)
    moved[..., SHIFT:] = images[..., :-SHIFT]  # to the right
    outside = points[..., 0] + SHIFT > 95.5
    report(f"moved by {SHIFT} px", plain, model.infer(moved), points + torch.tensor([SHIFT, 0]), outside)


def report(what: str, before: Keypoints, after: Keypoints, points: torch.Tensor, gone: torch.Tensor) -> None:
    """Print confidence, predicted and actual error of the hidden points and of the others."""
    error = (normalized_to_pixel(after.keypoints, (96, 96)) - points).norm(dim=-1)
    for name, mask in (("hidden", gone), ("others", ~gone)):
        assert before.confidence is not None
        assert after.confidence is not None
        spreads = [each.covariance for each in (before, after) if each.covariance is not None]
        deviation = [48 * each.diagonal(dim1=-2, dim2=-1).sum(-1)[mask].sqrt().median() for each in spreads]
        print(
            f"{what}: {name} ({int(mask.sum())} points): confidence {before.confidence[mask].mean():.3f} -> "
            f"{after.confidence[mask].mean():.3f}, predicted error {deviation[0]:.2f} -> {deviation[1]:.2f} px, "
            f"actual {error[mask].square().mean().sqrt():.2f} px, within 5 %: "
            f"{np.mean((error[mask] <= 4.8).numpy()):.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="*", metavar="data.root=FOLDER | CONFIG")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_intermixed_args()
    folder_name, configs = split_folder(given.arguments, "data.root", "data/faces15")
    root = Path(folder_name).resolve()
    fit, held = split(root)
    for config in configs or ["facial_heatmap", "facial_simcc", "facial_rle"]:
        folder, val = RUNS / config, root / "val.csv"
        # With validation data, the training would end with a calibration on them.
        overrides = [f"data.root={fit.parent.resolve()}", f"data.train={fit.name}", "data.val=null"]
        overrides += [f"train.epochs={given.epochs}", "train.seed=0"]
        kpnet("train", config, *overrides, "--out", folder, "--force", threads=given.threads)
        rows = [measure(config, "before", folder, val, given.threads)]
        kpnet("calibrate", folder, held, threads=given.threads)
        rows.append(measure(config, "after", folder, val, given.threads))
        others = [r for r in csv.DictReader(TABLE.open()) if r["config"] != config] if TABLE.exists() else []
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows([*others, *rows])
        print(*(json.dumps(row) for row in rows), sep="\n", flush=True)
        hidden_points(folder, val)


if __name__ == "__main__":
    main()
