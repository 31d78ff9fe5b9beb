"""Identities as a SLEAP project, read back by sleap-io."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kpnet.core.skeleton import Skeleton
from kpnet.data.video import Video, write_video
from kpnet.inference.instance_tracks import InstanceTracks
from kpnet.inference.sleap_tracks import write_slp


def test_a_project_has_tracks_scores_and_points(tmp_path: Path) -> None:
    sio = pytest.importorskip("sleap_io")
    with write_video(tmp_path / "clip.mp4", 20) as add:
        for _ in range(4):
            add(np.zeros((32, 48, 3), np.uint8))
    rows = np.array(
        [
            [0, 0, 0, 0.9, 1, 2, 0.5, 3, 4, 0.25],
            [0, 1, 0, 0.8, 5, 6, 0.5, 7, 8, 0.25],
            [3, 1, 1, 0.7, 9, 1, 0.5, np.nan, np.nan, 0.0],
        ]
    )
    tracks = InstanceTracks(("a", "b"), np.arange(4) / 20, rows, ("score",))
    skeleton = Skeleton(("a", "b"), edges=(("a", "b"),))
    write_slp(tracks, Video(tmp_path / "clip.mp4"), skeleton, tmp_path / "clip_tracks.slp")
    labels = sio.load_slp(str(tmp_path / "clip_tracks.slp"), open_videos=False)
    assert [track.name for track in labels.tracks] == ["track_0", "track_1"]
    assert labels.videos[0].filename == str((tmp_path / "clip.mp4").resolve())
    assert labels.skeletons[0].edge_names == [("a", "b")]
    found = {
        (frame.frame_idx, one.track.name): (float(one.score), one.numpy().tolist())
        for frame in labels.labeled_frames
        for one in frame.predicted_instances
    }
    assert found.keys() == {(0, "track_0"), (0, "track_1"), (3, "track_1")}
    score, points = found[0, "track_1"]
    assert score == pytest.approx(0.8)
    np.testing.assert_allclose(points, [[5, 6], [7, 8]])
    np.testing.assert_equal(np.isnan(found[3, "track_1"][1]), [[False, False], [True, True]])
    sio.load_slp(str(tmp_path / "clip_tracks.slp")).video[3]  # the video is found and decoded
