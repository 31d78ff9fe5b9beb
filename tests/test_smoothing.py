"""Smoothing against closed forms, a loop written from the paper, and SciPy's filter."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import dot_image
from hypothesis import given
from hypothesis import strategies as st
from support.console import Run

from kpnet import KpnetError
from kpnet.smoothing import one_euro, parse_smoother, savgol

RATE = 30.0


def walk(frames: int = 60, points: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (frames, points, 2)).cumsum(0) + 50


def euro_of_the_paper(
    values: list[float], rate: float, min_cutoff: float, beta: float, speed_cutoff: float
) -> list[float]:
    """Algorithm 1 of Casiez et al., a sample at a time."""

    def alpha(cutoff: float) -> float:
        tau = 1 / (2 * math.pi * cutoff)
        return 1 / (1 + tau * rate)

    answer, dx_hat = [values[0]], 0.0
    for x in values[1:]:
        dx = (x - answer[-1]) * rate
        dx_hat = alpha(speed_cutoff) * dx + (1 - alpha(speed_cutoff)) * dx_hat
        a = alpha(min_cutoff + beta * abs(dx_hat))
        answer.append(a * x + (1 - a) * answer[-1])
    return answer


@pytest.mark.parametrize("options", [(1.0, 0.1, 1.0), (0.3, 0.0, 2.0), (5.0, 1.0, 0.5)])
def test_one_euro_is_the_papers(options: tuple[float, float, float]) -> None:
    min_cutoff, beta, speed_cutoff = options
    xy = walk()
    found = one_euro(xy, rate=RATE, min_cutoff=min_cutoff, beta=beta, speed_cutoff=speed_cutoff)
    for k in range(3):
        for axis in range(2):
            expected = euro_of_the_paper(xy[:, k, axis].tolist(), RATE, *options)
            np.testing.assert_allclose(found[:, k, axis], expected, rtol=1e-12)


@pytest.mark.parametrize("speed", [3.0, 60.0, 2000.0])
@pytest.mark.parametrize("beta", [0.02, 0.1])
def test_one_euro_lags_less_than_it_says(speed: float, beta: float) -> None:
    line = (speed / RATE * np.arange(2000.0))[:, None, None] * np.ones(2)
    lag = (line - one_euro(line, rate=RATE, beta=beta))[-1]
    assert (lag > 0).all()
    assert (lag < 1 / (2 * math.pi * beta)).all()


@pytest.mark.parametrize(("window", "degree"), [(1, 0), (5, 2), (9, 2), (11, 4), (7, 0)])
def test_savgol_is_scipys_where_all_weigh_alike(window: int, degree: int) -> None:
    signal = pytest.importorskip("scipy.signal")
    xy = walk()
    expected = signal.savgol_filter(xy, window, degree, axis=0, mode="interp")
    np.testing.assert_allclose(savgol(xy, window=window, degree=degree), expected, atol=1e-9)
    np.testing.assert_allclose(savgol(xy, np.full((60, 3), 0.3), window=window, degree=degree), expected, atol=1e-9)


@given(
    degree=st.integers(0, 4),
    half=st.integers(2, 8),
    frames=st.integers(1, 40),
    seed=st.integers(0, 99),
    missing=st.floats(0, 0.5),
)
def test_a_polynomial_of_the_degree_passes_unchanged(
    degree: int, half: int, frames: int, seed: int, missing: float
) -> None:
    """Whatever the weights are, and where samples are missing, as long as a window has enough of them."""
    draw = np.random.default_rng(seed)
    time = np.linspace(-1, 1, frames)
    xy = (draw.normal(0, 30, (degree + 1, 1, 2, 2)) * (time[:, None] ** np.arange(degree + 1)).T[..., None, None]).sum(
        0
    )
    weight = draw.uniform(0.2, 1, (frames, 2))
    holes = draw.random((frames, 2)) < missing
    window = 2 * half + 1
    width = min(window, frames)
    starts = np.clip(np.arange(frames) - half, 0, frames - width)
    enough = np.stack([(~holes[s : s + width]).sum(0) > degree for s in starts])
    given_xy, given_weight = xy.copy(), weight.copy()
    given_xy[holes & (draw.random(holes.shape) < 0.5)] = np.nan
    given_weight[holes] = 0
    given_xy[holes] += 1e6  # it is not to be looked at
    found = savgol(given_xy, given_weight, window=window, degree=min(degree, window - 1))
    np.testing.assert_allclose(found[enough], xy[enough], atol=1e-5)


def test_savgol_by_weighted_least_squares() -> None:
    """Against numpy's, of one window."""
    draw = np.random.default_rng(3)
    xy, weight = walk(20), draw.uniform(0.01, 1, (20, 3))
    found = savgol(xy, weight, window=7, degree=2)
    for frame in (0, 2, 10, 19):
        at = np.arange(7) + min(max(frame - 3, 0), 13)
        for k in range(3):
            fit = np.polyfit(at - frame, xy[at, k], 2, w=np.sqrt(weight[at, k]))
            np.testing.assert_allclose(found[frame, k], fit[-1], atol=1e-8)


@pytest.mark.parametrize("smoother", [one_euro, savgol])
def test_what_weighs_nothing_is_not_looked_at(smoother: type) -> None:
    xy = walk()
    weight = np.random.default_rng(1).uniform(0.1, 1, (60, 3))
    weight[10:14, 0] = 0
    weight[30, 1] = 0
    answers = []
    for junk in (0.0, 1e9, np.nan, np.inf):
        xy[weight == 0] = junk
        answers.append(smoother(xy, weight))
    unsure = weight.copy()
    unsure[weight == 0] = np.nan  # a head may not say
    answers.append(smoother(xy, unsure))
    assert np.isfinite(answers[0]).all()
    for other in answers[1:]:
        np.testing.assert_array_equal(other, answers[0])


def test_one_euro_waits_over_a_gap() -> None:
    """A sample after three missing ones is one of a quarter of the rate."""
    xy = np.array([0.0, 4, 8, 12, 16])[:, None, None] * np.ones(2)
    missing = np.full((17, 1, 2), np.nan)
    missing[::4] = xy
    found, expected = one_euro(missing, rate=RATE), one_euro(xy, rate=RATE / 4)
    np.testing.assert_allclose(found[::4], expected, rtol=1e-12)
    np.testing.assert_array_equal(found[1:4], np.repeat(found[:1], 3, axis=0))


@pytest.mark.parametrize("smoother", [one_euro, savgol])
def test_nothing_to_fill_in_from(smoother: type) -> None:
    xy = walk(12)
    xy[:, 1] = np.nan
    found = smoother(xy)
    assert np.isnan(found[:, 1]).all()
    np.testing.assert_array_equal(found[:, [0, 2]], smoother(xy[:, [0, 2]]))
    assert smoother(np.empty((0, 3, 2))).shape == (0, 3, 2)


@pytest.mark.parametrize(
    ("text", "quieter", "off"), [("savgol:window=11", 4.0, 0.4), ("one_euro:beta=0.05", 2.0, 3.2), ("savgol", 3.0, 0.4)]
)
def test_jitter_falls_and_the_points_stay_where_they_are(text: str, quieter: float, off: float) -> None:
    """On a circle of 40 px in four seconds, with noise of 1 px: at least `quieter` times less jitter, and without the
    noise never `off` px away."""
    angle = 2 * np.pi * np.arange(480) / 120
    circle = 40 * np.stack([np.cos(angle), np.sin(angle)], -1)[:, None]
    noisy = circle + np.random.default_rng(0).normal(size=circle.shape)
    smoother = parse_smoother(text, RATE)

    def jitter(xy: np.ndarray) -> float:
        return float(np.abs(np.diff(xy - circle, 2, axis=0)).mean())

    ones = np.ones((480, 1))
    assert jitter(smoother(noisy, ones)) * quieter < jitter(noisy)
    assert np.abs(smoother(circle, ones) - circle).max() < off


def test_a_sure_sample_pulls_more() -> None:
    xy = np.zeros((9, 2, 2))
    xy[4] = 10
    weight = np.ones((9, 2))
    weight[4] = (1, 0.1)
    for smoother in (one_euro, savgol):
        pulled = smoother(xy, weight)[4, :, 0]
        assert pulled[0] > 2 * pulled[1] > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("savgoal", 'unknown filter "savgoal" .did you mean "savgol".*one_euro, savgol'),
        ("savgol:windw=3", 'savgol: unknown option "windw" .did you mean "window".*window, degree'),
        ("savgol:window=a", 'window: expected a number, e.g. 9, found "a"'),
        ("savgol:window=4", "odd number of frames of at least 1, found 4"),
        ("savgol:window=3,degree=3", "degree: expected 0 to 2"),
        ("one_euro:beta=-1", "beta: expected a number of at least 0, found -1"),
        ("one_euro:min_cutoff=0", "min_cutoff: expected a number above 0"),
        ("one_euro:rate=3", 'unknown option "rate"'),
    ],
)
def test_what_is_wrong_with_a_filter(text: str, message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        parse_smoother(text, RATE)


def test_wrong_shapes_and_weights() -> None:
    for xy, weight in (
        (np.zeros((3, 2)), None),
        (np.zeros((3, 2, 2)), np.ones((3, 3))),
        (np.zeros((3, 1, 2)), -np.ones((3, 1))),
    ):
        with pytest.raises(KpnetError, match="expected"):
            savgol(xy, weight)


def test_smoothed_columns_stand_beside_the_raw(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"FFV1"), 20.0, (64, 64))
    for _ in range(15):
        grey = dot_image(draw.uniform(5, 60, (3, 2)), 64)
        writer.write(np.stack([grey, grey, grey], axis=-1))
    writer.release()
    tables = {}
    for name, options in (("raw", []), ("smooth", ["--smooth", "savgol:window=5"])):
        assert kpnet("predict", trained, "clip.avi", "--out", name, *options).code == 0
        tables[name] = pd.read_csv(tmp_path / name / "clip_tracks.csv")
    smooth = tables["smooth"]
    pd.testing.assert_frame_equal(smooth[tables["raw"].columns], tables["raw"])
    xy, weight = (smooth[columns].to_numpy().reshape(15, 3, -1) for columns in (["x", "y"], ["confidence"]))
    expected = savgol(xy, weight[..., 0], window=5)
    found = smooth[["x_smooth", "y_smooth"]].to_numpy().reshape(15, 3, 2)
    np.testing.assert_allclose(found, expected, atol=2e-3)  # the table is rounded, the weights of a raw run are small
    assert np.abs(found - xy).max() > 0.005
    wide = pd.read_csv(tmp_path / "smooth" / "clip_deeplabcut.csv", header=[0, 1, 2], index_col=0)
    assert wide["kpnet"]["nose"]["x"].tolist() == smooth[smooth.name == "nose"].x_smooth.tolist()
    cv2.imwrite("still.png", np.zeros((32, 32), np.uint8))
    kpnet("predict", trained, "still.png", "--smooth", "savgol").refused("--smooth is for videos")
    kpnet("predict", trained, "clip.avi", "--smooth", "savgo").refused('"savgo"', '"savgol"')
