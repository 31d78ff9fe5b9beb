"""A model that is calibrated on held-out data, and measured on the same data by halves of the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.format_files import PICTURES, write_coco

from kpnet import build_model
from kpnet.data import SyntheticFaces
from kpnet.data.build import open_dataset
from kpnet.data.wrappers.scenes import Scenes
from kpnet.evaluation.cross_fitting import calibrate_model, first_half, image_of_rows
from kpnet.evaluation.measurement import predict_dataset

BACKBONE = {"name": "conv_sandwich", "channels": [4, 8]}


def test_the_samples_of_an_image_are_in_one_half(tmp_path: Path) -> None:
    """Whole images have as many predictions as instances, in the same order as their samples."""
    dataset = open_dataset(write_coco(tmp_path))
    images = image_of_rows(dataset)
    assert images.tolist() == [index for index, (*_, instances) in enumerate(PICTURES) for _ in instances]
    assert image_of_rows(Scenes(dataset, size=(32, 32))).tolist() == images.tolist()
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
