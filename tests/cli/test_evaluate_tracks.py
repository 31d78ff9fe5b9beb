"""Identities at the command line: `kpnet predict --track` and `kpnet evaluate --tracks`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.console import Run

from kpnet.data.video import write_video


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    with write_video(tmp_path / "clip.mp4", 25) as add:
        for _ in range(6):
            add(draw.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    return tmp_path / "clip.mp4"


def test_a_model_of_one_instance_has_one_identity(kpnet: Run, trained: Path, clip: Path, tmp_path: Path) -> None:
    done = kpnet("predict", trained, "clip.mp4", "--track", "--no-draw")
    assert done.code == 0
    assert f"{trained} predicts one instance per image: --track gives one identity" in done.err
    assert done.out.startswith("clip.mp4, 6 frame(s), 1 identity: predictions/clip_tracks.csv, clip_deeplabcut.csv")
    table = pd.read_csv(tmp_path / "predictions" / "clip_tracks.csv")
    assert set(table.track) == {"track_0"}
    assert len(table) == 6 * 3
    pytest.importorskip("trackeval")
    table[table.frame.between(2, 4)].to_csv("some.csv", index=False)
    measured = kpnet("evaluate", trained, "clip.mp4", "--tracks", "some.csv", "--json")
    found = json.loads(measured.out)["identities"]
    assert (found["frames"], found["idf1"], found["switches"], found["identities"]) == (3, 1, 0, 1)
    line = kpnet("evaluate", trained, "clip.mp4", "--tracks", "some.csv").out.splitlines()[-1]
    assert line.startswith("clip.mp4, 3 labelled frames, 1 tracks, 1 found: IDF1 1.0000, 0 switches, HOTA 1.0000")
    table.assign(frame=table.frame + 3).to_csv("late.csv", index=False)
    kpnet("evaluate", trained, "clip.mp4", "--tracks", "late.csv").refused(
        "late.csv: has frame 8", "frames up to 5 only"
    )


def test_options_that_do_not_fit(kpnet: Run, trained: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    kpnet("predict", trained, "a.png", "--track").refused("--track is for videos, and there is none among the inputs")
    kpnet("predict", trained, "clip.mp4", "--track", "--engine", "ray").refused("--track are not for it")
    kpnet("evaluate", trained, "--tracks", "t.csv").refused("--tracks needs the video")
    kpnet("evaluate", trained, "clip.mp4", "--tracks", "t.csv", "--nme", "box").refused("--tracks measures identities")
    kpnet("evaluate", trained, "--max-instances", "2").refused("--max-instances is for --tracks")
    kpnet("evaluate", trained, "clip.mp4", "--tracks", "t.csv").refused("t.csv: ", "No such file")
    assert not (tmp_path / "predictions").exists()
