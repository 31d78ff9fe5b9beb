"""Measure presence: what a model says of points that are covered or outside of the image, and what it costs elsewhere.

    python benchmarks/accuracy/presence.py [shared=FOLDER] [ROW ...] [--threads 1] [--epochs 20] [--list]

A row is `presence` or `plain`, for the seeds 0 and 1: `facial_heatmap` with the channels 16 to 256, a further shift and
a further square of noise among its transforms, with `model.presence` and without. FOLDER (default: ../shared) holds
data/faces15. Every figure is cross-fitted: the images of val.csv are in two halves, each calibrated by the other.

- clean ece: calibration error of the confidence on the images as they are;
- covered: points under a square of noise of 20 px about each image's left eye, and then its right: the mean
  confidence, of points of which none is right (there and within 5 %); `covered near`, the confidence without presence,
  and the share within 5 %;
- outside: points that leave the image where the faces are moved by 30 px to the right: mean presence and confidence;
- auc and ece of presence on copies with covered and moved points (`kpnet.data.wrappers.absences.Absences`), which the
  other half's copies calibrated.

Of a model without presence, confidence is all that there is. Minutes are of processor time, for the training alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from running import RESULTS, children_minutes, kpnet, measure_seeds, rows_parser, shared_and_asked
from torch import Tensor

from kpnet import load_model
from kpnet.coordinates import normalized_distance_to_pixel, normalized_to_pixel, pixel_to_normalized
from kpnet.data import KaggleCSV
from kpnet.data.wrappers.absences import Absences
from kpnet.data.wrappers.subset import Subset
from kpnet.evaluation.measurement import Predictions, predict_samples
from kpnet.evaluation.presence import with_absences
from kpnet.evaluation.reliability import measure_presence, measure_reliability
from kpnet.heads import Keypoints
from kpnet.models.calibration import Calibration, fit_calibration
from kpnet.models.keypoint_model import KeypointModel
from kpnet.uncertainty import CONFIDENCE_RADIUS, probability_within

TABLE = RESULTS / "presence.csv"
RUNS = Path("runs/presence")
ROWS, SEEDS = ("presence", "plain"), (0, 1)
SIZE, SIDE, SHIFT = (96, 96), 20, 30  # of the input, of the square and of the shift, in pixels
HOLE = "num_holes_range: [1, 1], hole_height_range: [0.1, 0.3], hole_width_range: [0.1, 0.3], p: 0.3"
TRANSFORMS = [
    "HorizontalFlip: {p: 0.5}",
    "Affine: {rotate: [-35, 35], scale: [0.8, 1.2], keep_ratio: true, translate_percent: [-0.08, 0.08], p: 0.95}",
    "Affine: {translate_percent: [-0.4, 0.4], p: 0.2}",
    "RandomBrightnessContrast: {p: 0.5}",
    f"CoarseDropout: {{fill: random_uniform, {HOLE}}}",
    f"CoarseDropout: {{fill: random, {HOLE}}}",
]


def train(folder: Path, data: Path, presence: bool, seed: int, epochs: int, threads: int) -> float:
    """Train a model and return the minutes of processor time."""
    before = children_minutes()
    overrides = [f"data.root={data}", "model.backbone.channels=[16, 32, 64, 128, 256]", "data.workers=0"]
    overrides += [f"model.presence={str(presence).lower()}", f"train.epochs={epochs}", f"train.seed={seed}"]
    overrides += ["data.transforms=[" + ", ".join(f"{{{each}}}" for each in TRANSFORMS) + "]"]
    kpnet("train", "facial_heatmap", *overrides, "--out", folder, "--force", threads=threads)
    return children_minutes() - before


def measure(folder: Path, val: Path) -> dict[str, Any]:
    """Return the figures of a run."""
    model = load_model(folder)
    model.calibration = None
    faces = KaggleCSV(val)
    halves = [torch.arange(first, len(faces), 2) for first in (0, 1)]
    plain = predict_samples(model, faces)
    fits: list[Calibration] = []
    for half in halves:
        subset = Subset(faces, half.numpy())
        known = with_absences(model, subset, take(plain, half))
        fits.append(fit_calibration(known.predicted, known.target, known.visible, SIZE, present=known.present))

    def crossed(predicted: Keypoints) -> Keypoints:
        """Calibrate each half by the fit of the other one."""
        parts = [
            fit(predicted.map(lambda rows, half=half: rows[half]), SIZE)  # type: ignore[misc]
            for fit, half in zip(fits, halves[::-1], strict=True)
        ]
        order = torch.cat(halves[::-1]).argsort()
        return Keypoints.concatenate(parts).map(lambda rows: rows[order])

    clean = crossed(plain.predicted)
    dofs = torch.empty(len(faces))
    for fit, half in zip(fits, halves[::-1], strict=True):
        dofs[half] = fit.dof
    found: dict[str, Any] = {
        "score": 1 / (2 * float((plain.predicted.keypoints - plain.target)[plain.visible].square().mean())),
        "clean ece": measure_reliability(clean, plain.target, plain.visible, SIZE, plain.present)["ece"],
        "clean confidence": float(clean.confidence[plain.visible].mean()),  # type: ignore[index]
    }
    images = torch.stack([faces[index]["image"] for index in range(len(faces))])
    points = normalized_to_pixel(plain.target, SIZE)
    found |= covered(model, crossed, images, points, plain.visible, faces.skeleton.names, dofs)
    moved = torch.zeros_like(images)
    moved[..., SHIFT:] = images[..., :-SHIFT]
    outside = plain.visible & (points[..., 0] + SHIFT > SIZE[1] - 0.5)
    predicted = crossed(infer(model, moved))
    found["outside points"] = int(outside.sum())
    found["outside confidence"] = float(predicted.confidence[outside].mean())  # type: ignore[index]
    if predicted.presence is None:
        return found
    found["outside presence"] = float(predicted.presence[outside].mean())
    copies = predict_samples(model, Absences(faces))
    presence, present = crossed(copies.predicted).presence, copies.present
    assert presence is not None
    assert present is not None
    measures = measure_presence(presence, present)
    assert measures is not None
    return found | {f"presence {name}": value for name, value in measures.items()}


def covered(
    model: KeypointModel, crossed: Any, images: Tensor, points: Tensor, visible: Tensor, names: Any, dofs: Tensor
) -> dict[str, Any]:
    """Return the figures of the points under a square of noise, both eyes pooled."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    confidence, near, within, presence = [], [], [], []
    for eye in ("left_eye_center", "right_eye_center"):
        k = names.index(eye)
        hidden, under = images.clone(), torch.zeros_like(visible)
        for i, (x, y) in enumerate(points[:, k].round().int().tolist()):
            box = slice(max(y - SIDE // 2, 0), y + SIDE // 2), slice(max(x - SIDE // 2, 0), x + SIDE // 2)
            hidden[i, 0][box] = noise[i, 0][box]
            under[i] = visible[i] & ((points[i] - points[i, k]).abs().amax(-1) < SIDE / 2)
        predicted = crossed(infer(model, hidden))
        error = normalized_distance_to_pixel(predicted.keypoints - pixel_to_normalized(points, SIZE), SIZE).norm(dim=-1)
        close = torch.stack(
            [
                probability_within(each, CONFIDENCE_RADIUS, SIZE, float(dof))
                for each, dof in zip(predicted.covariance, dofs, strict=True)
            ]
        )
        confidence.append(predicted.confidence[under])
        near.append(close[under])
        within.append((error <= CONFIDENCE_RADIUS * max(SIZE))[under])
        if predicted.presence is not None:
            presence.append(predicted.presence[under])
    found = {
        "covered points": len(torch.cat(within)),
        "covered confidence": float(torch.cat(confidence).mean()),
        "covered near": float(torch.cat(near).mean()),
        "covered within 5 %": float(torch.cat(within).float().mean()),
    }
    return found | ({"covered presence": float(torch.cat(presence).mean())} if presence else {})


def infer(model: KeypointModel, images: Tensor) -> Keypoints:
    return Keypoints.concatenate([model.infer(each) for each in images.split(64)])


def take(predictions: Predictions, rows: Tensor) -> Predictions:
    """Return the predictions of some rows."""
    predicted = predictions.predicted.map(lambda values: values[rows])
    return Predictions(
        predicted,
        predictions.target[rows],
        predictions.visible[rows],
        predictions.matrix[rows],
        images=predictions.images[rows.numpy()],
        present=None if predictions.present is None else predictions.present[rows],
    )


COLUMNS = (
    *("score", "clean ece", "clean confidence", "covered points", "covered confidence", "covered near"),
    *("covered within 5 %", "covered presence", "outside points", "outside confidence", "outside presence"),
    *("presence auc", "presence ece", "presence there", "presence absent"),
)


def main() -> None:
    parser = rows_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_intermixed_args()
    shared, asked = shared_and_asked(parser, given, ROWS)

    def run(name: str, seed: int) -> dict[str, Any]:
        folder, data = RUNS / f"{name}_{seed}", shared / "data" / "faces15"
        minutes = train(folder, data, name == "presence", seed, given.epochs, given.threads)
        found = measure(folder, data / "val.csv")
        figures = {key: round(found[key], 4) if key in found else "" for key in COLUMNS}
        return {"row": name, "seed": seed, "epochs": given.epochs, **figures, "minutes": round(minutes, 1)}

    measure_seeds(ROWS, asked, SEEDS, TABLE, run, only_list=given.list)


if __name__ == "__main__":
    main()
