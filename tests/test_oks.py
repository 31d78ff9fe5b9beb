"""OKS against closed forms and loops, OKS-AP against pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from kpnet.core.skeleton import Skeleton
from kpnet.oks import oks, oks_ap, pairwise_oks, sigmas_of, suppress_by_oks

SIGMAS = (0.026, 0.025, 0.079, 0.107, 0.062)
K = len(SIGMAS)


# OKS itself


def test_closed_forms() -> None:
    """One point, 3-4-5: exp(-25 / (2 area (2 sigma)²))."""
    target = torch.zeros(1, 1, 2, dtype=torch.float64)
    visible = torch.ones(1, 1, dtype=torch.bool)
    found = oks(target + torch.tensor([3.0, 4.0]), target, visible, torch.tensor([100.0]), [0.5])
    assert found.item() == pytest.approx(math.exp(-25 / (2 * 100 * 1)), rel=1e-12)
    assert oks(target, target, visible, torch.tensor([100.0]), [0.5]).item() == 1
    # A distance of sqrt(2 area) times 2 sigma is exp(-1), of any sigma.
    for sigma in SIGMAS:
        away = target + torch.tensor([math.sqrt(2 * 64) * 2 * sigma, 0.0], dtype=torch.float64)
        assert oks(away, target, visible, torch.tensor([64.0]), [sigma]).item() == pytest.approx(math.exp(-1))


def pairs(n: int = 20, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    target = torch.rand(n, K, 2, generator=g, dtype=torch.float64) * 100
    predicted = target + torch.randn(n, K, 2, generator=g, dtype=torch.float64) * 4
    visible = torch.rand(n, K, generator=g) > 0.4
    visible[2] = False
    return predicted, target, visible, torch.rand(n, generator=g, dtype=torch.float64) * 2000 + 50


def test_equals_a_loop_over_points() -> None:
    predicted, target, visible, area = pairs()
    found = oks(predicted, target, visible, area, SIGMAS)
    assert found[2].isnan()
    for n in {*range(20)} - {2}:
        terms = [
            math.exp(-(math.dist(predicted[n, k], target[n, k]) ** 2) / (2 * area[n] * (2 * SIGMAS[k]) ** 2))
            for k in range(K)
            if visible[n, k]
        ]
        assert found[n].item() == pytest.approx(sum(terms) / len(terms), rel=1e-10)


def test_absent_points_touch_nothing_and_nan_is_a_miss() -> None:
    predicted, target, visible, area = pairs()
    clean = oks(predicted, target, visible, area, SIGMAS)
    for junk in (1e9, torch.nan, torch.inf):
        dirty_p, dirty_t = predicted.clone(), target.clone()
        dirty_p[~visible] = dirty_t[~visible] = junk
        torch.testing.assert_close(oks(dirty_p, dirty_t, visible, area, SIGMAS), clean, equal_nan=True)
    everything = torch.ones_like(visible)
    exact = target.clone()
    exact[0, 0], exact[1, 1, 1] = torch.nan, torch.inf
    found = oks(exact, target, everything, area, SIGMAS)
    torch.testing.assert_close(found[:3], torch.tensor([1 - 1 / K, 1 - 1 / K, 1], dtype=torch.float64))


def test_what_cannot_be_computed() -> None:
    predicted, target, visible, area = pairs(4)
    visible[:] = True
    area[:] = torch.tensor([torch.nan, -1, torch.inf, 0])
    assert oks(predicted, target, visible, area, SIGMAS).isnan().tolist() == [True, True, True, False]
    assert oks(target, target, visible, area, SIGMAS)[3] == 1
    assert oks(predicted[:0], target[:0], visible[:0], area[:0], SIGMAS).shape == (0,)


@given(st.integers(0, 10_000), st.floats(0.1, 30))
def test_scale_moves_nothing(seed: int, scale: float) -> None:
    predicted, target, visible, area = pairs(5, seed)
    found = oks(predicted * scale, target * scale, visible, area * scale**2, SIGMAS)
    torch.testing.assert_close(found, oks(predicted, target, visible, area, SIGMAS), equal_nan=True)
    assert ((found >= 0) & (found <= 1) | found.isnan()).all()


@pytest.mark.parametrize("wrong", ["predicted", "target", "visible", "area", "sigmas", "flags", "zero"])
def test_wrong_shapes(wrong: str) -> None:
    predicted, target, visible, area = pairs()
    sigmas: tuple[float, ...] = SIGMAS
    match = r"got \(20, 5"
    if wrong == "predicted":
        predicted, match = predicted[:, :4], r"got \(20, 4, 2\)"
    elif wrong == "target":
        target = target[..., :1]
    elif wrong == "visible":
        visible = visible[:, :4]
    elif wrong == "area":
        area = area[:, None]
    elif wrong == "sigmas":
        sigmas = SIGMAS[:4]
    elif wrong == "flags":
        visible, match = 2 * visible.long(), "int64"
    else:
        sigmas, match = (0.0, *SIGMAS[1:]), "above 0"
    with pytest.raises(ValueError, match=match):
        oks(predicted, target, visible, area, sigmas)


# OKS-AP

Scene = dict[str, list[np.ndarray]]
BOXED = ("predicted", "scores", "target", "visible", "area", "boxes")


def scene(images: int, seed: int, instances: int = 4, detections: int = 6, missing: float = 0.3) -> Scene:
    """Random images: several instances of all sizes, some unlabelled; detections near, far and doubled."""
    rng = np.random.default_rng(seed)
    made: Scene = {name: [] for name in BOXED}
    for _ in range(images):
        there, extra = rng.integers(0, instances + 1), rng.integers(0, detections + 1)
        corner, side = rng.uniform(0, 300, (there, 1, 2)), np.exp(rng.uniform(np.log(15), np.log(250), (there, 1, 1)))
        target = corner + rng.uniform(0, 1, (there, K, 2)) * side
        visible = rng.random((there, K)) > missing
        visible[rng.random(there) < 0.2] = False
        near = np.repeat(target, 2, axis=0)[rng.random(2 * there) < 0.8]
        spread = np.exp(rng.uniform(np.log(0.3), np.log(12), (len(near), 1, 1)))
        predicted = np.concatenate([near + rng.normal(0, 1, near.shape) * spread, rng.uniform(0, 500, (extra, K, 2))])
        target[~visible] = 0
        made["predicted"].append(predicted)
        # Rounded: some scores are equal.
        made["scores"].append(rng.random(len(predicted)).round(2))
        made["target"].append(target)
        made["visible"].append(visible)
        made["area"].append((side[:, 0, 0] * rng.uniform(0.5, 1, there)) ** 2)
        made["boxes"].append(np.concatenate([corner[:, 0], corner[:, 0] + side[:, 0]], axis=-1))
    return made


def ap(made: Mapping[str, Any], sigmas: Sequence[float] | Tensor = SIGMAS) -> dict[str, float]:
    return oks_ap(**made, sigmas=sigmas)


def by_pycocotools(made: Scene) -> dict[str, float]:
    truth: dict[str, Any] = {"images": [], "categories": [{"id": 1, "name": "thing"}], "annotations": []}
    results = []
    for i, (predicted, scores, target, visible, area, boxes) in enumerate(zip(*made.values(), strict=True), 1):
        truth["images"].append({"id": i})
        for points, shown, size, (x0, y0, x1, y1) in zip(target, visible, area, boxes, strict=True):
            truth["annotations"].append(
                {
                    **{"id": len(truth["annotations"]) + 1, "image_id": i, "category_id": 1, "iscrowd": 0},
                    "keypoints": np.column_stack([points, 2 * shown]).ravel().tolist(),
                    "num_keypoints": int(shown.sum()),
                    **{"area": float(size), "bbox": [x0, y0, x1 - x0, y1 - y0]},
                }
            )
        for points, score in zip(predicted, scores, strict=True):
            flat = np.column_stack([points, np.ones(K)]).ravel().tolist()
            results.append({"image_id": i, "category_id": 1, "keypoints": flat, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(results), "keypoints")
        run.params.kpt_oks_sigmas = np.array(SIGMAS)
        run.evaluate()
        run.accumulate()
        run.summarize()
    names = "AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"
    return {name: math.nan if x == -1 else float(x) for name, x in zip(names, run.stats, strict=True)}


@pytest.mark.parametrize(
    ("images", "options"),
    [
        *[(12, {"seed": seed}) for seed in range(8)],
        (1, {"seed": 0}),
        (60, {"seed": 1}),
        (5, {"seed": 2, "instances": 12, "detections": 30}),  # more than the 20 detections that count
        (20, {"seed": 3, "missing": 0.0}),
        (20, {"seed": 4, "missing": 0.9}),
        (30, {"seed": 5, "instances": 1, "detections": 0}),
    ],
)
def test_agrees_with_pycocotools(images: int, options: dict[str, Any]) -> None:
    made = scene(images, **options)
    found = ap(made)
    assert found == pytest.approx(by_pycocotools(made), abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_equally_similar_instances_are_taken_as_pycocotools_takes_them(order: slice) -> None:
    """Twins of another area, and an exact detection (OKS 1 with both): which is left decides on the next one."""
    made = scene(20, seed=6, missing=0)
    for i, target in enumerate(made["target"]):
        count = len(target)
        for name in ("target", "visible", "boxes"):
            made[name][i] = np.concatenate([made[name][i]] * 2)
        made["area"][i] = np.concatenate([made["area"][i], made["area"][i] * 9])[order]
        noisy = target + np.random.default_rng(i).normal(0, 5, target.shape)
        made["predicted"][i] = np.concatenate([target, noisy])
        made["scores"][i] = np.repeat([0.9, 0.5], count)
    assert ap(made) == pytest.approx(by_pycocotools(made), abs=1e-6, nan_ok=True)


def test_the_scenes_tell_measures_apart() -> None:
    """Equal numbers would agree whatever the rules were."""
    found = ap(scene(60, seed=1))
    assert len({round(value, 3) for value in found.values()}) == len(found)
    assert all(0.05 < value < 0.95 for value in found.values())
    made = scene(60, seed=1)
    without = ap({name: made[name] for name in BOXED[:-1]})
    # Without boxes, detections of unlabelled instances are errors.
    assert without["AP"] < found["AP"]
    assert without["AR"] == found["AR"]


def one_image(*offsets: float | np.ndarray, scores: list[float], instances: int = 2) -> dict[str, float]:
    """Instances at x = 0, 200, … of area 100 x 100; detection i is the ith instance (in turn) moved by its
    offset to the right, a number or one a point."""
    shape = np.random.default_rng(0).uniform(0, 100, (K, 2))
    base = shape + 200 * np.arange(instances)[:, None, None] * [1, 0]
    moved = [base[i % instances] + np.stack([np.broadcast_to(x, K), np.zeros(K)], -1) for i, x in enumerate(offsets)]
    return oks_ap(
        [np.array(moved).reshape(-1, K, 2)],
        [np.array(scores)],
        [base],
        [np.ones((instances, K), bool)],
        [np.full(instances, 100.0**2)],
        SIGMAS,
    )


def test_hand_computed() -> None:
    perfect = one_image(0, 0, scores=[0.9, 0.8])
    assert (perfect["AP"], perfect["AR"], perfect["APL"]) == (1, 1, 1)
    assert math.isnan(perfect["APM"])
    # One of two found: recall reaches 0.5, so 51 of the 101 recalls have precision 1.
    assert one_image(0, scores=[0.9])["AP"] == pytest.approx(51 / 101)
    assert one_image(0, scores=[0.9])["AR"] == 0.5
    # A surer mistake before both: of the surest three, two are right.
    wrong_first = one_image(0, 0, 90, scores=[0.8, 0.7, 0.9])
    assert wrong_first["AP"] == pytest.approx(2 / 3)
    # A doubled detection is a mistake, but after full recall it costs nothing.
    assert one_image(0, 0, 0, scores=[0.9, 0.8, 0.7])["AP"] == pytest.approx(1)
    doubled = one_image(0, 0, 0, scores=[0.9, 0.7, 0.8])  # hit, double, hit: 1 up to recall 0.5, then 2/3
    assert doubled["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    # Nothing found.
    assert one_image(scores=[])["AP"] == one_image(scores=[])["AR"] == 0


@pytest.mark.parametrize("lost", [math.nan, math.inf])
@pytest.mark.parametrize("points", [4, 5])
def test_a_lost_detection_is_a_mistake(lost: float, points: int) -> None:
    """Also where its box is infinite, and so in no range of areas."""
    offset = np.where(np.arange(K) < points, lost, 0)
    found = one_image(0, 0, offset, scores=[0.8, 0.7, 0.9])
    assert found["AP"] == found["APL"] == pytest.approx(2 / 3)


def test_nothing_to_find_is_nan() -> None:
    empty = oks_ap([], [], [], [], [], SIGMAS)
    assert list(empty) == ["AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"]
    assert all(math.isnan(value) for value in empty.values())
    assert math.isnan(one_image(scores=[], instances=0)["AP"])


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_the_order_of_images_and_the_kind_of_array_change_nothing(seed: int) -> None:
    made = scene(6, seed)
    rng = np.random.default_rng(seed)
    made["scores"] = [rng.random(len(scores)) for scores in made["scores"]]  # equal ones are taken in order
    found = ap(made)
    tensors = {name: [torch.from_numpy(x) for x in reversed(values)] for name, values in made.items()}
    again = ap(tensors, torch.tensor(SIGMAS, dtype=torch.float64))
    assert again == pytest.approx(found, abs=1e-12, nan_ok=True)
    assert all(0 <= value <= 1 or math.isnan(value) for value in found.values())


@pytest.mark.parametrize("wrong", BOXED)
def test_a_wrong_image_is_named(wrong: str) -> None:
    made = scene(30, seed=0, missing=0)
    index = next(i for i, x in enumerate(made["target"]) if len(x) > 1 and len(made["predicted"][i]) > 1)
    made[wrong][index] = made[wrong][index][:1]
    with pytest.raises(ValueError, match=f"image {index}: expected points .* got .*"):
        ap(made)


def test_what_has_no_order_or_size_is_refused() -> None:
    with pytest.raises(ValueError, match="image 0: expected scores without NaN, got \\[nan\\]"):
        one_image(0, scores=[math.nan])
    made = scene(3, seed=0)
    index = next(i for i, x in enumerate(made["area"]) if len(x))
    made["area"][index][0] = math.nan
    with pytest.raises(ValueError, match=f"image {index}: expected finite areas"):
        ap(made)
    with pytest.raises(ValueError, match="zip"):
        ap({**scene(3, seed=0), "scores": []})


# Pairs of instances


def test_pairwise_oks_is_that_of_each_pair() -> None:
    predicted, target, visible, area = pairs(6)
    found = pairwise_oks(predicted[:4], target, visible, area, SIGMAS)
    assert found.shape == (4, 6)
    for i in range(4):
        expected = oks(predicted[i].expand_as(target), target, visible, area, SIGMAS)
        torch.testing.assert_close(found[i], expected, equal_nan=True)
    assert pairwise_oks(predicted[:0], target, visible, area, SIGMAS).shape == (0, 6)
    assert pairwise_oks(predicted, target[:0], visible[:0], area[:0], SIGMAS).shape == (6, 0)
    with pytest.raises(ValueError, match=r"points \(N, 5, 2\), points \(M, 5, 2\), bool \(M, 5\) and area \(M,\)"):
        pairwise_oks(predicted, target, visible, area[:5], SIGMAS)


def test_repetitions_are_dropped_and_close_instances_stay() -> None:
    """An instance moved by a tenth of its size is another; one moved by a hundredth is a repetition."""
    one = torch.rand(K, 2, dtype=torch.float64) * 100
    points = torch.stack([one + 1, one, one + 10, one + 10.5, one + 200])
    scores = torch.tensor([0.5, 0.9, 0.8, 0.7, 0.1])
    area = torch.full((5,), 1e4, dtype=torch.float64)
    sigmas = [0.05] * K
    assert suppress_by_oks(points, scores, area, sigmas).tolist() == [1, 2, 4]
    assert suppress_by_oks(points, scores, area, sigmas, 0.2).tolist() == [1, 4]
    assert suppress_by_oks(points, scores, area, sigmas, 1.0).tolist() == [1, 2, 3, 0, 4]
    assert suppress_by_oks(points[:0], scores[:0], area[:0], sigmas).shape == (0,)


def test_a_repetition_of_a_dropped_detection_stays() -> None:
    """Greedy: only what is kept drops others."""
    line = torch.arange(3.0)[:, None, None].expand(3, K, 2) * 3
    kept = suppress_by_oks(line, torch.tensor([0.9, 0.8, 0.7]), torch.full((3,), 1e4), [0.05] * K, 0.8)
    assert kept.tolist() == [0, 2]
    equal = suppress_by_oks(line * 0, torch.ones(3), torch.full((3,), 1e4), [0.05] * K)
    assert equal.tolist() == [0]


def test_the_area_is_that_of_the_better_one() -> None:
    points = torch.zeros(2, K, 2)
    points[1] += 3
    for areas, kept in (([1e4, 1e2], [0]), ([1e2, 1e4], [0, 1])):
        assert suppress_by_oks(points, torch.tensor([0.9, 0.8]), torch.tensor(areas), [0.05] * K, 0.8).tolist() == kept


def test_sigmas_of_a_skeleton() -> None:
    assert sigmas_of(Skeleton(("a", "b"), sigmas=(0.1, 0.2))) == [0.1, 0.2]
    assert sigmas_of(Skeleton(("a", "b"))) == [0.05, 0.05]
