"""Examine labelled data with models that did not see them, and mend what is certain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.runtime import best_device
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset
from kpnet.data.formats.instances import PROPOSED, SOURCES
from kpnet.data.formats.writing import sample_points, sample_sources
from kpnet.evaluation.measurement import Predictions, predict_dataset, to_image_pixels
from kpnet.evaluation.run_data import adapt_dataset
from kpnet.evaluation.suspicions import Suspicion, find_suspicions
from kpnet.models.build import load_model
from kpnet.models.calibration import MIN_POINTS, fit_calibration
from kpnet.models.test_time import TestTime


@dataclass(frozen=True)
class Examination:
    """What a model finds in the labels of N samples.

    Attributes:
        suspicions: The labels that are probably wrong, the one with most evidence first.
        skeleton: The K points that were examined.
        predicted: The predicted points, float64 (N, K, 2) in pixels of the images.
    """

    suspicions: list[Suspicion]
    skeleton: Skeleton
    predicted: np.ndarray


def suspicious(run: str | Path, dataset: KeypointDataset) -> list[int]:
    """Return the samples whose labels are probably wrong, the worst first.

    Args:
        run: A run folder, or a folder of a saved model, best trained on other data.
        dataset: Labelled samples in any size.

    Returns:
        Indices of the samples.

    Raises:
        KpnetError: The model cannot be loaded or does not fit, or there are fewer than 50 labels of its points.

    Example:
        ```python
        worst = suspicious("runs/facial_heatmap", kpnet.data.PointsCSV("labels.csv"))
        ```
    """
    return list(dict.fromkeys(each.index for each in examine_with_run(run, dataset).suspicions))


def examine_with_run(run: str | Path, dataset: KeypointDataset) -> Examination:
    """Examine labels with a trained model, as `suspicious` does.

    Args:
        run: A run folder, or a folder of a saved model, best trained on other data.
        dataset: Labelled samples in any size.

    Returns:
        The suspicions and the predictions.

    Raises:
        KpnetError: The model cannot be loaded or does not fit, or there are fewer than 50 labels of its points.
    """
    model = load_model(run).to(best_device())
    if sum(model.frame_window):
        raise KpnetError(f"{run}: its head sees several frames of a clip; expected a model of single images")
    model.calibration = None  # it is fitted to these data
    views = TestTime(flip=True) if model.skeleton.can_mirror else None
    view = adapt_dataset(dataset, model)
    check_enough(int(view.labels().sum()), f"labelled points of those that {run} predicts")
    predictions = predict_dataset(model, view, test_time=views)
    return examine(dataset, predictions, model.skeleton, model.config.input_size)


def examine(
    dataset: KeypointDataset, predictions: Predictions, skeleton: Skeleton, size: tuple[int, int]
) -> Examination:
    """Examine labels with predictions for them.

    The uncertainty of the predictions is calibrated on the same labels: as no prediction saw them, their errors are
    those of new data, and a Student t is not misled by a few labels that are wrong.

    Args:
        dataset: The N samples.
        predictions: Uncalibrated predictions for the same samples, by models that did not see their labels.
        skeleton: The K points of the predictions. The dataset's are matched by name.
        size: Height and width of the models' input.

    Returns:
        The suspicions, and the predictions in pixels of the images.

    Raises:
        KpnetError: There are fewer than 50 labelled points.
    """
    check_enough(int(predictions.visible.sum()))
    labels = np.full((len(dataset), len(skeleton), 2), np.nan)
    known = [name for name in skeleton.names if name in dataset.skeleton.names]
    own, ours = ([names.index(name) for name in known] for names in (dataset.skeleton.names, skeleton.names))
    for index in range(len(dataset)):
        labels[index, ours] = sample_points(dataset, index)[own]
    given = predictions.predicted
    calibration = fit_calibration(given, predictions.target, predictions.visible, size)
    calibrated = calibration(given, size)
    assert calibrated.confidence is not None
    points, covariance = to_image_pixels(calibrated, predictions.matrix, size)
    assert covariance is not None
    confidence = calibrated.confidence.double().numpy().copy()
    confidence[:, [k for k, name in enumerate(skeleton.names) if name not in known]] = 0
    found = find_suspicions(
        labels,
        points,
        covariance,
        calibration.dof,
        skeleton,
        confidence=confidence,
        images=[dataset.image_key(index) for index in range(len(dataset))],
    )
    return Examination(found, skeleton, points)


def check_enough(count: int, what: str = "labelled points") -> None:
    """Raise KpnetError if there are fewer than 50 labelled points, too few for the usual size of a model's errors."""
    if count < MIN_POINTS:
        raise KpnetError(
            f"{count} {what}; expected at least {MIN_POINTS}, from which the usual size of a model's errors is found"
        )


def mend(dataset: KeypointDataset, found: Iterable[Suspicion], skeleton: Skeleton) -> KeypointDataset:
    """Return a copy of the dataset in which the proposals of suspicions are the labels.

    Args:
        dataset: The samples.
        found: The suspicions to follow.
        skeleton: The points that the suspicions count.

    Returns:
        The copy. A label that moves to another point takes its visibility and its source along. One of the model's
        points keeps the visibility of the label that it replaces, is visible where there was none, and is a proposed
        one where the data state who made their points.

    Raises:
        KpnetError: The labels of such a dataset cannot be replaced.
    """
    every = range(len(dataset))
    labels = np.stack([sample_points(dataset, index) for index in every])
    visibility = np.stack([dataset.visibility(index) for index in every])
    stated = [sample_sources(dataset, index) for index in every]
    sources = np.stack([np.zeros(len(labels[i]), np.uint8) if s is None else s for i, s in enumerate(stated)])
    keys = [dataset.image_key(index) for index in every]
    made = {(keys[i], *labels[i, k]): (visibility[i, k], sources[i, k]) for i, k in np.ndindex(visibility.shape)}
    column = [dataset.skeleton.names.index(name) if name in dataset.skeleton.names else -1 for name in skeleton.names]
    for each in found:
        for k in each.points:
            if column[k] < 0:
                continue
            xy, place = each.proposal[k], (each.index, column[k])
            by_model = visibility[place] or 2, SOURCES.index(PROPOSED)
            there = bool(np.isfinite(xy).all())
            labels[place] = xy
            visibility[place], sources[place] = made.get((keys[each.index], *xy), by_model) if there else (0, 0)
    return dataset.replace_keypoints(labels, visibility, sources)
