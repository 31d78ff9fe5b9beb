"""Measure what `kpnet watch` finds: other data, false alarms, and the expected error.

    python benchmarks/accuracy/watch.py shared=FOLDER NAME=RUN [NAME=RUN ...] [--out TABLE]

RUN is a trained run whose validation data is faces15's or helen68's, in FOLDER/data (default: ../shared), which also
holds faces_unlabelled and deeplabcut/openfield. NAME says what it is, in the table
`benchmarks/results/watch.csv`.

A random half of the validation images is the held-out data: the model is calibrated on it, and summarised. Batches of
30 images come from the other half, as they are and changed: blurred with a σ of 2 px, turned by 90°, with noise of a
standard deviation of 0.1, all in the model's input; and from other sources, mice for every model, and another camera's
faces for a model of helen68. The row of a change has the AUC of the p-value (changed batches against unchanged ones of
the same half), the share of batches that are found, and the expected and the true mean error of the other half in
pixels. The row "unchanged" has the share of false alarms over 200 batches. Halves are drawn anew for every ten batches.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np
import torch
from running import RESULTS, append_row, split_folder
from torch import Tensor

from kpnet import load_model
from kpnet.coordinates import normalized_to_pixel
from kpnet.data.images import find_files, model_inputs, read_image
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.heads import Keypoints
from kpnet.inference.watch import LEVEL, compare
from kpnet.models.calibration import fit_calibration
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.watch import WatchReference, compute_signals, pooled_maps

TABLE = RESULTS / "watch.csv"
BATCH, BATCHES, UNCHANGED, PER_HALF = 30, 50, 200, 10
COLUMNS = ("model", "data", "auc", "found_percent", "expected_px", "true_px", "ratio")


@dataclass
class Images:
    """Images of a source: raw predictions, pooled maps, and the errors where there are labels."""

    predicted: Keypoints
    features: Tensor
    errors: np.ndarray | None


def predict(model: KeypointModel, images: Tensor, target: Tensor | None, visible: Tensor | None) -> Images:
    """Predict images without calibration; errors are in pixels of the input, NaN where there is no label."""
    with pooled_maps(model.backbone) as pooled:
        parts = [model.infer(batch) for batch in images.split(64)]
    predicted = Keypoints.concatenate(parts)
    errors = None
    if target is not None and visible is not None:
        size = model.config.input_size
        apart = normalized_to_pixel(predicted.keypoints, size) - normalized_to_pixel(target, size)
        errors = torch.where(visible, apart.norm(dim=-1), torch.nan).numpy()
    return Images(predicted, torch.cat(pooled), errors)


def sources(model: KeypointModel, run: Path, shared: Path) -> tuple[dict[str, Images], Tensor, Tensor]:
    """Return the images of every source, and the labels of the unchanged ones."""
    data = evaluation_dataset(run, None, model)
    items = [data[index] for index in range(len(data))]
    images, target, visible = (torch.stack([item[key] for item in items]) for key in ("image", "keypoints", "visible"))
    arrays = images.permute(0, 2, 3, 1).numpy()
    blurred = np.stack([cv2.GaussianBlur(each, (0, 0), 2).reshape(each.shape) for each in arrays])
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    turned = torch.stack([target[..., 1], -target[..., 0]], -1)
    changed = {
        "unchanged": (images, target),
        "blur": (in_bytes(torch.from_numpy(blurred).permute(0, 3, 1, 2)), target),
        "turned": (images.rot90(1, (2, 3)), turned),
        "noise": (in_bytes(images + noise), target),
    }
    found = {name: predict(model, changed_images, xy, visible) for name, (changed_images, xy) in changed.items()}
    mice = [read_image(path) for path in find_files(shared / "data/deeplabcut/openfield", (".png",))]
    found["mice"] = predict(model, as_inputs(mice, model), None, None)
    if len(model.skeleton) == 68:
        faces = np.load(shared / "data/faces_unlabelled/faces.npz")["images"][:200]
        found["faces_unlabelled"] = predict(model, as_inputs(list(faces), model), None, None)
    return found, target, visible


def in_bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255


def as_inputs(images: list[np.ndarray], model: KeypointModel) -> Tensor:
    """Return whole images as the model sees them."""
    pixels = torch.from_numpy(np.stack([model_inputs(image, None, model.config)[0][0] for image in images]))
    return (pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)).float() / 255


def measure(name: str, run: Path, shared: Path, table: Path) -> None:
    """Append the rows of a run."""
    model = load_model(run)
    model.calibration = None
    size, rng = model.config.input_size, np.random.default_rng(0)
    found, target, visible = sources(model, run, shared)
    raw, count = found["unchanged"].predicted, len(target)
    p_values: dict[str, list[float]] = {source: [] for source in found}
    expected: dict[str, list[float]] = {source: [] for source in found}
    true: dict[str, list[float]] = {source: [] for source in found}
    for half in range(UNCHANGED // PER_HALF):
        order = rng.permutation(count)
        held, rest = order[: count // 2], order[count // 2 :]
        calibration_data = (raw.map(itemgetter(held)), target[held], visible[held])
        model.calibration = fit_calibration(*calibration_data, size)
        signals = {
            source: compute_signals(model.calibration(each.predicted, size), each.features, size).numpy()
            for source, each in found.items()
        }
        reference = WatchReference.from_signals(signals["unchanged"][held], len(held), model, None)
        for source, each in found.items():
            pool = rest if each.errors is not None else np.arange(len(each.features))
            projected = reference.project(signals[source])
            if source != "unchanged" and half >= BATCHES // PER_HALF:
                continue
            for _ in range(PER_HALF):
                batch = rng.choice(pool, BATCH, replace=False)
                p_values[source].append(compare(reference, projected[batch], max(size)).p_value)
            expected[source].append(float(np.nanmean(projected[pool, 2])) * max(size))
            if each.errors is not None:
                true[source].append(float(np.nanmean(each.errors[pool])))
    unchanged = np.array(p_values["unchanged"])
    for source, values in p_values.items():
        other = np.array(values)[:, None]
        auc = float(((other < unchanged) + 0.5 * (other == unchanged)).mean())
        row = {"model": name, "data": source, "auc": "" if source == "unchanged" else round(auc, 4)}
        row |= {"found_percent": round(100 * float((other <= LEVEL).mean()), 1)}
        row |= {"expected_px": round(float(np.mean(expected[source])), 3)}
        if true[source]:
            row["true_px"] = round(float(np.mean(true[source])), 3)
            row["ratio"] = round(float(np.mean(expected[source]) / np.mean(true[source])), 3)
        append_row(table, row, COLUMNS)
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="+", metavar="shared=FOLDER | NAME=RUN")
    parser.add_argument("--out", type=Path, default=TABLE, help="table to append rows to")
    given = parser.parse_args()
    shared, runs = split_folder(given.arguments, "shared", "../shared")
    for each in runs:
        name, equals, run = each.partition("=")
        if not equals:
            parser.error(f'expected NAME=RUN, found "{each}"')
        measure(name, Path(run), Path(shared), given.out)


if __name__ == "__main__":
    main()
