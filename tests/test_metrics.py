"""Measures against numpy, closed forms, and the course's own loop."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from kpnet import metrics
from kpnet.errors import KpnetError
from kpnet.metrics import KeypointMetrics, evaluate_points
from kpnet.report import plain, print_groups, print_measures
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
        "nme_images": len(nme),
        "failure_rate": np.mean([e > 0.1 for e in nme]),
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
    assert found["failure_rate"] == clean["failure_rate"] + 1 / clean["nme_images"]
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
    assert empty["images"] == empty["nme_images"] == 0
    # A process whose share of the data is empty gives the same.
    with pytest.warns(UserWarning, match="compute"):
        assert str(KeypointMetrics(PAIR, SIZE).compute()) == str(empty)


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


@pytest.mark.parametrize("options", [{}, {"nme": "diagonal", "failure": 0.02}])
@pytest.mark.parametrize("batches", [[7], [1, 1, 5], [3, 1, 3], [4, 3]])
def test_accumulating_uneven_batches_equals_one_shot(batches: list[int], options: dict[str, Any]) -> None:
    predicted, target, visible = example()
    metric = KeypointMetrics(PAIR, SIZE, **options)
    for parts in zip(*(x.split(batches) for x in (predicted, target, visible)), strict=True):
        metric.update(*parts)
    assert metric.compute() == evaluate_points(predicted, target, visible, PAIR, SIZE, **options)


def test_reset_forgets_and_updates_hold_no_graph() -> None:
    predicted, target, visible = example()
    metric = KeypointMetrics(PAIR, SIZE)
    metric.update(predicted * 2, target, visible)
    metric.reset()
    metric.update(predicted.requires_grad_(), target, visible)
    assert not metric.predicted[0].requires_grad
    assert metric.compute() == evaluate_points(predicted.detach(), target, visible, PAIR, SIZE)


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
        for function in (metrics.point_errors, metrics.score, KeypointMetrics(PAIR, SIZE).update):
            with pytest.raises(ValueError, match=r"expected points \(N, K, 2\) twice"):
                function(predicted, target, visible)


# What NME divides by


def test_normalizers_against_loops() -> None:
    _, target, visible = example()
    target = target * 50
    boxes = torch.arange(28.0).reshape(7, 4) * torch.tensor([1, 1, 3, 2])
    for by in ("diagonal", "box", "given", ("nose", "chin")):
        given_boxes = boxes if by == "given" else None
        found, _ = metrics.normalizers(target, visible, PAIR, SIZE, "box" if by == "given" else by, given_boxes)
        for n in range(7):
            points = target[n][visible[n]].numpy()
            expected = math.nan
            if by == "diagonal":
                expected = math.hypot(*SIZE)
            elif by == "given":
                expected = math.sqrt((boxes[n, 2] - boxes[n, 0]) * (boxes[n, 3] - boxes[n, 1]))
            elif by == "box" and len(points) > 1:
                expected = math.sqrt(np.prod(points.max(0) - points.min(0)))
            elif by != "box" and visible[n, 2] and visible[n, 3]:
                expected = math.dist(target[n, 2], target[n, 3])
            assert found[n].item() == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_nme_by_each_length() -> None:
    """Corners of a box of 40 x 90 px, each 6 px off: 6 over 60, over the pair's 40, over the diagonal of 160 px."""
    points = torch.tensor([[0.0, 0.0], [40.0, 0.0], [0.0, 90.0], [40.0, 90.0]])[None]
    target = (2 * points + 1) / torch.tensor(SIZE[::-1]) - 1
    off = target + torch.tensor([0, 6 / 48])
    visible = torch.ones(1, 4, dtype=torch.bool)
    cases: list[tuple[Any, Any, float, str]] = [
        (None, None, 6 / 40, "distance from left_eye to right_eye"),
        (("left_eye", "nose"), None, 6 / 90, "distance from left_eye to nose"),
        (["left_eye", "nose"], None, 6 / 90, "distance from left_eye to nose"),
        ("box", None, 6 / 60, "box of the points"),
        ("box", torch.tensor([[10, 10, 13, 22]]), 1.0, "given box"),
        ("box", torch.tensor([[13, 22, 10, 10]]), math.nan, "given box"),
        ("diagonal", None, 6 / 160, "diagonal of the image"),
    ]
    for by, boxes, expected, text in cases:
        found = evaluate_points(off, target, visible, PAIR, SIZE, nme=by, boxes=boxes)
        assert found["nme"] == pytest.approx(expected, rel=1e-5, nan_ok=True)
        assert found["nme_by"] == text
        assert found["nme_images"] == (not math.isnan(expected))
    assert evaluate_points(off, target, visible, PLAIN, SIZE)["nme_by"] == "diagonal of the image"
    # One point, or points on a line, have no box.
    visible[0, 2:] = False
    assert math.isnan(evaluate_points(off, target, visible, PAIR, SIZE, nme="box")["nme"])


@pytest.mark.parametrize(
    ("by", "boxes", "message"),
    [
        ("boxes", None, "unknown 'boxes' \\(did you mean \"box\"\\?\\); expected"),
        (("nose",), None, 'unknown \\(\'nose\',\\); expected "box", "diagonal" or two keypoint names'),
        (("nose", "chim"), None, 'unknown keypoint "chim" \\(did you mean "chin"'),
        (None, torch.zeros(7, 4), 'expected nme="box"'),
        ("diagonal", torch.zeros(7, 4), 'by diagonal: expected nme="box"'),
        ("box", torch.zeros(7, 2), "expected boxes \\(7, 4\\), got \\(7, 2\\)"),
        ("box", torch.zeros(6, 4), "expected boxes \\(7, 4\\), got \\(6, 4\\)"),
    ],
)
def test_a_length_that_there_is_not(by: Any, boxes: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        evaluate_points(*example(), PAIR, SIZE, nme=by, boxes=boxes)
    assert isinstance(caught.value, KpnetError) or "boxes (7, 4)" in message.replace("\\", "")


# Curves


def test_pck_ced_and_failures_at_their_thresholds() -> None:
    """At most the threshold passes, above it fails: 300-W and WFLW alike."""
    errors = torch.tensor([[0.0, 1.0, math.nan], [2.0, 2.0, math.inf]])
    assert metrics.pck(errors, 1.0).item() == pytest.approx(2 / 5)
    assert metrics.pck(errors, torch.tensor([-1, 0, 1.5, 2, 1e9])).tolist() == pytest.approx([0, 0.2, 0.4, 0.8, 0.8])
    nme = torch.tensor([0.05, 0.10, 0.11, math.inf, math.nan], dtype=torch.float64)
    assert metrics.ced(nme, 0.10) == 0.5
    assert metrics.failure_rate(nme) == 0.5
    assert metrics.failure_rate(nme, 0.08) == 0.75
    assert metrics.pck(errors.long().float()[:0], 1.0).isnan()


def test_auc_of_one_value_is_a_rectangle() -> None:
    """Its curve is 0 before the value and 1 from there on."""
    for value, expected in ((0.0, 1.0), (0.25, 0.75), (1.0, 0.0), (7.0, 0.0), (math.inf, 0.0)):
        assert metrics.auc(torch.tensor([value, math.nan]), 1.0).item() == expected
    with pytest.raises(ValueError, match="above 0, got 0"):
        metrics.auc(torch.zeros(1), 0)


@pytest.mark.parametrize("failure", [0.1, 0.3])
def test_areas_and_curves_against_counting(failure: float) -> None:
    predicted, target, visible = example(40)
    found = evaluate_points(predicted, target, visible, PAIR, SIZE, failure=failure)
    scale = np.array(SIZE[::-1]) / 2
    errors = np.linalg.norm((predicted - target).double().numpy() * scale, axis=-1)
    shown = visible.numpy()
    eyes = np.linalg.norm((target[:, 0] - target[:, 1]).double().numpy() * scale, axis=-1)
    nme = [errors[n][shown[n]].mean() / eyes[n] for n in range(40) if shown[n, 0] and shown[n, 1]]
    for name, values, limit in (("pck", errors[shown] / 128, 0.1), ("ced", np.array(nme), failure)):
        curve = found[f"{name}_curve"]
        assert curve["threshold"] == pytest.approx(np.linspace(limit / 20, limit, 20))
        assert curve["share"] == pytest.approx([(values <= t).mean() for t in curve["threshold"]])
        # As the published scripts have it: the curve sampled at fine steps.
        steps = np.linspace(0, limit, 10_001)
        sampled = np.trapezoid([(values <= t).mean() for t in steps], steps) / limit
        assert found[f"{name}_auc"] == pytest.approx(sampled, abs=1e-3)
        assert 0 < found[f"{name}_auc"] < 1
    assert found["failure_at"] == failure
    assert found["failure_rate"] == pytest.approx(1 - found["ced_curve"]["share"][-1])
    assert found["pck_curve"]["share"][9] == found["pck@5%"]
    assert found["pck_curve"]["share"][19] == found["pck@10%"]


def test_pck_of_any_length() -> None:
    """PCKh and its kin: errors over a length of their image."""
    target = torch.zeros(2, 2, 2)
    target[0, 1, 0], target[1, 1, 0] = 10, 40
    visible = torch.ones(2, 2, dtype=torch.bool)
    errors = metrics.point_errors(target + torch.tensor([0, 4.0]), target, visible)
    lengths, _ = metrics.normalizers(target, visible, Skeleton(("a", "b")), SIZE, ("a", "b"))
    assert metrics.pck(errors / lengths[:, None], torch.tensor([0.05, 0.1, 0.39, 0.4])).tolist() == [0, 0.5, 0.5, 1]


# Laws


def numbers(measures: dict[str, Any]) -> dict[str, float]:
    """All of them, nested ones too, by path."""
    flat = {}
    for key, value in measures.items():
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(inner, dict):
            flat |= {f"{key}.{name}": x for name, x in numbers(inner).items()}
        elif not isinstance(inner, str):
            flat[str(key)] = inner
    return flat


SEEDS = st.integers(0, 100_000)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0.2, 20), st.sampled_from(["box", "diagonal", None, ("nose", "chin")]))
def test_scaling_image_and_points_moves_pixels_alone(seed: int, scale: float, by: Any) -> None:
    predicted, target, visible = example(9, seed)
    size = (SIZE[0] * scale, SIZE[1] * scale)
    before = numbers(evaluate_points(predicted, target, visible, PAIR, SIZE, nme=by))
    after = numbers(evaluate_points(predicted, target, visible, PAIR, size, nme=by))  # type: ignore[arg-type]
    for name, value in before.items():
        factor = scale if name.endswith("_px") or "size" in name else 1
        assert after[name] == pytest.approx(factor * value, rel=1e-6, nan_ok=True), name


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_images_changes_nothing(seed: int, random: Any) -> None:
    parts = example(9, seed)
    order = random.sample(range(9), 9)
    boxes = torch.rand(9, 4, generator=torch.Generator().manual_seed(seed)) + torch.tensor([0, 0, 1, 1])
    before = numbers(evaluate_points(*parts, PAIR, SIZE, nme="box", boxes=boxes))
    after = numbers(evaluate_points(*(x[order] for x in parts), PAIR, SIZE, nme="box", boxes=boxes[order]))
    assert after == pytest.approx(before, rel=1e-9, nan_ok=True)


@given(st.lists(st.floats(0, 3) | st.just(math.inf) | st.just(math.nan), max_size=12), st.floats(1e-3, 2))
def test_curves_rise_and_areas_are_shares(values: list[float], limit: float) -> None:
    errors = torch.tensor(values, dtype=torch.float64)
    known = errors[~errors.isnan()]
    curve = metrics.pck(errors, torch.linspace(0, limit, 30, dtype=torch.float64))
    area = metrics.auc(errors, limit)
    if not len(known):
        assert curve.isnan().all()
        assert area.isnan()
        return
    assert (curve.diff() >= 0).all()
    assert 0 <= area <= curve[-1] + 1e-12
    assert metrics.failure_rate(errors, limit) == pytest.approx(1 - metrics.ced(errors, limit).item(), abs=1e-12)
    assert metrics.auc(known * 0.5, limit) >= area
    if known.isfinite().all():
        assert metrics.auc(known * 0, limit) == 1


# Groups


def test_groups_of_a_skeleton() -> None:
    face = Skeleton.load("facial15").group_indices
    assert {name: len(indices) for name, indices in face.items()} == {"eye": 6, "eyebrow": 4, "nose": 1, "mouth": 4}
    assert sorted(k for indices in face.values() for k in indices) == list(range(15))
    assert PAIR.group_indices == {"eye": [0, 1], "nose": [2], "chin": [3]}
    assert Skeleton(("leftEarTop", "rightEarTop", "Tail")).group_indices == {"ear": [0, 1], "tail": [2]}
    # No two together, no two apart, nothing but a side.
    for names in (("0", "1"), ("kp_0", "kp_1"), ("left", "right", "nose"), ("nose",)):
        assert Skeleton(names).group_indices == {}
    own = Skeleton.load({"names": ["a", "b", "c"], "groups": {"x": ["c", "a"], "all": ["a", "b", "c"]}})
    assert own.group_indices == {"x": [2, 0], "all": [0, 1, 2]}
    none = Skeleton.load({"names": PAIR.names, "groups": {}})
    assert none.group_indices == {}
    for skeleton in (own, none, PAIR):
        assert Skeleton.load(skeleton.to_dict()) == skeleton
        assert hash(Skeleton.load(skeleton.to_dict())) == hash(skeleton)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"x": ["a", "d"]}, 'skeleton: groups.x: unknown keypoint "d"'),
        ({"x": []}, "groups.x: expected different names, found \\[\\]"),
        ({"x": ["a", "a"]}, "groups.x: expected different names, found \\['a', 'a'\\]"),
        ({"x": "a"}, "groups.x: .*list"),
        (["a"], "groups: .*dict"),
    ],
)
def test_bad_groups(groups: object, message: str) -> None:
    with pytest.raises(KpnetError, match=message) as caught:
        Skeleton.load({"names": ["a", "b", "c"], "groups": groups})
    assert "\n" not in str(caught.value)


def test_a_groups_measures_are_those_of_its_points_alone() -> None:
    predicted, target, visible = example(20)
    skeleton = Skeleton(PAIR.names, groups={"low": ("nose", "chin"), "mixed": ("chin", "left_eye")})
    found = evaluate_points(predicted, target, visible, skeleton, SIZE)
    assert found["per_group"].keys() == {"low", "mixed"}
    for name, indices in skeleton.group_indices.items():
        alone = by_numpy(*(x[:, indices] for x in (predicted, target, visible)), pair=False)
        assert found["per_group"][name] == pytest.approx({key: alone[key] for key in found["per_group"][name]})


# As text


def test_measures_as_text_and_as_json() -> None:
    predicted, target, visible = example()
    visible[:, 3] = False
    found = evaluate_points(predicted, target, visible, PAIR, SIZE)
    text = json.dumps(plain(found), allow_nan=False)
    assert json.loads(text)["per_group"]["chin"]["nme"] is None
    nothing = evaluate_points(predicted[:0], target[:0], visible[:0], PAIR, SIZE)
    assert json.loads(json.dumps(plain(nothing), allow_nan=False))["ced_curve"]["share"] == [None] * 20
    shown = io.StringIO()
    console = Console(file=shown, width=100)
    print_measures(console, found, "faces")
    print_groups(console, found["per_group"])
    print_groups(console, {})
    for part in (
        f"NME     {100 * found['nme']:.3f} % of the distance from left_eye to right_eye, over 2 images",
        f"{100 * found['failure_rate']:.2f} % of the images, by an NME above 10 %",
        f"AUC {found['ced_auc']:.4f}",
        f"AUC {found['pck_auc']:.4f} up to 10 %",
    ):
        assert part in shown.getvalue()
    rows = [line.split("│")[1:-1] for line in shown.getvalue().splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows] == ["eye", "nose", "chin"]
    assert float(rows[0][5]) == pytest.approx(100 * found["per_group"]["eye"]["nme"], abs=1e-3)
