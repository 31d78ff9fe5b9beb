"""A model's measures on a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kpnet.data import KeypointDataset
from kpnet.ensemble import Ensemble
from kpnet.errors import KpnetError
from kpnet.heads import Keypoints
from kpnet.metrics import evaluate_points
from kpnet.model import KeypointModel
from kpnet.reliability import measure_reliability
from kpnet.testtime import TestTime


@dataclass
class Answers:
    """A model's answer to N samples, without its maps, beside the truth (N, K, 2) and visible (N, K); on the CPU."""

    answer: Keypoints
    target: Tensor
    visible: Tensor


def answer_dataset(
    model: KeypointModel | Ensemble,
    dataset: KeypointDataset,
    batch_size: int = 64,
    test_time: TestTime | None = None,
) -> Answers:
    """A KpnetError where the data has no labelled point."""
    device = next(model.parameters()).device
    answers, targets, visible = [], [], []
    for batch in DataLoader(dataset, batch_size=batch_size):
        answers.append(model.infer(batch["image"].to(device), test_time))
        targets.append(batch["keypoints"])
        visible.append(batch["visible"])
    if not any(v.any() for v in visible):
        raise KpnetError("nothing to evaluate: the data has no labelled point")
    xy, confidence, covariance = (
        None if getattr(answers[0], name) is None else torch.cat([getattr(a, name).cpu() for a in answers])
        for name in ("keypoints", "confidence", "covariance")
    )
    assert xy is not None
    whole = Keypoints(xy, confidence, covariance, tail=answers[0].tail)
    return Answers(whole, torch.cat(targets), torch.cat(visible))


def evaluate(
    model: KeypointModel | Ensemble,
    dataset: KeypointDataset,
    batch_size: int = 64,
    test_time: TestTime | None = None,
    nme: str | tuple[str, str] | None = None,
) -> dict[str, Any]:
    """`metrics.evaluate_points` of a model on labelled data; pixels are those of the model's input.

    With `reliability`, as `reliability.measure_reliability` gives it, where the model has a covariance.
    """
    return measure_answers(answer_dataset(model, dataset, batch_size, test_time), model, nme)


def measure_answers(
    result: Answers, model: KeypointModel | Ensemble, nme: str | tuple[str, str] | None = None
) -> dict[str, Any]:
    """As `evaluate`, of answers that are there."""
    size = model.config.input_size
    measures = evaluate_points(result.answer.keypoints, result.target, result.visible, model.skeleton, size, nme=nme)
    if result.answer.covariance is not None:
        measures["reliability"] = measure_reliability(result.answer, result.target, result.visible, size)
    return measures
