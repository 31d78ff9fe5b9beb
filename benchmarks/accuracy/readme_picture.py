"""Remake docs/images/predictions.png: a running mouse, its keypoints and their 90 % confidence ellipses.

    OMP_NUM_THREADS=1 python benchmarks/accuracy/readme_picture.py data/mirror_mouse

The data is the example project of Lightning Pose (MIT licence): 75 labelled frames of a mouse seen from the side and,
in a mirror, from below. 50 frames train a small heatmap model, 15 calibrate it, and the figure shows three of the
last 10, which the model has not seen. Takes 10 to 15 minutes on one thread of a busy two-core machine. On the 10 test
frames the mean error is 6.5 px (frames of 396x406) and 91 % of the points lie in their 90 % ellipse (seed 0).
`--draw-only` draws the run in runs/readme_picture again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.patches import Ellipse

import kpnet
from kpnet.plot import save_figure
from kpnet.plot.figure import Figure
from kpnet.uncertainty import ellipse_radius

RUN = Path("runs/readme_picture")
IMAGE = Path(__file__).parents[2] / "docs" / "images" / "predictions.png"
SPLIT = {"train": slice(0, 50), "calibrate": slice(50, 65), "test": slice(65, 75)}
LEVEL = 0.9
SHOWN = (0, 1, 2)  # of the test frames
COLOURS = [
    (0.34, 0.71, 0.91),
    (0.90, 0.62, 0.00),
    (0.0, 0.80, 0.55),
    (0.94, 0.89, 0.26),
    (0.98, 0.42, 0.35),
    (0.88, 0.55, 0.80),
    (0.55, 0.90, 0.95),
    (0.75, 0.85, 0.45),
    (0.80, 0.75, 0.95),
    (0.95, 0.80, 0.65),
]


def convert(root: Path, folder: Path) -> None:
    """Write train.csv, calibrate.csv and test.csv in kpnet's points_csv layout.

    The labels have DeepLabCut's three header rows, but no config.yaml beside them, so that they are not a project.
    """
    table = pd.read_csv(root / "CollectedData.csv", header=[0, 1, 2], index_col=0)
    table.columns = ["_".join(each[1:]) for each in table.columns]
    table.insert(0, "image", [str((root / name).resolve()) for name in table.index])
    table = table.iloc[np.random.default_rng(0).permutation(len(table))]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in SPLIT.items():
        table.iloc[rows].to_csv(folder / f"{name}.csv", index=False)


def train(labels: Path, epochs: int) -> None:
    """Train, then calibrate on frames that were not trained on."""
    config = {
        "model": {
            "backbone": {"name": "conv_sandwich", "channels": [16, 32, 64, 128, 256], "norm": "batch", "residual": 1},
            "head": {
                "name": "heatmap",
                "decoder": {"name": "top_down", "width": 48},
                "loss": {"l1": 1.0, "cross_entropy": 0.3},
                "sigma": 2.0,
                "decoding": "dark",
            },
            "in_channels": 1,
            "input_size": [256, 256],
        },
        "data": {
            "format": "points_csv",
            "root": str(labels),
            "train": "train.csv",
            "val": "test.csv",
            "transforms": [
                {"Affine": {"rotate": [-20, 20], "scale": [0.8, 1.25], "translate_percent": [-0.1, 0.1], "p": 0.95}},
                {"RandomBrightnessContrast": {"p": 0.5}},
            ],
        },
        "train": {
            "epochs": epochs,
            "batch_size": 10,
            "optimizer": {"lr": 2e-3, "weight_decay": 0.05},
            "average": {"name": "ema", "decay": 0.99},
        },
        "trainer": {"precision": "auto", "check_val_every_n_epoch": 20},
    }
    kpnet.train(config, out=RUN / "model", force=True)
    calibrate = [sys.executable, "-m", "kpnet.cli", "calibrate", str(RUN / "model"), str(labels / "calibrate.csv")]
    subprocess.run(calibrate, check=True)
    measures = kpnet.evaluate(RUN / "model", labels / "test.csv")
    inside = measures["reliability"]["coverage"]["90%"]["measured"]
    print(
        f"test frames: {measures['image_pixels']['mre_px']:.1f} px; {100 * inside:.0f} % of the points in their ellipse"
    )


def draw(labels: Path) -> None:
    """Three test frames side by side; a colour for each keypoint, the same in the mirror."""
    table = pd.read_csv(labels / "test.csv")
    predict = kpnet.Predictor(RUN / "model")
    figure = Figure(figsize=(12, 4.08), dpi=100)
    grid = figure.subplots(1, len(SHOWN), gridspec_kw={"wspace": 0.01, "left": 0, "right": 1, "bottom": 0, "top": 1})
    for axes, row in zip(grid, SHOWN, strict=True):
        image = cv2.imread(table.image[row], cv2.IMREAD_GRAYSCALE)
        prediction = predict(table.image[row])
        assert image is not None
        assert prediction.covariance is not None
        axes.imshow(np.sqrt(image / 255), cmap="gray", vmin=0, vmax=1, interpolation="bicubic")  # the frames are dark
        axes.set_axis_off()
        axes.autoscale(False)
        names = [name.partition("_")[0] for name in prediction.names]
        parts = list(dict.fromkeys(names))
        radius = ellipse_radius(LEVEL, prediction.dof)
        for part, xy, covariance in zip(names, prediction.keypoints[0], prediction.covariance[0], strict=True):
            colour = COLOURS[parts.index(part) % len(COLOURS)]
            variances, directions = np.linalg.eigh(covariance)
            width, height = 2 * radius * np.sqrt(variances)
            angle = np.degrees(np.arctan2(directions[1, 0], directions[0, 0]))
            axes.add_patch(
                Ellipse(xy, width, height, angle=angle, facecolor=(*colour, 0.18), edgecolor=colour, linewidth=1.6)
            )
            axes.plot(*xy, "o", color=colour, markersize=5, markeredgecolor="black", markeredgewidth=0.6)
    save_figure(figure, IMAGE)
    print(IMAGE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="FOLDER", help="The folder mirror_mouse.")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--draw-only", action="store_true", help="Draw the run that is there.")
    given = parser.parse_args()
    labels = RUN / "labels"
    if not given.draw_only:
        convert(given.root, labels)
        train(labels.resolve(), given.epochs)
    draw(labels)


if __name__ == "__main__":
    main()
