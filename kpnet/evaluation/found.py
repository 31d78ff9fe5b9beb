"""What a model finds in whole images without being given a box, measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from kpnet.data.base import KeypointDataset
from kpnet.data.wrappers.scenes import Scenes
from kpnet.evaluation.instances import evaluate_instances
from kpnet.evaluation.matching import match_instances
from kpnet.inference.instances import instance_limits
from kpnet.inference.prediction import Prediction
from kpnet.inference.predictor import Predictor
from kpnet.models.ensemble import Ensemble
from kpnet.models.exported import ExportedModel
from kpnet.models.instance_calibration import CANDIDATES, InstanceCalibration, fit_instance_calibration
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime
from kpnet.oks import sigmas_of


class FoundScenes(NamedTuple):
    """What a model found in whole images.

    Attributes:
        scenes: The images and what is on them.
        found: What was found in each, down to scores of 0.05.
        measures: The measures of `kpnet.evaluation.instances.evaluate_instances`.
    """

    scenes: Scenes
    found: list[Prediction]
    measures: dict[str, Any]


def scenes_of(model: KeypointModel | ExportedModel | Ensemble, dataset: KeypointDataset) -> Scenes:
    """Return the whole images of a dataset.

    Args:
        model: A model that finds instances.
        dataset: Its samples, or its whole images already.
    """
    if isinstance(dataset, Scenes):
        return dataset
    return Scenes(dataset, size=model.config.input_size, in_channels=model.config.in_channels)


def find_in(
    model: KeypointModel | ExportedModel | Ensemble,
    scenes: Scenes,
    batch_size: int = 32,
    test_time: TestTime | None = None,
) -> list[Prediction]:
    """Find the instances of whole images, those of low scores too, down to 0.05.

    Args:
        model: A model that finds instances; it stays on its device.
        scenes: The images.
        batch_size: Images, or crops, per forward pass.
        test_time: Average over mirrored, scaled and shifted views.

    Returns:
        What was found in each image.
    """
    predictor = Predictor(model, batch_size=batch_size, test_time=test_time, threshold=CANDIDATES)
    images = ((scenes.image_name(index), scenes.image(index), None) for index in range(len(scenes)))
    return list(predictor.stream(images))


def score_threshold(model: KeypointModel | ExportedModel | Ensemble) -> float:
    """Return the score from which on what a model finds counts as an instance: the calibration's, or its head's."""
    calibration = model.instance_calibration
    if calibration is not None:
        return float(calibration.threshold)
    return float(instance_limits(model).threshold)


def find_and_measure(
    model: KeypointModel | ExportedModel | Ensemble,
    dataset: KeypointDataset,
    batch_size: int = 32,
    test_time: TestTime | None = None,
    nme: str | tuple[str, str] | None = None,
) -> FoundScenes:
    """Find the instances of a dataset's whole images without being given a box, and measure them.

    Args:
        model: A model that finds instances; it stays on its device.
        dataset: Its samples, or its whole images already.
        batch_size: Images, or crops, per forward pass.
        test_time: Average over mirrored, scaled and shifted views.
        nme: What the NME divides by, as in `evaluate_instances`.

    Returns:
        The images, what was found in them, and the measures.

    Raises:
        KpnetError: No image has an instance with a labelled point.
    """
    scenes = scenes_of(model, dataset)
    found = find_in(model, scenes, batch_size, test_time)
    return FoundScenes(scenes, found, measure_found(model, scenes, found, nme))


def measure_found(
    model: KeypointModel | ExportedModel | Ensemble,
    scenes: Scenes,
    found: Sequence[Prediction],
    nme: str | tuple[str, str] | None = None,
) -> dict[str, Any]:
    """Measure what a model found in whole images.

    Args:
        model: The model, whose threshold says from which score on an instance counts as found.
        scenes: The images and what is on them.
        found: What `find_in` returned for them.
        nme: What the NME divides by, as in `evaluate_instances`.

    Returns:
        The measures of `kpnet.evaluation.instances.evaluate_instances`.

    Raises:
        KpnetError: No image has an instance with a labelled point.
    """
    truth = [scenes.truth(index) for index in range(len(scenes))]
    return evaluate_instances(found, truth, model.skeleton, threshold=score_threshold(model), nme=nme)


def calibrate_found(found: Sequence[Prediction], scenes: Scenes) -> InstanceCalibration:
    """Fit the calibration of a model's scores.

    Args:
        found: What `find_in` returned for the model without a calibration of its instances.
        scenes: Images that the model was not trained on.

    Returns:
        The calibration.

    Raises:
        KpnetError: There are fewer than 20 instances, or none of them was found.
    """
    return _fit(found, scenes, range(len(scenes)))


def cross_fit_found(found: Sequence[Prediction], scenes: Scenes, first: Sequence[bool]) -> list[Prediction]:
    """Calibrate what was found in each half of the images by the fit to the other half.

    Args:
        found: What `find_in` returned for the model without a calibration of its instances.
        scenes: The images.
        first: Which of them are of the first half.

    Returns:
        The calibrated predictions, in the order of the images.

    Raises:
        KpnetError: A half has fewer than 20 instances, or none of them was found.
    """
    halves = [[index for index, each in enumerate(first) if each == side] for side in (True, False)]
    of_first, of_second = (_fit(found, scenes, half) for half in halves)
    return [(of_second if here else of_first)(each) for each, here in zip(found, first, strict=True)]


def _fit(found: Sequence[Prediction], scenes: Scenes, images: Sequence[int]) -> InstanceCalibration:
    truth = [scenes.truth(index) for index in images]
    matches = match_instances([found[index] for index in images], truth, sigmas_of(scenes.skeleton))
    score, confidence, right, oks = (
        each[matches.counted] for each in (matches.score, matches.confidence, matches.right, matches.oks)
    )
    return fit_instance_calibration(score, confidence, right, oks, len(matches.instances))
