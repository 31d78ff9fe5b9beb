"""Points that are not there, added to predictions where the data lacks them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.recipes import SANDWICH

from kpnet import build_model, evaluate
from kpnet.data import SyntheticFaces
from kpnet.data.wrappers.windows import Windows
from kpnet.evaluation.measurement import predict_samples
from kpnet.evaluation.presence import predict_absences, with_absences

SIZE: dict[str, Any] = {"image_size": (32, 32), "in_channels": 1}


def faces_and_model(presence: bool = True) -> Any:
    torch.manual_seed(0)
    model = build_model(
        backbone=SANDWICH, head="simcc", in_channels=1, input_size=32, skeleton="facial15", presence=presence
    )
    return SyntheticFaces(6, **SIZE), model.eval()


def test_copies_give_the_kind_that_the_data_lacks() -> None:
    faces, model = faces_and_model()
    plain = predict_samples(model, faces)
    assert plain.present is not None
    assert (plain.present == 1).all()
    both = with_absences(model, faces, plain)
    assert both.present is not None
    assert len(both.target) == len(both.predicted.keypoints) == 12
    assert torch.equal(both.predicted.keypoints[:6], plain.predicted.keypoints)
    assert torch.equal(both.visible[:6], plain.visible)
    assert not both.visible[6:].any()
    assert (both.present[6:] == 0).any()
    assert "present" not in faces[0]


def test_data_with_both_kinds_and_models_without_presence_stay_as_they_are() -> None:
    faces, model = faces_and_model()
    plain = predict_samples(model, faces)
    assert plain.present is not None
    plain.present[:, :4] = 0
    assert with_absences(model, faces, plain) is plain
    faces, model = faces_and_model(presence=False)
    plain = predict_samples(model, faces)
    assert plain.present is None
    assert with_absences(model, faces, plain) is plain


def test_evaluate_measures_presence_where_the_data_has_both_kinds() -> None:
    faces, model = faces_and_model()
    assert "presence" not in evaluate(model, faces)

    class HalfHidden(SyntheticFaces):
        def visibility(self, index: int) -> Any:
            return super().visibility(index) - (index % 2)

    measures = evaluate(model, HalfHidden(6, **SIZE))
    assert measures["presence"]["there"] == measures["presence"]["absent"] == 45
    assert measures["presence"]["auc"] == pytest.approx(0.5)  # an untrained model says 0.5 of all
    right = [row["right"] for row in measures["reliability"]["diagram"]["5%"]]
    assert max(right) <= 0.5


def test_copies_for_a_model_of_several_frames_have_as_many() -> None:
    faces = SyntheticFaces(6, **SIZE)
    head = {"name": "temporal", "head": "heatmap", "past": 2}
    model = build_model(
        backbone=SANDWICH, head=head, in_channels=1, input_size=32, skeleton="facial15", presence=True
    ).eval()
    shapes = []
    seen = model._predict

    def predict(images: torch.Tensor) -> Any:
        shapes.append(tuple(images.shape))
        return seen(images)

    model._predict = predict  # type: ignore[method-assign]
    assert len(predict_absences(model, Windows(faces, model.frame_window)).target) == 6
    assert shapes == [(6, 1 + sum(model.frame_window), 1, 32, 32)]
