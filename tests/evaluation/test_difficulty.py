"""Whether two data sets are as hard as each other, image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpnet.core.errors import KpnetError
from kpnet.evaluation.difficulty import compare_difficulty, image_errors
from kpnet.evaluation.measurement import Predictions
from kpnet.heads import Keypoints

SIZE = (100, 200)


def off_by(pixels: list[list[float]], images: list[int] | None = None) -> Predictions:
    """Predictions (N, K) that are so many pixels of the input too far to the right; NaN where there is no label."""
    x = torch.tensor(pixels, dtype=torch.float64) * 2 / SIZE[1]
    points = torch.stack([x, torch.zeros_like(x)], -1)
    labelled = x.isfinite()
    eye = torch.eye(2, 3).expand(len(x), 2, 3)
    number = np.arange(len(x)) if images is None else np.array(images)
    return Predictions(Keypoints(points.nan_to_num()), torch.zeros_like(points), labelled, eye, images=number)


def test_an_image_counts_once_however_many_points_it_has() -> None:
    nan = float("nan")
    assert image_errors(off_by([[1, 2, 6], [4, nan, nan], [nan, nan, nan]]), SIZE) == pytest.approx([2, 4])


def test_the_test_is_exact_where_one_set_is_harder_than_the_other() -> None:
    """Of the 252 ways to draw 5 of 10, two separate them."""
    easy, hard = ([[float(i)] for i in range(start, start + 5)] for start in (1, 11))
    found = compare_difficulty(off_by(hard), off_by(easy), SIZE)
    assert found.p == pytest.approx(2 / 252)
    assert found.medians == pytest.approx((13, 3))
    assert found.describe(("a", "b")) == (
        "median error of an image: 13.000 px on a (5 images) and 3.000 px on b (5 images): they differ, so the "
        "calibrated model may be too shy on b (Mann-Whitney test, p = 0.0079)"
    )
    assert "may be too sure on b" in compare_difficulty(off_by(easy), off_by(hard), SIZE).describe(("a", "b"))


def test_sets_of_the_same_kind_rarely_differ() -> None:
    draws = np.random.default_rng(0).gamma(2, size=(200, 2, 30, 1))
    differ = [compare_difficulty(off_by(a.tolist()), off_by(b.tolist()), SIZE).differs for a, b in draws]
    assert np.mean(differ) < 0.1


def test_the_instances_of_an_image_count_as_one() -> None:
    errors = [[1.0, 2.0], [6.0, float("nan")], [4.0, 4.0]]
    assert image_errors(off_by(errors, [0, 0, 1]), SIZE) == pytest.approx([2, 4])
    found = compare_difficulty(off_by(errors, [0, 0, 1]), off_by(errors), SIZE)
    assert found.images == (2, 3)


def test_data_without_labels_is_an_error() -> None:
    with pytest.raises(KpnetError, match="no point is labelled"):
        compare_difficulty(off_by([[1]]), off_by([[float("nan")]]), SIZE)
