"""What a finished run costs: that of a finder and crops is of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.shapes import NAMES, SIDE, shapes_config
from torch.utils.flop_counter import FlopCounterMode

from kpnet import build_model
from kpnet.config.loading import load_config
from kpnet.experiments import result
from kpnet.models.keypoint_model import KeypointModel


def test_costs_of_a_finder_and_crops_are_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply-adds are half of what PyTorch counts in `find` and `infer`, and each timed run does both."""
    values = load_config(shapes_config(Path("none.json"), None)).model.model_dump(mode="json")
    model = build_model(values, skeleton=list(NAMES)).eval()
    monkeypatch.setattr(result, "BATCHES", {1: 2, 3: 1})
    seen = []
    find = KeypointModel.find

    def noted(self: KeypointModel, images: torch.Tensor, *options: Any) -> Any:
        if self is model:
            seen.append(tuple(images.shape))
        return find(self, images, *options)

    monkeypatch.setattr(KeypointModel, "find", noted)
    cost = result._model_cost(model)
    assert seen == [(1, 1, SIDE, SIDE)] * 3 + [(3, 1, SIDE, SIDE)] * 2, "with a warm-up each"
    with FlopCounterMode(display=False) as whole:
        model.find(torch.rand(1, 1, SIDE, SIDE))
    with FlopCounterMode(display=False) as crop:
        model.infer(torch.rand(1, 1, 32, 32))
    assert min(whole.get_total_flops(), crop.get_total_flops()) > 0
    assert cost["macs"] == (whole.get_total_flops() + crop.get_total_flops()) / 2
