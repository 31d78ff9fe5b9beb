"""What radii hold, on distances that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpnet import build_model
from kpnet.data import SyntheticFaces
from kpnet.evaluation.guarantee import cross_fitted_coverage, guarantee_model, inside_radii
from kpnet.heads import Keypoints
from kpnet.models.calibration import Calibration
from kpnet.models.guarantee import fit_guarantee

SIZE = (96, 96)


def test_which_points_lie_inside_of_their_radii() -> None:
    """An error of a tenth of the side is 0.2 in normalised units."""
    predicted = Keypoints(torch.zeros(2, 3, 2))
    target = torch.zeros(2, 3, 2)
    target[..., 0] = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.1, 0.3]])
    visible = torch.tensor([[True, True, True], [False, True, True]])
    predicted.radius = torch.tensor([[0.06, 0.11, 0.14], [1.0, 0.04, 0.16]])
    predicted.joint_radius = torch.tensor([[0.2, 0.2, 0.14], [0.1, 0.1, 0.16]])
    inside, counted = inside_radii(predicted, target, visible, SIZE)
    assert inside.tolist() == [[True, True, False, False], [False, False, True, True]]
    assert counted.tolist() == [[True, True, True, True], [False, True, True, True]]


def test_half_of_the_images_measures_the_other_half() -> None:
    """Errors are normal, three rows are of one image each, and the second point is in too few images of a half."""
    g = torch.Generator().manual_seed(0)
    spread = 0.01 + 0.05 * torch.rand(900, 2, generator=g)
    covariance = torch.diag_embed(spread.square()[..., None].expand(-1, -1, 2))
    predicted = Keypoints(torch.rand(900, 2, 2, generator=g), covariance=covariance)
    target = predicted.keypoints + spread[..., None] * torch.randn(900, 2, 2, generator=g)
    visible = torch.ones(900, 2, dtype=torch.bool)
    visible[12:, 1] = False
    images = np.arange(900) // 3
    fitted = fit_guarantee(predicted, target, visible, SIZE, 0.9)
    found = cross_fitted_coverage(fitted, predicted, target, visible, SIZE, images, ["a", "b"])
    assert found["points"]["measured"] == pytest.approx(0.9, abs=0.03)
    assert found["points"]["low"] < found["points"]["measured"] < found["points"]["high"]
    assert found["per_point"]["a"]["points"] == 900
    assert found["per_point"]["b"]["points"] < 12
    assert found["joint"]["points"] == 900
    for by in ("size", "confidence"):
        assert sum(each["points"] for each in found[by].values()) == found["points"]["points"]
        assert all(each["measured"] == pytest.approx(0.9, abs=0.05) for each in found[by].values())
    assert list(found["size"]) == ["small", "medium", "large"]


def test_a_model_is_given_radii_of_its_own_spread() -> None:
    model = build_model(
        backbone={"name": "conv_sandwich", "channels": [4, 8]},
        head={"name": "heatmap", "decoder": {"name": "top_down", "width": 8}},
        skeleton="facial15",
        in_channels=1,
        input_size=48,
    ).eval()
    faces = SyntheticFaces(24, image_size=(48, 48), in_channels=1)
    measured = guarantee_model(model, faces, 0.8)
    first = model.guarantee
    assert first is not None
    assert set(measured["radius_px"]) == set(model.skeleton.names)
    assert measured["coverage"]["points"]["measured"] == pytest.approx(0.8, abs=0.15)
    assert measured["joint_radius_px"] > 0
    model.calibration = calibration = Calibration([3.0] * 15, 0.5, 4.0, 60)
    guarantee_model(model, faces, 0.8)  # of the raw spread, whatever the calibration
    assert model.guarantee == first
    assert model.calibration is calibration
    batch = {name: torch.stack([faces[i][name] for i in range(24)]) for name in ("image", "keypoints", "visible")}
    inside, counted = inside_radii(model.infer(batch["image"]), batch["keypoints"], batch["visible"], (48, 48))
    assert counted.all()
    # Of its own 24 it holds ceil(25 * 0.8), of which the last lies on its circle, up to rounding.
    assert all(count in (19, 20) for count in inside.sum(0).tolist())
