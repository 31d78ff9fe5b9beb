"""Clips of faces that cross: their identities are known, and each crossing hides the farther one."""

from __future__ import annotations

import numpy as np
import pytest

from kpnet.core.errors import KpnetError
from kpnet.data.synthetic.moving_scenes import draw_clip


def test_pairs_cross_and_the_nearer_one_is_in_front() -> None:
    clip = draw_clip(80, 4, seed=0, size=128)
    assert clip.images.shape == (80, 128, 128)
    assert clip.points.shape == (80, 4, 15, 2)
    assert clip.visibility.shape == (80, 4, 15)
    assert clip.identities.tolist() == [0, 1, 2, 3]
    assert ((clip.points > 0) & (clip.points < 127)).all()
    middles = clip.points.mean(2)
    assert np.abs(np.diff(middles, axis=0)).max() < 12  # no jump
    for far, near in ((0, 1), (2, 3)):
        left = middles[:, far, 0] < middles[:, near, 0]
        assert (np.diff(left.astype(int)) != 0).sum() >= 2  # they pass each other, to and fro
        hidden = (clip.visibility[:, far] == 1).any(-1)
        assert 4 <= hidden.sum() <= 40
        apart = np.linalg.norm(middles[:, far] - middles[:, near], axis=-1)
        assert apart[hidden].max() < 45 < apart[~hidden].max()
    assert (clip.visibility[:, 3] == 2).all()  # nothing is in front of the last one


def test_a_clip_follows_from_its_arguments_and_begins_as_a_shorter_one() -> None:
    long, short = draw_clip(6, 3, seed=4, size=64), draw_clip(3, 3, seed=4, size=64)
    np.testing.assert_array_equal(long.images[:3], short.images)
    np.testing.assert_array_equal(long.points[:3], short.points)
    other = draw_clip(3, 3, seed=5, size=64)
    assert not np.array_equal(short.points, other.points)
    assert not np.array_equal(short.images[0], short.images[1])


def test_arguments_out_of_range() -> None:
    for frames, faces, size in ((0, 2, 64), (3, 0, 64), (3, 21, 64), (3, 2, 8)):
        with pytest.raises(KpnetError, match=r"moving scenes: .* expected at least 1 frame"):
            draw_clip(frames, faces, 0, size=size)
