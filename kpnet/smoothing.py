"""Smooth tracks of points over the frames of a video: pure functions.

Tracks are points (T, K, 2) over T frames. `weight` (T, K), such as the confidence, says how much each sample counts.
A sample of weight 0 or NaN, or with a point that is not finite, is missing: it is filled in from the others, or NaN
where there are none.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial

import numpy as np

from kpnet.core.errors import KpnetError, did_you_mean

MIN_WEIGHT = 1e-6  # a weight below this fraction of the window's largest counts as 0
BLOCK = 4096  # windows fitted at once


def one_euro(
    xy: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    rate: float = 30.0,
    min_cutoff: float = 1.0,
    beta: float = 0.1,
    speed_cutoff: float = 1.0,
) -> np.ndarray:
    """Smooth tracks with the One-Euro filter: an exponential mean of the past, the shorter the faster a point moves.

    Casiez et al. 2012, "1€ filter: a simple speed-based low-pass filter for noisy input in interactive systems". The
    cut-off frequency is min_cutoff + beta * speed, in Hz. Behind a point of steady speed, the result lags by less than
    1 / (2 pi beta) pixels along each axis, at weight 1.

    Args:
        xy: Tracks (T, K, 2) in pixels.
        weight: Weights (T, K); a new sample's share is multiplied by its weight, at most 1. None for 1. A missing
            sample leaves the result where it was.
        rate: Frames per second.
        min_cutoff: Cut-off frequency of a point at rest, in Hz.
        beta: Rise of the cut-off frequency with the speed along each axis, in Hz per pixel/s.
        speed_cutoff: Cut-off frequency of the mean that gives the speed, in Hz.

    Returns:
        Smoothed tracks (T, K, 2), float64.

    Raises:
        KpnetError: If shapes do not fit, or an option is out of range.
    """
    xy, weight = _checked(xy, weight)
    for name, number in (("rate", rate), ("min_cutoff", min_cutoff), ("speed_cutoff", speed_cutoff)):
        if not 0 < number < math.inf:
            raise KpnetError(f"one_euro: {name}: expected a number above 0, found {number}")
    if not 0 <= beta < math.inf:
        raise KpnetError(f"one_euro: beta: expected a number of at least 0, found {beta}")
    share = np.minimum(weight, 1)[..., None]
    smooth = np.empty_like(xy)
    value, speed = np.full(xy.shape[1:], np.nan), np.zeros(xy.shape[1:])
    waited = np.ones((xy.shape[1], 1))  # frames since the last sample
    for t in range(len(xy)):
        there = share[t] > 0
        first = there & np.isnan(value)
        sample = np.where(there, xy[t], 0)
        seconds = waited / rate
        known = np.nan_to_num(value)
        speed_now = np.where(first, 0, (sample - known) / seconds)
        speed_share = share[t] * _smoothing_factor(speed_cutoff, seconds)
        speed = np.where(there, speed + speed_share * (speed_now - speed), speed)
        moved = known + share[t] * _smoothing_factor(min_cutoff + beta * np.abs(speed), seconds) * (sample - known)
        value = np.where(first, sample, np.where(there, moved, value))
        waited = np.where(there, 1, waited + 1)
        smooth[t] = value
    return smooth


def savgol(xy: np.ndarray, weight: np.ndarray | None = None, *, window: int = 9, degree: int = 2) -> np.ndarray:
    """Smooth tracks with a Savitzky-Golay filter: at each frame, the least-squares polynomial of a window around it.

    Savitzky and Golay 1964, "Smoothing and differentiation of data by simplified least squares procedures". A
    polynomial of the degree passes unchanged, so that steady motion has no lag.

    Args:
        xy: Tracks (T, K, 2) in pixels.
        weight: Weights (T, K) of the samples in the fit; None for 1.
        window: Frames of the window, an odd number. At the ends it is moved inwards; for a shorter track it is the
            whole track.
        degree: Degree of the polynomial; lower where a window has too few samples.

    Returns:
        Smoothed tracks (T, K, 2), float64.

    Raises:
        KpnetError: If shapes do not fit, or an option is out of range.
    """
    xy, weight = _checked(xy, weight)
    if window < 1 or window % 2 == 0:
        raise KpnetError(f"savgol: window: expected an odd number of frames of at least 1, found {window}")
    if not 0 <= degree < window:
        raise KpnetError(f"savgol: degree: expected 0 to {window - 1}, less than the window, found {degree}")
    frames, width = len(xy), min(window, len(xy))
    starts = np.clip(np.arange(frames) - window // 2, 0, frames - width)
    smooth = np.full_like(xy, np.nan)
    for first in range(0, frames, BLOCK):  # all windows at once would be many times as large as the tracks
        at = np.arange(first, min(first + BLOCK, frames))
        for k in range(xy.shape[1]):
            smooth[at, k] = _fit(xy[:, k], weight[:, k], at, starts[at, None] + np.arange(width), degree)
    return smooth


def _fit(xy: np.ndarray, weight: np.ndarray, at: np.ndarray, windows: np.ndarray, degree: int) -> np.ndarray:
    """Return the values (N, 2) of a track (T, 2) at N frames, each by a fit to its window (N, width) of frames."""
    w = weight[windows]
    most = w.max(1, keepdims=True, initial=0)
    w = np.where(w > MIN_WEIGHT * most, w / np.where(most > 0, most, 1), 0)
    place = (windows - at[:, None]) / max(windows.shape[1] - 1, 1)  # 0 at the frame itself
    fitted = np.full((len(at), 2), np.nan)
    degrees = np.minimum((w > 0).sum(1) - 1, degree)
    for each in range(degree + 1):
        rows = degrees == each
        powers = place[rows, :, None] ** np.arange(each + 1)  # (n, width, each + 1)
        weighted = powers * w[rows, :, None]
        normal = weighted.swapaxes(1, 2) @ powers
        fitted[rows] = np.linalg.solve(normal, weighted.swapaxes(1, 2) @ xy[windows[rows]])[:, 0]
    return fitted


def _smoothing_factor(cutoff: float | np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Return the share of a new sample in an exponential mean with a cut-off in Hz."""
    return np.asarray(1 / (1 + 1 / (2 * math.pi * cutoff * seconds)))


def _checked(xy: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 points with 0 where they are missing, and weights that are 0 there."""
    xy = np.asarray(xy, np.float64)
    weight = np.ones(xy.shape[:2]) if weight is None else np.asarray(weight, np.float64)
    if xy.ndim != 3 or xy.shape[2] != 2 or weight.shape != xy.shape[:2]:
        raise KpnetError(f"expected points (T, K, 2) and weights (T, K), got {xy.shape} and {weight.shape}")
    if (weight < 0).any() or np.isinf(weight).any():
        raise KpnetError("smoothing: expected finite weights of at least 0")
    there = np.isfinite(xy).all(-1) & (weight > 0)
    return np.where(there[..., None], xy, 0), np.where(there, weight, 0)


Smoother = Callable[[np.ndarray, np.ndarray], np.ndarray]
SMOOTHERS: dict[str, Callable[..., np.ndarray]] = {"one_euro": one_euro, "savgol": savgol}


def parse_smoother(text: str, rate: float) -> Smoother:
    """Return the filter for a text such as `savgol` or `savgol:window=15,degree=3`.

    Args:
        text: Name of the filter, and options.
        rate: Frames per second.

    Returns:
        A function of points (T, K, 2) and weights (T, K), which returns smoothed points.

    Raises:
        KpnetError: If the filter, an option or a value is unknown or out of range.
    """
    name, _, given = text.partition(":")
    if name not in SMOOTHERS:
        raise KpnetError(
            f'--smooth: unknown filter "{name}"{did_you_mean(name, SMOOTHERS)}; there are: {", ".join(SMOOTHERS)}'
        )
    function = SMOOTHERS[name]
    defaults = {p.name: p.default for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
    options = {"rate": rate} if defaults.pop("rate", None) else {}
    for part in filter(None, given.split(",")):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in defaults:
            known = ", ".join(defaults)
            raise KpnetError(f'--smooth {name}: unknown option "{key}"{did_you_mean(key, defaults)}; known: {known}')
        try:
            options[key] = type(defaults[key])(value)
        except ValueError:
            raise KpnetError(
                f'--smooth {name}: {key}: expected a number, e.g. {defaults[key]}, found "{value}"'
            ) from None
    smoother = partial(function, **options)
    smoother(np.zeros((1, 1, 2)), np.ones((1, 1)))  # raises for a number out of range, before a video is read
    return smoother
