"""Heads that learn how wrong they are: the flow is a density, the scale is found."""

from __future__ import annotations

import math

import pytest
import torch
from support.small_heads import CHANNELS, build, total

from kpnet.heads.flow import ResidualFlow
from kpnet.heads.likelihood import LikelihoodHead, LikelihoodOutput
from kpnet.heads.rle import RLEHead


def test_the_flow_is_a_density() -> None:
    torch.manual_seed(0)
    flow = ResidualFlow()
    at = torch.linspace(-12, 12, 481)
    grid = torch.cartesian_prod(at, at)
    start = flow.log_density(grid)
    torch.testing.assert_close(start, -0.5 * grid.square().sum(-1) - math.log(2 * math.pi))
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        total_mass = flow.log_density(grid).exp().sum() * (at[1] - at[0]) ** 2
    assert total_mass.item() == pytest.approx(1, abs=0.01)


def test_rle_learns_the_scale_of_the_errors() -> None:
    """Targets spread about their mean with known deviations: so wide must the predicted ones become."""
    torch.manual_seed(0)
    head = build({"name": "rle", "pool": "avg", "hidden": []}, 2)
    maps = [torch.ones(256, c, 2, 2) for c in CHANNELS]
    spread = torch.tensor([0.02, 0.1])
    optimizer = torch.optim.Adam(head.parameters(), 0.005)
    for _ in range(300):
        target = torch.randn(256, 2, 2) * spread[:, None]
        optimizer.zero_grad()
        total(head.loss(head(maps), target, torch.ones(256, 2))).backward()
        optimizer.step()
    covariance = head.infer(head(maps)).covariance
    assert covariance is not None
    deviation = covariance[0].diagonal(dim1=-2, dim2=-1).mean(-1).sqrt()
    torch.testing.assert_close(deviation, spread, rtol=0.2, atol=0)


@pytest.mark.parametrize("name", ["gaussian_nll", "laplace_nll", "rle"])
def test_the_likelihood_is_the_density_that_the_covariance_is_of(name: str) -> None:
    """Its integral is 1, but for the product of two densities in rle; its variance is the predicted one."""
    head = build({"name": name}, 1).double()
    assert isinstance(head, LikelihoodHead)
    if isinstance(head, RLEHead):
        for parameter in head.flow.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    log_scale = torch.tensor([[[-2.5, -2.0]]], dtype=torch.float64)
    axes = [torch.linspace(-14, 14, 225, dtype=torch.float64) * scale for scale in log_scale.exp().flatten().tolist()]
    targets = torch.cartesian_prod(*axes)[:, None]
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    output = LikelihoodOutput(torch.zeros(1, 1, 2, dtype=torch.float64), log_scale)
    head.reduce = lambda values, weight: values
    weight = torch.ones(len(targets), 1)
    with torch.no_grad():
        per_coordinate = head.nll(output.xy.expand_as(targets), log_scale.expand_as(targets), targets, weight)
        density = (-2 * per_coordinate).exp()
        covariance = head.infer(output).covariance
    if name != "rle":
        assert (density.sum() * cell).item() == pytest.approx(1, rel=1e-2)
    assert covariance is not None
    variance = (density * targets[:, 0].square()).sum(0) / density.sum()
    torch.testing.assert_close(covariance[0, 0].diagonal(), variance, rtol=5e-3, atol=0)


def test_autocast_leaves_the_density_in_float32() -> None:
    head = build({"name": "rle"}, 3)
    assert isinstance(head, RLEHead)
    for parameter in head.flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    xy, log_scale, target = torch.randn(3, 8, 3, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        narrow = head.nll(xy, log_scale, target, torch.ones(8, 3))
    with torch.no_grad():
        wide = head.nll(xy, log_scale, target, torch.ones(8, 3))
    torch.testing.assert_close(narrow, wide, rtol=1e-6, atol=1e-6)
