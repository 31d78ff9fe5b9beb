"""The summary of held-out data, and the images that a report shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.shapes import NAMES, shapes_config, write_shapes

from kpnet import KpnetError, Predictor
from kpnet.config.loading import load_config
from kpnet.data.formats.coco import COCO
from kpnet.data.wrappers.scenes import Scenes
from kpnet.evaluation import watch as module
from kpnet.evaluation.watch import draw_strangest, summarise, watch_images
from kpnet.inference.inputs import find_images
from kpnet.inference.prediction import Prediction
from kpnet.models.build import build_model
from kpnet.models.watch import CONFIDENCE, EXPECTED


def model_of(way: str) -> Any:
    torch.manual_seed(0)
    values = load_config(shapes_config(Path("none.json"), None, way)).model.model_dump(mode="json")
    return build_model(values, skeleton=list(NAMES)).eval()


def mean_expected(prediction: Prediction) -> float:
    assert prediction.signals is not None
    return float(prediction.signals[:, EXPECTED].mean())


@pytest.mark.parametrize("way", ["two_stage", "centers"])
def test_instances_are_found_as_in_new_images(way: str, tmp_path: Path) -> None:
    """The held-out images are as strange as they are when they come again as a folder, without labels."""
    labels = write_shapes(tmp_path, [2, 1, 3, 1, 2, 2])
    model = model_of(way)
    data = COCO(labels)
    held_out = Scenes(data, size=model.config.input_size, in_channels=1) if way == "centers" else data
    model.watch_reference = reference = summarise(model, held_out)
    assert reference.images == len(reference.signals) == 6
    predictor, images = Predictor(model), find_images([tmp_path], [], finds=True)
    report = watch_images(predictor, images)
    assert report.verdict.images == 6
    predictor.keeps_signals = True
    found = predictor([image.load() for image in images])
    empty = [not len(each.keypoints) for each in found]
    assert (np.sort(reference.signals[:, CONFIDENCE].numpy()) == 0).sum() == sum(empty)
    expected = np.sort(reference.signals[:, EXPECTED].numpy())
    again = np.sort([np.nan if none else mean_expected(each) for each, none in zip(found, empty, strict=True)])
    np.testing.assert_allclose(again, expected, rtol=1e-3)
    assert draw_strangest(report, model.skeleton) is not None


def test_at_most_a_number_of_images_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IMAGES", 4)
    reference = summarise(model_of("centers"), COCO(write_shapes(tmp_path, [2] * 6)))
    assert len(reference.signals) == 4
    assert reference.images == 6


def test_one_image_is_no_held_out_data(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match="expected at least 2 held-out images to compare new ones with, found 1"):
        summarise(model_of("centers"), COCO(write_shapes(tmp_path, [2])))
