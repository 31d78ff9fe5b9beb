"""Predict a dataset with a model, and measure the predictions."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kpnet.coordinates import normalized_distance_to_pixel, normalized_to_pixel
from kpnet.core.errors import KpnetError
from kpnet.core.runtime import best_device
from kpnet.data import KeypointDataset
from kpnet.data.base import unit_images
from kpnet.data.workers import evaluation_workers
from kpnet.evaluation.found import find_and_measure
from kpnet.evaluation.intervals import bootstrap_intervals
from kpnet.evaluation.reliability import measure_presence, measure_reliability
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.heads import Keypoints
from kpnet.metrics import FAILURE_THRESHOLD, evaluate_in_image_pixels, evaluate_points
from kpnet.models.ensemble import Ensemble, load_ensemble
from kpnet.models.exported import ExportedModel
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime


@dataclass
class Predictions:
    """A model's predictions for N samples beside the truth, on the CPU.

    Attributes:
        predicted: The predictions, without heatmaps.
        target: True points (N, K, 2), normalised to [-1, 1].
        visible: Which points are labelled, bool (N, K).
        matrix: Mappings (N, 2, 3) from pixels of the original image to pixels of the model's input.
        images: Number of the image that each sample is of, int (N,).
        present: Where the model predicts presence, 1 for points that are there, 0 for those that are not, NaN for those
            of which it is not known (N, K). None: nothing is known.
    """

    predicted: Keypoints
    target: Tensor
    visible: Tensor
    matrix: Tensor
    images: np.ndarray = field(kw_only=True)
    present: Tensor | None = field(default=None, kw_only=True)


def predict_dataset(
    model: KeypointModel | ExportedModel | Ensemble,
    dataset: KeypointDataset,
    batch_size: int = 64,
    test_time: TestTime | None = None,
    workers: int = 0,
) -> Predictions:
    """Predict every sample of a dataset.

    Args:
        model: The model; it stays on its device.
        dataset: The samples; for a model with the head `centers` whole images, `kpnet.data.wrappers.scenes.Scenes`, of
            which each instance is a sample.
        batch_size: Images per forward pass.
        test_time: Average over mirrored, scaled and shifted views.
        workers: Processes that load images in the background; 0: none.

    Returns:
        The predictions and the truth, in the dataset's order.

    Raises:
        KpnetError: No point of the data is labelled.
    """
    found = predict_samples(model, dataset, batch_size, test_time, workers)
    if not found.visible.any():
        raise KpnetError("nothing to evaluate: the data has no labelled point")
    return found


def predict_samples(
    model: KeypointModel | ExportedModel | Ensemble,
    dataset: KeypointDataset,
    batch_size: int = 64,
    test_time: TestTime | None = None,
    workers: int = 0,
) -> Predictions:
    """Predict every sample of a dataset, with labels or without; as `predict_dataset`."""
    device = next(itertools.chain(model.parameters(), model.buffers())).device
    predicted, targets, visible, matrices, present, counts = [], [], [], [], [], []
    in_bytes = dataset.in_bytes()
    if "presence" in model.point_values and in_bytes.missing is None:
        in_bytes.missing = "unknown"
    loader = DataLoader(
        in_bytes,
        batch_size=batch_size,
        num_workers=evaluation_workers(in_bytes, workers, batch_size),
        pin_memory=device.type == "cuda",
    )
    for batch in loader:
        images = unit_images(batch["image"].to(device, non_blocking=True))
        if "boxes" in batch:  # whole images: the points of the true instances
            assert isinstance(model, KeypointModel)
            there = batch["boxes"].isfinite().all(-1)
            counts.append(there.sum(1))
            predicted.append(model.read(images, batch["boxes"].to(device), test_time))
            batch = {key: batch[key][there] for key in ("keypoints", "visible")} | {
                "matrix": batch["matrix"].repeat_interleave(there.sum(1), 0)
            }
        else:
            predicted.append(replace(model.infer(images, test_time), heatmaps=None))
        targets.append(batch["keypoints"])
        visible.append(batch["visible"])
        matrices.append(batch["matrix"])
        present.append(batch.get("present"))
    whole = Keypoints.concatenate(predicted)
    known = None if present[0] is None else torch.cat(present)
    numbers = image_numbers(dataset)
    if counts:  # a row for each instance
        numbers = np.unique(np.repeat(numbers, torch.cat(counts).numpy()), return_inverse=True)[1]
    truth = torch.cat(targets), torch.cat(visible), torch.cat(matrices)
    return Predictions(whole, *truth, images=numbers, present=known)


def image_numbers(dataset: KeypointDataset) -> np.ndarray:
    """Return the number of the image of each sample, int (N,), counted from 0 in the order of the samples."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(dataset.image_key(i), len(number)) for i in range(len(dataset))])


def to_image_pixels(
    predicted: Keypoints, matrix: Tensor, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return predictions in pixels of the original images.

    Args:
        predicted: Predictions for N images, normalised.
        matrix: Mappings (N, 2, 3) from pixels of the original images to those of the model's input.
        size: Height and width of the input.

    Returns:
        Points, float64 (N, K, 2), and covariances, float64 (N, K, 2, 2); None where there are none.
    """
    back = matrix.double()[:, :, :2].inverse()[:, None]
    points = normalized_to_pixel(predicted.keypoints.double(), size) - matrix.double()[:, None, :, 2]
    points = (back @ points[..., None])[..., 0]
    if predicted.covariance is None:
        return points.numpy(), None
    covariance = normalized_distance_to_pixel(predicted.covariance.double(), size).mT
    covariance = back @ normalized_distance_to_pixel(covariance, size) @ back.mT
    return points.numpy(), covariance.numpy()


def evaluate(
    model: KeypointModel | ExportedModel | Ensemble | str | Path,
    data: KeypointDataset | str | Path | None = None,
    batch_size: int = 64,
    test_time: TestTime | None = None,
    nme: str | tuple[str, str] | None = None,
    failure_threshold: float = FAILURE_THRESHOLD,
    min_confidence: float | None = None,
    workers: int = 0,
) -> dict[str, Any]:
    """Measure a model on labelled data, in pixels of the model's input.

    Args:
        model: A model, the folder of a run or of a saved model, an address on the hub (`hf://OWNER/NAME`), or an ONNX
            file that `kpnet export` wrote.
        data: A dataset, or a file or folder of labels in any format that kpnet detects. None: the validation data of
            the run that `model` names.
        batch_size: Images per forward pass.
        test_time: Average over mirrored, scaled and shifted views.
        nme: What the NME divides by; see `kpnet.metrics.normalizers`.
        failure_threshold: NME above which a sample counts as failed.
        min_confidence: Also measure the points of at least this confidence on their own.
        workers: Processes that load images in the background; 0: none. Where processes are spawned, as on Windows, the
            calling script needs `if __name__ == "__main__":`.

    Returns:
        The measures of `kpnet.metrics.evaluate_points`, `images`, the number of images that the samples are of, and
        `intervals` of the main measures (`kpnet.evaluation.intervals.bootstrap_intervals`). `reliability` is added
        where the model predicts covariances (`kpnet.evaluation.reliability.measure_reliability`), `presence` where it
        predicts presence and the data has points that are there and points that are not
        (`kpnet.evaluation.reliability.measure_presence`), and `image_pixels` where images were resized or cropped, or
        with `min_confidence` (`kpnet.metrics.evaluate_in_image_pixels`). All of them are about the true boxes. For a
        model that finds instances, `instances` has the measures of what it finds itself
        (`kpnet.evaluation.instances.evaluate_instances`).

    Raises:
        KpnetError: The model or the data cannot be used, or no point is labelled.

    Example:
        ```python
        measures = kpnet.evaluate("runs/facial_heatmap", "val.csv")
        ```
    """
    run = Path(model) if isinstance(model, (str, Path)) else None
    if isinstance(model, (str, Path)):
        model = load_ensemble(model, fold=True).to(best_device())
    if data is None or isinstance(data, (str, Path)):
        data = evaluation_dataset(run, None if data is None else Path(data), model)
    options: dict[str, Any] = {"nme": nme, "failure_threshold": failure_threshold, "min_confidence": min_confidence}
    return predict_and_measure(model, data, batch_size, test_time, workers, **options)[1]


def predict_and_measure(
    model: KeypointModel | ExportedModel | Ensemble,
    data: KeypointDataset,
    batch_size: int = 64,
    test_time: TestTime | None = None,
    workers: int = 0,
    **options: Any,
) -> tuple[Predictions, dict[str, Any]]:
    """Return the predictions for a dataset and their measures, as `evaluate` does, with the same options."""
    predictions = predict_dataset(model, data, batch_size, test_time, workers)
    measures = evaluate_predictions(predictions, model, **options)
    if model.finds_instances:
        measures["instances"] = find_and_measure(model, data, batch_size, test_time, options.get("nme")).measures
    return predictions, measures


def evaluate_predictions(
    result: Predictions,
    model: KeypointModel | ExportedModel | Ensemble,
    nme: str | tuple[str, str] | None = None,
    failure_threshold: float = FAILURE_THRESHOLD,
    min_confidence: float | None = None,
) -> dict[str, Any]:
    """Measure predictions as `evaluate` does, with the same options."""
    size, points = model.config.input_size, (result.predicted.keypoints, result.target, result.visible)
    measures = evaluate_points(*points, model.skeleton, size, nme=nme, failure_threshold=failure_threshold)
    measures["images"] = len(np.unique(result.images))
    options: dict[str, Any] = {"nme": nme, "failure_threshold": failure_threshold, "images": result.images}
    measures["intervals"] = bootstrap_intervals(*points, model.skeleton, size, **options)
    confidence, confident = result.predicted.confidence, None
    if min_confidence is not None:
        if confidence is None:
            raise KpnetError("min_confidence: this head gives no confidence; see kpnet calibrate")
        confident = confidence >= min_confidence
    if confident is not None or not torch.equal(result.matrix, torch.eye(2, 3).expand_as(result.matrix)):
        measures["image_pixels"] = evaluate_in_image_pixels(*points, model.skeleton, size, result.matrix, confident)
    if result.predicted.covariance is not None:
        measures["reliability"] = measure_reliability(
            result.predicted, result.target, result.visible, size, result.present, result.images
        )
    if result.predicted.presence is not None and result.present is not None:
        presence = measure_presence(result.predicted.presence, result.present)
        measures |= {} if presence is None else {"presence": presence}
    return measures
