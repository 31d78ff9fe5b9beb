"""Measures against numpy, closed forms, and the course's own loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.four_points import PAIR, PLAIN, SIZE, by_numpy, example
from torch import Tensor
from torch.utils.data import DataLoader

from kpnet import metrics
from kpnet.core.skeleton import Skeleton
from kpnet.metrics import evaluate_in_image_pixels, evaluate_points, rmse


@pytest.mark.parametrize("skeleton", [PAIR, PLAIN])
def test_every_measure_against_numpy(skeleton: Skeleton) -> None:
    predicted, target, visible = example()
    found = evaluate_points(predicted, target, visible, skeleton, SIZE)
    expected = by_numpy(predicted, target, visible, skeleton is PAIR)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
    assert found["samples"] == 7
    assert 0 < found["pck@5%"] < found["pck@10%"] < 1  # the example tells the thresholds apart
    assert 0 < found["failure_rate"] < 1 or skeleton is PLAIN
    for k, name in enumerate(skeleton.names):
        one = by_numpy(predicted[:, [k]], target[:, [k]], visible[:, [k]], pair=False)
        row = found["per_point"][name]
        assert row == pytest.approx({key: one[key] for key in ("rmse_px", "mre_px", "pck@5%", "points")}, rel=1e-6)


def test_three_names_for_three_errors() -> None:
    """3 px right and 4 px down: 5 px of radius, sqrt(12.5) px of RMSE per coordinate."""
    target = torch.zeros(1, 4, 2)
    target[0, 1, 0] = 50 / 64  # the eyes are 50 px apart
    predicted = target + torch.tensor([3 / 64, 4 / 48])
    found = evaluate_points(predicted, target, torch.ones(1, 4, dtype=torch.bool), PAIR, SIZE)
    assert found["mre_px"] == pytest.approx(5, rel=1e-5)
    assert found["rmse_px"] == pytest.approx(math.sqrt(12.5), rel=1e-5)
    assert found["nme"] == pytest.approx(5 / 50, rel=1e-5)
    assert found["pck@5%"] == 1


def test_the_score_is_the_courses() -> None:
    """Its loop as the slide gives it: batches of one, MSELoss, 1 / (2 mean)."""
    g = torch.Generator().manual_seed(0)
    images, target = torch.rand(9, 1, 4, 4, generator=g), torch.rand(9, 15, 2, generator=g) * 2 - 1
    predicted = target + 0.1 * torch.randn(9, 15, 2, generator=g)
    answers = {image.sum().item(): p for image, p in zip(images, predicted, strict=True)}

    class Model(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return answers[image[0].sum().item()][None]

    model = Model()
    dataset = [{"image": i, "keypoints": k} for i, k in zip(images, target, strict=True)]
    model.eval()
    criterion = torch.nn.MSELoss()
    data: Any = dataset
    dataloader: DataLoader[Any] = DataLoader(data, batch_size=1, shuffle=False)
    loss = 0.0
    for batch in dataloader:
        image, keypoints = batch["image"], batch["keypoints"]
        predicted_keypoints = model(image).view(-1, 15, 2)
        loss += criterion(torch.squeeze(keypoints), torch.squeeze(predicted_keypoints)).item()
    course = 1.0 / (2 * (loss / len(dataloader)))
    ours = metrics.score(predicted, target, torch.ones(9, 15, dtype=torch.bool))
    assert ours.item() == pytest.approx(course, rel=1e-5)
    assert metrics.PASS_MARKS == {"facial15": 100}


def test_absent_points_touch_nothing() -> None:
    predicted, target, visible = example()
    for by in (None, "box", "diagonal"):
        clean = evaluate_points(predicted, target, visible, PAIR, SIZE, nme=by)
        for junk in (1e6, torch.nan, torch.inf):
            dirty_p, dirty_t = predicted.clone(), target.clone()
            dirty_p[~visible] = dirty_t[~visible] = junk
            assert evaluate_points(dirty_p, dirty_t, visible, PAIR, SIZE, nme=by) == clean


def test_a_prediction_of_nan_is_a_miss_not_an_absence() -> None:
    predicted, target, visible = example()
    n, k = visible.nonzero()[0].tolist()
    clean = evaluate_points(predicted, target, visible, PLAIN, SIZE)
    predicted[n, k] = torch.nan
    found = evaluate_points(predicted, target, visible, PLAIN, SIZE)
    assert found["points"] == clean["points"]
    assert found["pck@10%"] < 1
    assert found["mre_px"] == found["rmse_px"] == found["nme"] == math.inf
    # Its image is a failure, and finite measures stay finite.
    assert found["failure_rate"] == clean["failure_rate"] + 1 / clean["nme_samples"]
    assert found["ced_auc"] < clean["ced_auc"]
    assert found["pck_auc"] < clean["pck_auc"]
    assert math.isnan(found["score"])


def test_nothing_visible_is_nan_and_not_a_crash() -> None:
    predicted, target, visible = example()
    found = evaluate_points(predicted, target, torch.zeros_like(visible), PAIR, SIZE)
    assert found["points"] == 0
    unknown = "score", "rmse_px", "mre_px", "nme", "pck@5%", "pck@10%", "failure_rate", "ced_auc", "pck_auc"
    assert all(math.isnan(found[name]) for name in unknown)
    assert all(math.isnan(share) for name in ("pck_curve", "ced_curve") for share in found[name]["share"])
    empty = evaluate_points(predicted[:0], target[:0], visible[:0], PAIR, SIZE)
    assert all(math.isnan(empty[name]) for name in unknown)
    assert empty["samples"] == empty["nme_samples"] == 0


def test_eyes_in_one_place_give_no_nme() -> None:
    target = torch.zeros(2, 4, 2)
    target[1, 1, 0] = 1
    found = evaluate_points(target + 0.1, target, torch.ones(2, 4, dtype=torch.bool), PAIR, SIZE)
    alone = evaluate_points(target[1:] + 0.1, target[1:], torch.ones(1, 4, dtype=torch.bool), PAIR, SIZE)
    assert found["nme"] == pytest.approx(alone["nme"])


def test_a_perfect_prediction() -> None:
    _, target, visible = example()
    found = evaluate_points(target, target, visible, PAIR, SIZE)
    assert found["score"] == math.inf
    assert found["rmse_px"] == found["mre_px"] == found["nme"] == 0
    assert found["pck@5%"] == found["ced_auc"] == found["pck_auc"] == 1
    assert found["failure_rate"] == 0


@pytest.mark.parametrize("wrong", ["target", "visible", "points", "flags", "skeleton"])
def test_wrong_shapes_are_told(wrong: str) -> None:
    predicted, target, visible = example()
    if wrong == "target":
        target = target[:6]
    elif wrong == "visible":
        visible = visible[:, :3]
    elif wrong == "points":
        predicted, target = predicted.flatten(1), target.flatten(1)
    elif wrong == "flags":
        visible = visible.long()
    else:
        predicted, target, visible = predicted[:, :3], target[:, :3], visible[:, :3]
    with pytest.raises(ValueError, match=r"expected .* got .*\(7, "):
        evaluate_points(predicted, target, visible, PAIR, SIZE)
    if wrong != "skeleton":
        for function in (metrics.point_errors, metrics.score):
            with pytest.raises(ValueError, match=r"expected points \(N, K, 2\) twice"):
                function(predicted, target, visible)


# Laws


def numbers(measures: dict[str, Any]) -> dict[str, float]:
    """All of them, nested ones too, by path."""
    flat: dict[str, float] = {}
    for key, value in measures.items():
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(inner, dict):
            flat |= {f"{key}.{name}": x for name, x in numbers(inner).items()}
        elif not isinstance(inner, str):
            flat[str(key)] = inner
    return flat


SEEDS = st.integers(0, 100_000)


@settings(max_examples=30)
@given(SEEDS, st.floats(0.2, 20), st.sampled_from(["box", "diagonal", None, ("nose", "chin")]))
def test_scaling_image_and_points_moves_pixels_alone(seed: int, scale: float, by: Any) -> None:
    predicted, target, visible = example(9, seed)
    size = (SIZE[0] * scale, SIZE[1] * scale)
    before = numbers(evaluate_points(predicted, target, visible, PAIR, SIZE, nme=by))
    after = numbers(evaluate_points(predicted, target, visible, PAIR, size, nme=by))  # type: ignore[arg-type]
    for name, value in before.items():
        factor = scale if name.endswith("_px") or "size" in name else 1
        assert after[name] == pytest.approx(factor * value, rel=1e-6, nan_ok=True), name


@settings(max_examples=30)
@given(SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_images_changes_nothing(seed: int, random: Any) -> None:
    predicted, target, visible = example(9, seed)
    order = random.sample(range(9), 9)
    boxes = torch.rand(9, 4, generator=torch.Generator().manual_seed(seed)) + torch.tensor([0, 0, 1, 1])
    before = numbers(evaluate_points(predicted, target, visible, PAIR, SIZE, nme="box", boxes=boxes))
    mixed = (predicted[order], target[order], visible[order])
    after = numbers(evaluate_points(*mixed, PAIR, SIZE, nme="box", boxes=boxes[order]))
    assert after == pytest.approx(before, rel=1e-9, nan_ok=True)


def test_errors_in_pixels_of_the_images_themselves() -> None:
    """Two images that were halved and moved into an input of 64 x 32: errors of 3, 4 and 0, 10 pixels of theirs."""
    skeleton = Skeleton.from_names(["a", "b"])
    matrix = torch.tensor([[[0.5, 0, 7], [0, 0.5, -3]]] * 2).double()
    target = torch.rand(2, 2, 2).double() - 0.5
    off = torch.tensor([[[3.0, 4.0], [0, 0]], [[0, 10.0], [0, 0]]]).double()  # of the images
    predicted = target + off / 2 * torch.tensor([2 / 64, 2 / 32])  # normalised: the input is 2 wide and 2 high
    visible = torch.tensor([[True, True], [True, False]])
    confident = torch.tensor([[True, True], [False, True]])
    measures = evaluate_in_image_pixels(predicted, target, visible, skeleton, (32, 64), matrix, confident)
    assert measures["mre_px"] == pytest.approx(15 / 3)
    assert measures["rmse_px"] == pytest.approx(rmse(torch.tensor([5.0, 0, 10.0])).item())
    assert measures["points"] == 3
    assert measures["per_point"]["a"]["mre_px"] == pytest.approx(7.5)
    assert measures["confident"]["mre_px"] == pytest.approx(2.5)
    assert measures["confident"]["points"] == 2
    assert "confident" not in evaluate_in_image_pixels(predicted, target, visible, skeleton, (32, 64), matrix)
