"""A model's measures on a dataset."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kpnet.data import KeypointDataset
from kpnet.errors import KpnetError
from kpnet.metrics import evaluate_points
from kpnet.model import KeypointModel


def predict_dataset(model: KeypointModel, dataset: KeypointDataset, batch_size: int = 64) -> dict[str, Tensor]:
    """`predicted`, `keypoints` (N, K, 2) normalised, `visible` (N, K), and `confidence` (N, K) if the head has one."""
    device = next(model.parameters()).device
    parts: dict[str, list[Tensor]] = {"predicted": [], "keypoints": [], "visible": [], "confidence": []}
    for batch in DataLoader(dataset, batch_size=batch_size):
        answer = model.infer(batch["image"].to(device))
        parts["predicted"].append(answer.keypoints.cpu())
        if answer.confidence is not None:
            parts["confidence"].append(answer.confidence.cpu())
        parts["keypoints"].append(batch["keypoints"])
        parts["visible"].append(batch["visible"])
    return {name: torch.cat(tensors) for name, tensors in parts.items() if tensors}


def evaluate(model: KeypointModel, dataset: KeypointDataset, batch_size: int = 64) -> dict[str, Any]:
    """`metrics.evaluate_points` of a model on labelled data; pixels are those of the model's input."""
    result = predict_dataset(model, dataset, batch_size)
    if not result["visible"].any():
        raise KpnetError("nothing to evaluate: the data has no labelled point")
    size = model.config.input_size
    return evaluate_points(result["predicted"], result["keypoints"], result["visible"], model.skeleton, size)
