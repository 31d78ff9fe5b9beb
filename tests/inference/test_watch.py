"""The comparison with held-out images: its tests against enumeration and simulation, and what a `Predictor` watches."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import energy_distance

from kpnet import KpnetError, Predictor
from kpnet.data import SyntheticFaces
from kpnet.evaluation.watch import summarise
from kpnet.heads import Keypoints
from kpnet.inference.watch import (
    WINDOW,
    OtherDataWarning,
    Verdict,
    Watch,
    compare,
    energy_p_value,
    measure_strangeness,
)
from kpnet.models.build import build_model
from kpnet.models.test_time import TestTime
from kpnet.models.watch import EXPECTED, FEATURES, WatchReference, compute_signals

SIDE = 96


class _Model:
    """What a summary asks a model."""

    class config:
        head = "heatmap"

    calibration = instance_calibration = None


def small_model(**options: Any) -> Any:
    small = {"name": "conv_sandwich", "channels": [4, 40], "norm": "batch"}
    values = {
        "backbone": small,
        "head": "heatmap",
        "in_channels": 1,
        "input_size": SIDE,
        "num_keypoints": 15,
        **options,
    }
    return build_model(**values).eval()


def draw_signals(count: int, rng: np.random.Generator, shift: float = 0.0, channels: int = 50) -> np.ndarray:
    """Signals of images: confidences, spreads and expected errors that go together, and features of their own."""
    ease = rng.standard_normal(count) - shift
    columns = [1 / (1 + np.exp(-3 - ease)), -5 - 0.3 * ease, 0.015 * np.exp(-0.3 * ease)]
    features = rng.standard_normal((count, channels)) @ np.diag(1 / np.arange(1, channels + 1)) + 0.5 * shift
    return np.column_stack([*columns, features]).astype(np.float32)


def reference_of(signals: np.ndarray) -> WatchReference:
    return WatchReference.from_signals(signals, len(signals), _Model(), None)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_the_p_value_is_that_of_all_splits(shift: float) -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.standard_normal(5), rng.standard_normal(4) + shift])
    everyone = set(range(9))
    distances = [
        energy_distance(rows[sorted(everyone - set(part))], rows[list(part)])
        for part in itertools.combinations(range(9), 4)
    ]
    exact = np.mean(np.array(distances) >= energy_distance(rows[:5], rows[5:]) - 1e-12)
    assert energy_p_value(rows[:5, None], rows[5:, None]) == pytest.approx(exact, abs=0.04)


def test_nothing_but_equal_rows_says_nothing() -> None:
    assert energy_p_value(np.ones((8, 3)), np.ones((5, 3)), 99) == 1


def test_few_false_alarms_though_features_outnumber_images() -> None:
    """Axes that were fitted to the held-out images would show new ones to be different."""
    rng, alarms = np.random.default_rng(0), []
    for _ in range(150):
        reference = reference_of(draw_signals(60, rng, channels=200))
        new = reference.project(draw_signals(25, rng, channels=200))
        p_value = energy_p_value(reference.signals[:, FEATURES:].numpy(), new[:, FEATURES:], 99)
        alarms.append(p_value <= 0.05)
    assert np.mean(alarms) <= 0.1  # the 99 % quantile of the binomial is 0.093


def test_other_data_is_found_by_each_signal() -> None:
    rng = np.random.default_rng(0)
    reference, new = reference_of(draw_signals(200, rng)), draw_signals(30, rng)
    assert not compare(reference, reference.project(new), SIDE).is_other
    for column, name in ((0, "confidence"), (1, "spread"), (FEATURES, "features")):
        changed = new.copy()
        changed[:, column] += 2 * new[:, column].std()
        verdict = compare(reference, reference.project(changed), SIDE)
        assert verdict.is_other
        assert min(verdict.tests, key=lambda each: verdict.tests[each]) == name
        assert name in str(verdict)


def test_the_expected_error_has_the_interval_of_its_mean() -> None:
    rng = np.random.default_rng(0)
    reference, new = reference_of(draw_signals(200, rng)), draw_signals(400, rng, shift=0.5)
    error = compare(reference, reference.project(new), SIDE, 19).expected_error
    assert error is not None
    pixels = SIDE * new[:, EXPECTED].astype(float)
    deviation = pixels.std() / np.sqrt(len(new))
    assert error.mean == pytest.approx(pixels.mean(), rel=1e-6)
    assert error.high - error.mean == pytest.approx(1.96 * deviation, rel=0.2)
    assert error.mean - error.low == pytest.approx(1.96 * deviation, rel=0.2)


def test_images_without_instances_have_a_confidence_of_0_alone() -> None:
    rng = np.random.default_rng(0)
    reference = reference_of(draw_signals(100, rng))
    empty = np.full((20, reference.signals.shape[1]), np.nan, np.float32)
    empty[:, 0] = 0
    verdict = compare(reference, empty, SIDE)
    assert verdict.is_other
    assert set(verdict.tests) == {"confidence"}
    assert verdict.expected_error is None
    assert np.isinf(measure_strangeness(reference, empty)).all()


def test_where_nothing_is_found_in_any_image_nothing_is_other() -> None:
    """Held-out and new images have a confidence of 0 alone."""
    nothing = draw_signals(40, np.random.default_rng(0))
    nothing[:, 0], nothing[:, 1:] = 0, np.nan
    reference = reference_of(nothing)
    verdict = compare(reference, reference.project(nothing[:30]), SIDE)
    assert (verdict.is_other, verdict.p_value, verdict.tests) == (False, 1, {"confidence": 1})
    nothing[:, 0] = np.nan  # of a head without spread
    assert compare(reference_of(nothing), reference.project(nothing[:30]), SIDE).p_value == 1


def test_a_head_without_spread_has_its_features_compared() -> None:
    rng = np.random.default_rng(0)
    points = Keypoints(torch.zeros(30, 4, 2), torch.rand(30, 4), torch.eye(2).expand(30, 4, 2, 2) * 1e-3)
    rows = compute_signals(points, torch.from_numpy(rng.standard_normal((30, 8))).float(), (96, 96), has_spread=False)
    reference = reference_of(rows.numpy())
    verdict = compare(reference, reference.project(rows.numpy()), SIDE)
    assert set(verdict.tests) == {"features"}
    assert verdict.confidence is None
    assert verdict.expected_error is None


def test_strangeness_is_relative_to_the_held_out_images() -> None:
    rng = np.random.default_rng(0)
    reference = reference_of(draw_signals(200, rng))
    near = measure_strangeness(reference, reference.project(draw_signals(50, rng)))
    assert np.median(near) == pytest.approx(1, abs=0.2)
    far = draw_signals(3, rng)
    far[:, FEATURES:] += np.array([[2], [4], [8]])
    assert (np.diff(measure_strangeness(reference, reference.project(far))) > 0).all()


def test_two_images_are_needed() -> None:
    reference = reference_of(draw_signals(20, np.random.default_rng(0)))
    with pytest.raises(KpnetError, match="expected at least 2 images to compare with the held-out ones, found 1"):
        compare(reference, reference.signals[:1].numpy(), SIDE)
    with pytest.raises(KpnetError, match="found 0"):
        Watch(reference, small_model()).verdict()


@pytest.fixture(scope="module")
def watched() -> Any:
    """A model, untrained, with the summary of 60 held-out faces."""
    torch.manual_seed(0)
    model = small_model()
    model.watch_reference = summarise(model, SyntheticFaces(60, seed=1))
    return model


def faces(count: int, seed: int) -> list[np.ndarray]:
    data = SyntheticFaces(count, seed=seed)
    return [data.read(index)[0] for index in range(count)]


def test_a_predictor_watches_its_images(watched: Any) -> None:
    found: list[Verdict] = []
    predictor = Predictor(watched, watch=found.append)
    assert predictor.watch is not None
    for image in faces(10, seed=2):
        predictor(image)
    predictor(faces(26, seed=3))
    assert predictor.watch.seen == 36
    assert not predictor.watch.verdict().is_other
    assert not found
    inverted = [255 - image for image in faces(40, seed=4)]
    for _ in range(6):
        predictor(inverted)
    assert predictor.watch.is_other
    assert [each.images for each in found] == [128]  # and not again at 256
    assert found[0].p_value <= 0.001


def test_a_predictor_warns_once(watched: Any) -> None:
    predictor = Predictor(watched, watch=True)
    with pytest.warns(OtherDataWarning, match="images are other data than the held-out images: .*features"):
        list(predictor.stream(("", 255 - image, None) for image in faces(32, seed=2)))


def test_the_memory_of_a_watch_is_bounded(watched: Any) -> None:
    watch = Watch(watched.watch_reference, watched, lambda verdict: None)
    prediction = Predictor(watched)
    prediction.keeps_signals = True
    one = prediction(faces(1, seed=2)[0])
    for _ in range(WINDOW + 100):
        watch.add(one)
    assert watch.verdict().images == WINDOW
    assert watch.seen == WINDOW + 100


def test_signals_need_no_further_pass_and_change_no_prediction(watched: Any) -> None:
    passes = []
    handle = watched.backbone.register_forward_hook(lambda *_: passes.append(1))
    images = faces(5, seed=2)
    plain, watching = Predictor(watched)(images), Predictor(watched, watch=True)(images)
    handle.remove()
    assert len(passes) == 2
    for before, after in zip(plain, watching, strict=True):
        assert before.signals is None
        assert after.signals is not None
        np.testing.assert_array_equal(before.keypoints, after.keypoints)
        np.testing.assert_array_equal(before.covariance, after.covariance)
    assert not watched.backbone._forward_hooks


def test_signals_are_those_of_each_image(watched: Any) -> None:
    """In batches or alone, and whatever the batch: against the model itself."""
    images = faces(5, seed=2)
    predictor = Predictor(watched, batch_size=2)
    predictor.keeps_signals = True
    signals = np.concatenate([each.signals for each in predictor(images)])
    inputs = torch.from_numpy(np.stack(images))[:, None].float() / 255
    maps = watched.backbone((inputs - watched.mean) / watched.std)[-1]
    expected = compute_signals(watched.infer(inputs), maps.mean((-2, -1)), (SIDE, SIDE)).detach().numpy()
    np.testing.assert_allclose(signals, expected, rtol=1e-4, atol=1e-5)


def test_models_that_cannot_be_watched(watched: Any) -> None:
    with pytest.raises(KpnetError, match="no summary of held-out data to compare with; make it, with a guarantee"):
        Predictor(small_model(), watch=True)
    with pytest.raises(KpnetError, match="found Ensemble"):
        Predictor([watched, watched], watch=True)
    with pytest.raises(KpnetError, match="with no further view, and not with the views flip=True"):
        Predictor(watched, watch=True, test_time=TestTime(flip=True))
