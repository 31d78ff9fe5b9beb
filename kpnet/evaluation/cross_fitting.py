"""Calibrate a model on held-out data, and measure on the same data what the calibration is worth."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.data import KeypointDataset
from kpnet.evaluation.found import calibrate_found, cross_fit_found, find_in, measure_found, scenes_of
from kpnet.evaluation.measurement import Predictions
from kpnet.evaluation.presence import with_absences
from kpnet.evaluation.reliability import cross_fit_presence, measure_cross_fitted, measure_presence
from kpnet.models.calibration import fit_calibration
from kpnet.models.keypoint_model import KeypointModel


class Fitted(NamedTuple):
    """What came of calibrating a model.

    Attributes:
        measures: `reliability` and `presence` of the points and `instances`, as `kpnet.evaluate` returns them,
            cross-fitted; what could not be calibrated, or not be measured so, is absent.
        points: Number of labelled points that the calibration was fitted to; 0 without one.
        instances: Number of instances that the calibration of their scores was fitted to; 0 without one.
        problems: Why something was not calibrated, or not measured.
    """

    measures: dict[str, Any]
    points: int
    instances: int
    problems: list[str]

    def describe(self) -> str:
        """Return what was calibrated, and what not, as one sentence without its end."""
        parts = [f"{self.points} points"] if self.points else []
        parts += [f"{self.instances} instances"] if self.instances else []
        done = f"calibrated on {' and '.join(parts)}" if parts else "not calibrated"
        return "; ".join([done, *self.problems])


def calibrate_model(
    model: KeypointModel, dataset: KeypointDataset, predictions: Predictions, *, batch_size: int = 64
) -> Fitted:
    """Calibrate a model in place, as far as the data suffice.

    Args:
        model: The model; a calibration that it has is replaced.
        dataset: Images that the model was not trained on.
        predictions: What the model predicts for them, uncalibrated, as `predict_dataset` returns it.
        batch_size: Images per forward pass, for a model that finds instances.

    Returns:
        What was fitted, and its measures.
    """
    model.calibration = model.instance_calibration = None
    measures: dict[str, Any] = {}
    problems: list[str] = []
    size = model.config.input_size
    try:
        if predictions.predicted.covariance is None:
            raise KpnetError("calibration: the head predicts no spread; kpnet calibrate gives all points the same")
        known = with_absences(model, dataset, predictions, batch_size)
        given = (known.predicted, known.target, known.visible, size)
        model.calibration = fit_calibration(*given, present=known.present)
        half, count = first_half(predictions.images), len(predictions.target)
        measures["reliability"] = measure_cross_fitted(*given, half, known.present, predictions.images)
        if known.predicted.presence is not None and known.present is not None:
            presence = cross_fit_presence(known.predicted.presence, known.present, half)
            measured_presence = measure_presence(presence[:count], known.present[:count])  # without copies
            measures |= {} if measured_presence is None else {"presence": measured_presence}
    except KpnetError as error:
        problems.append(_problem(error, model.calibration is not None))
    if model.finds_instances:
        scenes = scenes_of(model, dataset)
        # The confidence of the points is calibrated already.
        found = find_in(model, scenes, batch_size)
        measured = measure_found(model, scenes, found)
        try:
            model.instance_calibration = calibrate_found(found, scenes)
            halves = first_half(np.arange(len(scenes)))
            measured = measure_found(model, scenes, cross_fit_found(found, scenes, halves.tolist()))
        except KpnetError as error:
            fitted = model.instance_calibration
            problems.append(_problem(error, fitted is not None))
            if fitted is not None:
                measured = {**measure_found(model, scenes, [fitted(each) for each in found]), "reliability": {}}
        measures["instances"] = measured
    return Fitted(
        measures,
        0 if model.calibration is None else model.calibration.points,
        0 if model.instance_calibration is None else model.instance_calibration.instances,
        problems,
    )


def first_half(images: np.ndarray) -> np.ndarray:
    """Split images into two halves, the same ones each time.

    Args:
        images: Number of the image of each prediction, int (N,).

    Returns:
        Which predictions are of the first half, bool (N,).
    """
    every = np.unique(images)
    order = np.random.default_rng(0).permutation(every)
    return np.isin(images, order[::2])


def _problem(error: KpnetError, fitted: bool) -> str:
    return f"too few to measure the calibration ({error})" if fitted else str(error)
