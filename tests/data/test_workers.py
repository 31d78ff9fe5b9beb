"""How many workers load a dataset."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kpnet.data.synthetic.faces import SyntheticFaces
from kpnet.data.workers import evaluation_workers, fitting_workers


@pytest.mark.parametrize(
    ("free", "asked", "expected"),
    [(10**9, 4, 4), (64_000, 4, 0), (5 * 40_000, 4, 2), (5 * 40_000, 1, 1), (3 * 40_000 - 1, 4, 0), (0, 0, 0)],
)
def test_as_many_workers_as_the_shared_memory_has_room_for(
    free: int, asked: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches of each are ready and one is used; a batch of ten samples of 1000 numbers is of 40 kB."""

    class Thousand:
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"image": torch.zeros(1, 10, 100), "name": "a"}

    data: Any = Thousand()
    shared = "kpnet.data.workers.SHARED_MEMORY"
    monkeypatch.setattr(shared, tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    assert fitting_workers(data, asked, 10) == expected
    monkeypatch.setattr(shared, tmp_path / "not on this system")
    assert fitting_workers(data, asked, 10) == asked


@pytest.mark.parametrize(("asked", "size", "expected"), [(4, 3, 3), (4, 2, 4), (2, 2, 2), (4, 7, 0), (0, 2, 0)])
def test_an_evaluation_has_no_more_workers_than_batches(asked: int, size: int, expected: int) -> None:
    assert evaluation_workers(SyntheticFaces(7), asked, size) == expected
