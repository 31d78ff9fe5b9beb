"""The SimCC head: bins of half a pixel on either axis."""

from __future__ import annotations

import pytest
import torch
from support.small_heads import build, features

from kpnet.core.errors import KpnetError
from kpnet.heads.simcc import SimCCHead, SimCCOutput


def test_simcc_bins_are_half_pixels_that_cover_the_image() -> None:
    head = build({"name": "simcc", "bins": 2, "loss": {"kl": 1.0}}).eval()
    output = head(features())
    assert isinstance(output, SimCCOutput)
    assert (output.x_logits.shape[-1], output.y_logits.shape[-1]) == (128, 96)
    # Logits that are the label's logarithm cost nothing and give the point back.
    target, weight = torch.tensor([[[0.31, -0.42]]]), torch.ones(1, 1)
    x = -0.5 * ((torch.arange(128) - ((1.31) * 128 - 1) / 2) / 3.0) ** 2
    y = -0.5 * ((torch.arange(96) - ((0.58) * 96 - 1) / 2) / 3.0) ** 2
    exact = SimCCOutput(target, x[None, None], y[None, None])
    assert head.loss(exact, target, weight)["kl"].item() == pytest.approx(0, abs=1e-6)
    variance = head.infer(exact).covariance
    assert variance is not None
    assert variance[0, 0].diagonal().tolist() == pytest.approx([(3 * 2 / 128) ** 2, (3 * 2 / 96) ** 2], rel=1e-3)
    with pytest.raises(KpnetError, match="the simcc head was built for maps of 12x16, got 16x16"):
        head(features(size=(64, 64)))


def test_simcc_begins_with_the_place_on_the_map() -> None:
    head = build({"name": "simcc", "stride": 4}, 1).eval()
    assert isinstance(head, SimCCHead)
    maps = torch.zeros(1, 12, 16)
    maps[0, 3, 9] = 40
    x, y = head.to_x(maps.flatten(1)), head.to_y(maps.flatten(1))
    # Cell 9 is the pixels 36 to 39, the bins 72 to 79; its centre is between bins 75 and 76.
    assert set(x[0].topk(2).indices.tolist()) == {75, 76}
    assert set(y[0].topk(2).indices.tolist()) == {27, 28}


def test_an_absent_point_leaves_no_gradient() -> None:
    head = build({"name": "simcc", "loss": {"kl": 1.0}}, 2)
    output = head(features())
    assert isinstance(output, SimCCOutput)
    output.x_logits.retain_grad()
    target = torch.tensor([[[0.3, 0.1], [float("nan")] * 2]] * 2)
    head.loss(output, target, torch.tensor([[1.0, 0.0]] * 2))["kl"].backward()
    assert output.x_logits.grad is not None
    assert output.x_logits.grad[:, 0].abs().sum() > 0
    assert torch.equal(output.x_logits.grad[:, 1], torch.zeros_like(output.x_logits.grad[:, 1]))
