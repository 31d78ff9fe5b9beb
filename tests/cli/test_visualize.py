"""`kpnet visualize` reads images as the training did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.console import Run

from kpnet.cli import visualize


def test_images_are_read_with_the_bits_of_the_run(
    kpnet: Run, run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    config = run_copy / "config.yaml"
    config.write_text(config.read_text().replace("format: kaggle_csv", "format: {name: points_csv, bits: 12}"))
    drawn: list[np.ndarray] = []

    def draw(model: Any, images: list[Any], *_: Any) -> list[str]:
        drawn.extend(image.load() for image in images)
        return []

    monkeypatch.setattr(visualize, "draw_images", draw)
    assert kpnet("visualize", run_copy, "deep.png").code == 0
    assert np.array_equal(drawn[0][..., 0], deep >> 4)
