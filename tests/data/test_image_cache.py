"""Decoded images that the workers of a loader share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from kpnet.config.loading import load_config
from kpnet.core.errors import KpnetError
from kpnet.data import KeypointDataset
from kpnet.data.build import build_train
from kpnet.data.image_cache import ImageCache

COUNT, HEIGHT, WIDTH = 8, 30, 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of different sizes, of which each has two instances."""
    rng, rows = np.random.default_rng(0), []
    for k in range(COUNT):
        cv2.imwrite(str(tmp_path / f"{k}.png"), rng.integers(0, 256, (HEIGHT + k, WIDTH, 3), np.uint8))
        rows += [{"image": f"{k}.png", "nose_x": 3.0 + i, "nose_y": 4.0} for i in range(2)]
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


def data(folder: Path, cache_gb: float) -> KeypointDataset:
    config = {
        "name": "cached",
        "model": {"backbone": "conv_sandwich", "head": "heatmap", "input_size": 32},
        "data": {"format": "points_csv", "root": str(folder), "train": "labels.csv", "cache_gb": cache_gb},
    }
    return build_train(load_config(config))


def epoch(loader: DataLoader[Any]) -> torch.Tensor:
    return torch.cat([batch["image"] for batch in loader])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_what_one_worker_read_the_others_see(folder: Path, start: str) -> None:
    expected = epoch(DataLoader(data(folder, 0), batch_size=4))
    cached = data(folder, 1e-3)
    assert torch.equal(epoch(DataLoader(cached, batch_size=4, num_workers=2, multiprocessing_context=start)), expected)
    for path in folder.glob("*.png"):
        path.unlink()
    # Other workers, and other samples for each of them.
    others = DataLoader(cached, batch_size=2, num_workers=2, multiprocessing_context=start)
    assert torch.equal(epoch(others), expected)
    assert torch.equal(epoch(DataLoader(cached)), expected)


def test_what_does_not_fit_is_read_each_time(folder: Path) -> None:
    sizes = 3 * WIDTH * (HEIGHT + np.arange(COUNT))
    cached = data(folder, (sizes[:3].sum() + 1) / 1e9)
    before = epoch(DataLoader(cached))
    for k in range(COUNT):
        cv2.imwrite(str(folder / f"{k}.png"), np.zeros((HEIGHT + k, WIDTH, 3), np.uint8))
    after = epoch(DataLoader(cached))
    assert torch.equal(after[:6], before[:6])
    assert before[6:].abs().max() > 0
    assert after[6:].abs().max() == 0


def test_an_image_is_the_callers_own_and_keeps_its_shape() -> None:
    cache = ImageCache(np.array([6, 6]), 1000)
    turned = np.arange(18, dtype=np.uint8).reshape(3, 2, 3)
    cache.get(1, lambda: turned)[:] = 0
    cache.get(0, lambda: np.zeros((2, 3, 3), np.uint8))
    kept = cache.get(1, lambda: np.zeros(0))
    assert kept.tolist() == np.arange(18).reshape(3, 2, 3).tolist()
    kept[:] = 0
    assert cache.get(1, lambda: np.zeros(0)).tolist() == np.arange(18).reshape(3, 2, 3).tolist()
    assert cache.nbytes == 36


def test_an_image_of_another_size_than_at_the_start_is_not_kept() -> None:
    cache = ImageCache(np.array([6]), 1000)
    for value in (1, 2):
        assert cache.get(0, lambda value=value: np.full((4, 4, 3), value, np.uint8)).max() == value  # type: ignore[misc]


def test_more_than_the_system_has() -> None:
    with pytest.raises(KpnetError, match=r"data\.cache_gb: .* no room for \d+\.\d+ GB of images: lower it"):
        ImageCache(np.array([10**15]), 4 * 10**15)
