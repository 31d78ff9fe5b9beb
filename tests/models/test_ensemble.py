"""Several models as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kpnet import KeypointModel, Predictor, build_model
from kpnet.core.errors import KpnetError
from kpnet.heads import Keypoints
from kpnet.models.calibration import Calibration
from kpnet.models.ensemble import Ensemble, load_ensemble
from kpnet.models.test_time import average
from kpnet.uncertainty import probability_within


def model(seed: int, **other: Any) -> KeypointModel:
    torch.manual_seed(seed)
    keywords = {"head": "heatmap", "num_keypoints": 3, "in_channels": 1, "input_size": 32}
    return build_model(backbone="conv_sandwich", **{**keywords, **other}).eval()


def test_the_prediction_is_the_mean_and_doubt_grows_with_distance() -> None:
    a, b = model(0), model(1)
    images = torch.rand(2, 1, 32, 32)
    both = Ensemble([a, b]).infer(images)
    one, other = a.infer(images), b.infer(images)
    torch.testing.assert_close(both.keypoints, (one.keypoints + other.keypoints) / 2)
    torch.testing.assert_close(Ensemble([a, b])(images), both.keypoints)
    assert both.covariance is not None
    assert one.covariance is not None
    assert other.covariance is not None
    within = (one.covariance + other.covariance) / 2
    between = both.covariance - within
    assert both.confidence is not None
    expected = probability_within(both.covariance, 0.05, (32, 32))
    torch.testing.assert_close(both.confidence, expected)
    apart = (one.keypoints - other.keypoints) / 2
    torch.testing.assert_close(between, apart[..., :, None] * apart[..., None, :], atol=1e-6, rtol=1e-4)


def test_two_sure_models_that_disagree_are_not_sure() -> None:
    def sure(x: float) -> Keypoints:
        return Keypoints(torch.tensor([[[x, 0.0]]]), torch.tensor([[0.99]]), 1e-4 * torch.eye(2).view(1, 1, 2, 2))

    both = average([sure(-0.4), sure(0.4)], (32, 32))
    assert both.confidence is not None
    assert both.confidence.item() < 0.3


def test_maps_of_two_sizes_are_left_out() -> None:
    a, b = model(0), model(1, head={"name": "offset", "stride": 8})
    images = torch.rand(2, 1, 32, 32)
    assert Ensemble([a, b]).infer(images).heatmaps is None
    assert Ensemble([a, model(1)]).infer(images).heatmaps is not None


def test_calibrated_models_keep_to_themselves() -> None:
    a, b = model(0), model(1)
    a.calibration = Calibration([0.0] * 3, 1.0, 4.0, 100)
    with pytest.raises(KpnetError, match="calibrate all of them or none"):
        Ensemble([a, b])
    b.calibration = Calibration([0.0] * 3, 1.0, 12.0, 100)
    assert Ensemble([a, b]).infer(torch.rand(1, 1, 32, 32)).dof == pytest.approx(6)


def test_a_predictor_of_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        model(seed).save(tmp_path / str(seed))
    image = np.random.default_rng(0).integers(0, 255, (50, 40), dtype=np.uint8)
    runs: list[KeypointModel | str | Path] = [tmp_path / "0", str(tmp_path / "1")]
    single = [Predictor(run)(image).keypoints for run in runs]
    np.testing.assert_allclose(Predictor(runs)(image).keypoints, (single[0] + single[1]) / 2, atol=1e-4)
    assert isinstance(load_ensemble(runs[0]), KeypointModel)
    ensemble = load_ensemble(runs)
    assert load_ensemble(ensemble) is ensemble


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_keypoints": 4}, "the same points"),
        ({"input_size": 64}, r"the same input size: found \(32, 32\) and \(64, 64\)"),
        ({"in_channels": 3}, "the same channels: found 1 and 3"),
    ],
)
def test_models_that_do_not_go_together(other: dict[str, Any], message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        Ensemble([model(0), model(1, **other)])
    with pytest.raises(KpnetError, match="at least one model"):
        Ensemble([])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: torch.compile(m, backend="eager"),
        torch.nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        lambda m: torch.nn.DataParallel(torch.compile(m, backend="eager")),  # type: ignore[type-var]
    ],
    ids=["compiled", "DataParallel", "averaged", "both"],
)
def test_torchs_wrappers_are_taken(wrap: Any) -> None:
    inner = model(0)
    image = np.full((32, 32), 7, np.uint8)
    expected = Predictor(inner)(image).keypoints
    assert np.array_equal(Predictor(wrap(inner))(image).keypoints, expected)
    assert np.array_equal(Predictor([wrap(inner), inner])(image).keypoints, expected)


@pytest.mark.parametrize(
    "other", [torch.nn.Linear(1, 1), 3, None, torch.nn.DataParallel(torch.nn.Linear(1, 1))], ids=str
)
def test_what_is_no_model(other: Any) -> None:
    with pytest.raises(KpnetError, match="expected a keypoint model, or the folder of one, found a "):
        load_ensemble(other)
