"""Errors in pixels of the original images, whatever the model's input is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.console import Run
from support.format_files import PICTURES, write_coco
from support.shapes import NAMES, write_shapes
from torch import Tensor

from kpnet import KpnetError, build_model, coordinates
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset
from kpnet.data.build import open_dataset
from kpnet.data.cropping import Cropper
from kpnet.data.wrappers.scenes import Scenes
from kpnet.evaluation.measurement import evaluate, image_numbers, predict_samples
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.heads import Keypoints

OFF = np.array([[3.0, -4.0], [0.0, 1.0]])  # original pixels
SKELETON = Skeleton.from_names(["a", "b"])


class Images(KeypointDataset):
    """Images of different sizes, with two points and a box each."""

    skeleton = SKELETON
    sizes: tuple[tuple[int, int], ...] = ((40, 60), (96, 96), (150, 70), (33, 31))

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.sizes[index]
        points = np.array([[0.4 * width, 0.5 * height], [0.6 * width, 0.4 * height]])
        if index == 2:
            points[1] = np.nan
        return np.full((height, width), index, np.uint8), points

    def box(self, index: int) -> np.ndarray:
        height, width = self.sizes[index]
        return np.array([0.2 * width, 0.1 * height, 0.8 * width, 0.9 * height])


def answering(data: Images, size: tuple[int, int]) -> Any:
    """A model that is off by OFF original pixels in each image; confident of its first point."""
    model = build_model(
        backbone={"name": "conv_sandwich", "channels": [4]},
        head={"name": "regression"},
        in_channels=1,
        input_size=size,
        skeleton=list(SKELETON.names),
    )

    def infer(images: Tensor, test_time: object = None) -> Keypoints:
        answers = []
        for index in (images.amax((1, 2, 3)) * 255).round().int().tolist():
            _, _, matrix = data.sample_pixels(index)
            place = coordinates.transform(np.nan_to_num(data.read(index)[1]) + OFF, matrix)
            answers.append(coordinates.pixel_to_normalized(place, size))
        xy = torch.from_numpy(np.stack(answers)).float()
        return Keypoints(xy, torch.tensor([0.9, 0.2]).expand(len(xy), 2), None)

    model.infer = infer  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("cropper", [None, Cropper("box"), Cropper("points")])
@pytest.mark.parametrize("size", [(32, 32), (64, 48)])
def test_errors_of_the_originals(cropper: Cropper | None, size: tuple[int, int]) -> None:
    data = Images(image_size=size)
    data.cropper = cropper
    original = evaluate(answering(data, size), data, min_confidence=0.5)["image_pixels"]
    assert original["points"] == 7
    assert original["mre_px"] == pytest.approx((4 * 5 + 3 * 1) / 7, abs=1e-3)
    assert original["rmse_px"] == pytest.approx(np.sqrt((4 * 25 + 3 * 1) / 14), abs=1e-3)
    assert original["per_point"]["a"] == {
        "rmse_px": pytest.approx(np.sqrt(12.5), abs=1e-3),
        "mre_px": pytest.approx(5, abs=1e-3),
        "points": 4,
    }
    assert original["confident"]["points"] == 4
    assert original["confident"]["mre_px"] == pytest.approx(5, abs=1e-3)
    assert original["confident"]["per_point"]["b"]["points"] == 0


def test_images_of_the_models_size_are_the_originals() -> None:
    class Same(Images):
        sizes = ((32, 32),)

    data = Same(image_size=(32, 32))
    assert "image_pixels" not in evaluate(answering(data, (32, 32)), data)


def test_a_head_without_confidence_has_none_to_cut_off() -> None:
    model = build_model(backbone="conv_sandwich", head="regression", num_keypoints=2, in_channels=1, input_size=32)
    data = Images(image_size=(32, 32))
    model.skeleton = SKELETON
    with pytest.raises(KpnetError, match="min_confidence: this head gives no confidence"):
        evaluate(model, data, min_confidence=0.5)


def test_the_command(kpnet: Run, trained: Path) -> None:
    measures = json.loads(kpnet("evaluate", trained, "--json", "--min-confidence", 0, "--failure-threshold", 0.08).out)
    assert measures["failure_threshold"] == 0.08
    assert measures["ced_curve"]["threshold"][-1] == pytest.approx(0.08)
    assert measures["image_pixels"]["mre_px"] == pytest.approx(measures["mre_px"], rel=1e-6)
    assert measures["image_pixels"]["confident"]["points"] == measures["points"]
    told = kpnet("evaluate", trained, "--min-confidence", 0.5).out
    assert "in pixels of the original images, confident points only" in told


def test_predictions_know_the_image_of_each_instance(tmp_path: Path) -> None:
    """Samples of one image are known by it; whole images have a row for each instance, also where one leaves them."""
    dataset = open_dataset(write_coco(tmp_path / "coco"))
    assert image_numbers(dataset).tolist() == [n for n, (*_, instances) in enumerate(PICTURES) for _ in instances]
    model = build_model(
        backbone="conv_sandwich", head="centers", skeleton=list(NAMES), in_channels=3, input_size=64
    ).eval()
    scenes = evaluation_dataset(None, write_shapes(tmp_path / "shapes", [2, 0, 3]), model)
    assert isinstance(scenes, Scenes)
    assert predict_samples(model, scenes).images.tolist() == [0, 0, 1, 1, 1]


def test_the_instances_of_an_image_are_drawn_together_wherever_intervals_are_made(tmp_path: Path) -> None:
    """Nine images of one instance, of three: too few for intervals, though there are 27 instances."""
    model = build_model(
        backbone={"name": "conv_sandwich", "channels": [4, 8]}, head="heatmap", skeleton=list(NAMES), in_channels=3,
        input_size=(32, 32),
    ).eval()  # fmt: skip
    few, enough = (
        evaluate(model, write_shapes(tmp_path / str(count), [3] * count))  # a sample for each instance
        for count in (9, 12)
    )
    assert few["intervals"] == {}
    assert enough["intervals"]
    assert (few["images"], few["samples"]) == (9, 27)
