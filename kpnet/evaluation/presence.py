"""Points that are not there, for a calibration of presence on data that lacks them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from kpnet.data import KeypointDataset
from kpnet.data.wrappers.absences import Absences
from kpnet.data.wrappers.windows import Windows
from kpnet.evaluation.measurement import Predictions, predict_samples
from kpnet.heads import Keypoints
from kpnet.models.calibration import MIN_STATES
from kpnet.models.ensemble import Ensemble
from kpnet.models.exported import ExportedModel
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime


def with_absences(
    model: KeypointModel | ExportedModel | Ensemble,
    dataset: KeypointDataset,
    predictions: Predictions,
    batch_size: int = 64,
    test_time: TestTime | None = None,
) -> Predictions:
    """Return predictions with points that are not there, where the data has fewer than a calibration of presence needs.

    Each image is predicted once more, with a square of noise over one of its points or moved so that points leave it
    (`kpnet.data.wrappers.absences.Absences`). The copies say nothing of errors: their points do not count as labelled.

    Args:
        model: The model.
        dataset: The samples of the predictions.
        predictions: The predictions, uncalibrated.
        batch_size: Images per forward pass.
        test_time: Test-time views of the predictions.

    Returns:
        The predictions, with as many rows again for the copies; those given where the model predicts no presence, or
        the data has at least 20 points of both kinds.
    """
    if not lacks_a_kind(predictions):
        return predictions
    return with_copies(predictions, predict_absences(model, dataset, batch_size, test_time))


def first_rows(predictions: Predictions, count: int) -> Predictions:
    """Return the first predictions, which are those without the copies."""
    present = None if predictions.present is None else predictions.present[:count]
    return Predictions(
        predictions.predicted.map(lambda rows: rows[:count]),
        predictions.target[:count],
        predictions.visible[:count],
        predictions.matrix[:count],
        images=predictions.images[:count],
        present=present,
    )


def lacks_a_kind(predictions: Predictions) -> bool:
    """Return whether presence is predicted, and fewer than 20 points are there or fewer than 20 are known not to be."""
    present = predictions.present
    if predictions.predicted.presence is None or present is None:
        return False
    return int(min((present == 1).sum(), (present == 0).sum())) < MIN_STATES


def predict_absences(
    model: KeypointModel | ExportedModel | Ensemble,
    dataset: KeypointDataset,
    batch_size: int = 64,
    test_time: TestTime | None = None,
) -> Predictions:
    """Predict the copies of `Absences`; of the frames around a sample too, where the model sees them."""
    if isinstance(dataset, Windows):
        copies: KeypointDataset = Windows(Absences(dataset.dataset), dataset.window)
    else:
        copies = Absences(dataset)
    return predict_samples(model, copies, batch_size, test_time)


def with_copies(predictions: Predictions, copies: Predictions) -> Predictions:
    """Return predictions with those of the copies of their samples behind them, whose points are not labelled."""
    assert predictions.present is not None
    assert copies.present is not None
    joined = Keypoints.concatenate([predictions.predicted, copies.predicted])
    return Predictions(
        replace(joined, dof=predictions.predicted.dof),
        torch.cat([predictions.target, copies.target]),
        torch.cat([predictions.visible, torch.zeros_like(copies.visible)]),
        torch.cat([predictions.matrix, copies.matrix]),
        images=np.tile(predictions.images, 2),
        present=torch.cat([predictions.present, copies.present]),
    )
