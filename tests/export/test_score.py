"""What a lower precision costs."""

from __future__ import annotations

import math

import pytest

from kpnet.export.score import Cost


@pytest.mark.parametrize(
    ("score", "lost"),
    [((97.0, 100.0), 0.03), ((100.0, 100.0), 0.0), ((103.0, 100.0), -0.03), ((0.0, 100.0), 1.0)],
)
def test_the_share_of_the_score_that_is_lost(score: tuple[float, float], lost: float) -> None:
    assert Cost(score, (1, 4), (1.0, 2.0)).lost == pytest.approx(lost)


@pytest.mark.parametrize("score", [None, (1.0, 0.0), (1.0, math.nan), (math.nan, 100.0)])
def test_a_loss_that_is_not_known_is_never_within_a_bound(score: tuple[float, float] | None) -> None:
    assert not Cost(score, (1, 4), (1.0, 2.0)).lost <= 1.0
