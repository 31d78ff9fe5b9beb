"""A model that is calibrated on held-out data, and measured on the same data by halves of the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpnet import build_model
from kpnet.data import SyntheticFaces
from kpnet.evaluation.cross_fitting import calibrate_model, first_half
from kpnet.evaluation.measurement import predict_dataset
from kpnet.evaluation.reliability import measure_presence

BACKBONE = {"name": "conv_sandwich", "channels": [4, 8]}


def test_the_samples_of_an_image_are_in_one_half() -> None:
    half = first_half(np.repeat(np.arange(9), 4)).reshape(9, 4)
    assert (half == half[:, :1]).all()
    assert half[:, 0].sum() in (4, 5)


@pytest.mark.parametrize(
    ("head", "count", "said"),
    [
        ("heatmap", 3, "not calibrated; calibration: expected at least 50 labelled points, found 45"),
        ("heatmap", 6, "calibrated on 90 points; too few to measure the calibration (calibration: expected at least"),
        ("regression", 8, "not calibrated; calibration: the head predicts no spread"),
    ],
)
def test_what_cannot_be_calibrated_or_measured_is_said(head: str, count: int, said: str) -> None:
    model = build_model(backbone=BACKBONE, head=head, num_keypoints=15, in_channels=1, input_size=(32, 32))
    faces = SyntheticFaces(count, image_size=(32, 32))
    found = calibrate_model(model, faces, predict_dataset(model, faces))
    assert found.describe().startswith(said)
    assert found.measures == {}
    assert (model.calibration is not None) == (found.points > 0) == (count == 6)


def test_presence_is_measured_by_halves_too() -> None:
    class HalfHidden(SyntheticFaces):
        def visibility(self, index: int) -> np.ndarray:
            return super().visibility(index) - (np.arange(15) % 2).astype(np.uint8)

    torch.manual_seed(0)
    model = build_model(
        backbone=BACKBONE, head="heatmap", skeleton="facial15", in_channels=1, input_size=(32, 32), presence=True
    ).eval()
    assert model.presence is not None
    model.presence.bias.data = 1 - 2 * (torch.arange(15) % 2).float() + 0.5
    faces = HalfHidden(20, image_size=(32, 32))
    predictions = predict_dataset(model, faces)
    found = calibrate_model(model, faces, predictions)
    assert predictions.predicted.presence is not None
    assert predictions.present is not None
    before = measure_presence(predictions.predicted.presence, predictions.present)
    assert before is not None
    assert found.measures["presence"]["auc"] == before["auc"] == 1
    assert found.measures["presence"]["ece"] < 0.05 < before["ece"]
