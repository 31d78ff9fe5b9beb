"""Measures against numpy, and the course's own loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kpnet import metrics
from kpnet.metrics import KeypointMetrics, evaluate_points
from kpnet.skeleton import Skeleton

SIZE = (96, 128)
PAIR = Skeleton(("left_eye", "right_eye", "nose", "chin"), (("left_eye", "right_eye"),), nme=("left_eye", "right_eye"))
PLAIN = Skeleton(PAIR.names)


def example(n: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, targets (NaN or 0 where absent) and visibility; image 3 has no point, image 4 no left eye."""
    g = torch.Generator().manual_seed(seed)
    target = torch.rand(n, 4, 2, generator=g) * 1.8 - 0.9
    predicted = target + torch.randn(n, 4, 2, generator=g) * 0.1
    visible = torch.rand(n, 4, generator=g) > 0.3
    visible[3:4] = False
    visible[4:5, 0] = False
    target[~visible] = 0
    target[3:4] = torch.nan
    return predicted, target, visible


def by_numpy(predicted: Tensor, target: Tensor, visible: Tensor, pair: bool) -> dict[str, float]:
    """The same figures, image by image and point by point."""
    squares, radii, nme = [], [], []
    units = []
    for p, t, v in zip(predicted.double().numpy(), target.double().numpy(), visible.numpy(), strict=True):
        scale = np.array([SIZE[1], SIZE[0]]) / 2
        pixels = [(a - b) * scale for a, b in zip(p[v], t[v], strict=True)]
        units += [c**2 for a, b in zip(p[v], t[v], strict=True) for c in a - b]
        squares += [c**2 for d in pixels for c in d]
        here = [math.hypot(*d) for d in pixels]
        radii += here
        if here and not pair:
            nme.append(np.mean(here) / math.hypot(*SIZE))
        elif here and v[0] and v[1]:
            nme.append(np.mean(here) / math.hypot(*((t[0] - t[1]) * scale)))
    return {
        "score": 1 / (2 * np.mean(units)),
        "rmse_px": math.sqrt(np.mean(squares)),
        "mre_px": np.mean(radii),
        "nme": np.mean(nme),
        "pck@5%": np.mean([r <= 6.4 for r in radii]),
        "pck@10%": np.mean([r <= 12.8 for r in radii]),
        "points": len(radii),
    }


@pytest.mark.parametrize("skeleton", [PAIR, PLAIN])
def test_every_measure_against_numpy(skeleton: Skeleton) -> None:
    predicted, target, visible = example()
    found = evaluate_points(predicted, target, visible, skeleton, SIZE)
    expected = by_numpy(predicted, target, visible, skeleton is PAIR)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
    assert found["images"] == 7
    assert 0 < found["pck@5%"] < found["pck@10%"] < 1  # the example tells the thresholds apart
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
    dataloader = DataLoader(dataset, batch_size=1, shuffle=False)  # type: ignore[arg-type]
    loss = 0.0
    for batch in dataloader:
        image, keypoints = batch["image"], batch["keypoints"]
        predicted_keypoints = model(image).view(-1, 15, 2)
        loss += criterion(torch.squeeze(keypoints), torch.squeeze(predicted_keypoints)).item()
    course = 1.0 / (2 * (loss / len(dataloader)))
    ours = metrics.score(predicted, target, torch.ones(9, 15, dtype=torch.bool))
    assert ours.item() == pytest.approx(course, rel=1e-5)
    assert metrics.PASS_MARK == 100


def test_absent_points_touch_nothing() -> None:
    predicted, target, visible = example()
    clean = evaluate_points(predicted, target, visible, PAIR, SIZE)
    for junk in (1e6, torch.nan, torch.inf):
        dirty_p, dirty_t = predicted.clone(), target.clone()
        dirty_p[~visible] = dirty_t[~visible] = junk
        assert evaluate_points(dirty_p, dirty_t, visible, PAIR, SIZE) == clean


def test_a_prediction_of_nan_is_a_miss_not_an_absence() -> None:
    predicted, target, visible = example()
    n, k = visible.nonzero()[0].tolist()
    clean = evaluate_points(predicted, target, visible, PLAIN, SIZE)
    predicted[n, k] = torch.nan
    found = evaluate_points(predicted, target, visible, PLAIN, SIZE)
    assert found["points"] == clean["points"]
    assert found["pck@10%"] < 1
    assert found["mre_px"] == found["rmse_px"] == math.inf
    assert math.isnan(found["score"])


def test_nothing_visible_is_nan_and_not_a_crash() -> None:
    predicted, target, visible = example()
    found = evaluate_points(predicted, target, torch.zeros_like(visible), PAIR, SIZE)
    assert found["points"] == 0
    assert all(math.isnan(found[name]) for name in ("score", "rmse_px", "mre_px", "nme", "pck@5%", "pck@10%"))
    empty = evaluate_points(predicted[:0], target[:0], visible[:0], PAIR, SIZE)
    assert math.isnan(empty["score"])
    assert empty["images"] == 0


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
    assert found["pck@5%"] == 1


@pytest.mark.parametrize("batches", [[7], [1, 1, 5], [3, 1, 3], [4, 3]])
def test_accumulating_uneven_batches_equals_one_shot(batches: list[int]) -> None:
    predicted, target, visible = example()
    metric = KeypointMetrics(PAIR, SIZE)
    for parts in zip(*(x.split(batches) for x in (predicted, target, visible)), strict=True):
        metric.update(*parts)
    assert metric.compute() == evaluate_points(predicted, target, visible, PAIR, SIZE)


def test_reset_forgets_and_updates_hold_no_graph() -> None:
    predicted, target, visible = example()
    metric = KeypointMetrics(PAIR, SIZE)
    metric.update(predicted * 2, target, visible)
    metric.reset()
    metric.update(predicted.requires_grad_(), target, visible)
    assert not metric.predicted[0].requires_grad
    assert metric.compute() == evaluate_points(predicted.detach(), target, visible, PAIR, SIZE)
