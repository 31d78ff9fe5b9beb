"""`kpnet train` where it is one of several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.console import Run

from kpnet.training.supervised import TrainedRun


@pytest.mark.parametrize(("node", "lines"), [("0", 1), ("1", 0)])
def test_only_the_first_machine_says_where_the_run_is(
    kpnet: Run, monkeypatch: pytest.MonkeyPatch, node: str, lines: int
) -> None:
    """The run folder is on the first machine; Lightning sets NODE_RANK on each."""
    model: Any = type("Model", (), {"skeleton": type("Skeleton", (), {"name": None})})
    monkeypatch.setattr("kpnet.training.supervised.train", lambda *_, **__: TrainedRun(Path("out"), model, {}))
    monkeypatch.setenv("NODE_RANK", node)
    done = kpnet("train", "demo", "--out", "out")
    assert done.code == 0, done
    assert done.out.count("the run is in out") == lines
