"""Drawn faces that move: smoothly within a clip, and independently between clips."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError
from kpnet.data import DATASETS, SyntheticClips


def test_moving_faces_move_smoothly_and_each_frame_has_its_own_noise() -> None:
    data = SyntheticClips(3, frames=30, seed=2)
    assert len(data) == 90
    assert data.clips().tolist() == np.repeat(range(3), 30).tolist()
    assert data.image_name(31) == "1_1"
    reads = [data.read(i) for i in range(90)]
    xy = np.stack([points for _, points in reads]).reshape(3, 30, 15, 2)
    assert (np.ptp(xy, axis=1).max((1, 2)) > 5).all()
    steps, turns = np.diff(xy, axis=1), np.diff(xy, 2, axis=1)
    assert np.abs(steps).max() < 4
    assert np.abs(turns).mean() < 0.3 * np.abs(steps).mean()
    assert (xy > 0).all()
    assert (xy < 95).all()
    assert np.array_equal(reads[40][0], SyntheticClips(5, frames=30, seed=2).read(40)[0])
    still = SyntheticClips(1, frames=2, seed=7)
    with patch("kpnet.data.synthetic.clips._waves", lambda rng, frame, amplitudes: np.zeros(len(amplitudes))):
        (first, a), (second, b) = still.read(0), still.read(1)
    assert np.array_equal(a, b)
    grain = first.astype(float) - second
    assert 1.5 < grain.std() < 20
    assert abs(grain.mean()) < 0.5


def test_moving_faces_from_a_config() -> None:
    open_ = DATASETS.find("synthetic_clips").open
    assert len(open_(DataConfig(), "3", None, seed=2)) == 72
    with pytest.raises(KpnetError, match=r'found "train\.csv", expected their number'):
        open_(DataConfig(), "train.csv", None)
    with pytest.raises(KpnetError, match="at least 1"):
        SyntheticClips(0)
    with pytest.raises(IndexError):
        SyntheticClips(1).read(24)
