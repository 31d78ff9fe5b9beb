"""Training steps on the halves of a batch, in two processes, and on all of it in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kpnet import build_model

BACKBONE = {"name": "conv_sandwich", "channels": [4, 4, 6, 6], "norm": "group"}
POINTS, STEPS = 5, 4


class Wrapper(nn.Module):
    """A module of one's own whose `forward` returns the loss, as `DistributedDataParallel` needs it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = build_model(
            backbone=BACKBONE, head=spec, num_keypoints=POINTS, in_channels=1, input_size=[48, 64], pretrained=False
        )
        self.eval()  # a batch norm sees the images of its own process alone, and the ranks draw other dropouts

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model.loss(batch)


def batches() -> Iterator[dict[str, Tensor]]:
    """Batches of six images whose first half has many points, and whose second half has few, or none."""
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        visible = torch.rand(6, POINTS, generator=generator) < 0.8
        visible[3:] &= torch.rand(3, POINTS, generator=generator) < 0.4 if step else False
        yield {
            "image": torch.rand(6, 1, 48, 64, generator=generator),
            "keypoints": torch.rand(6, POINTS, 2, generator=generator) * 2 - 1,
            "visible": visible,
            "weight": torch.rand(6, POINTS, generator=generator) + 0.5,
        }


def steps(module: nn.Module, model: nn.Module, rows: slice) -> list[Tensor]:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02)
    for batch in batches():
        optimizer.zero_grad()
        module({key: value[rows] for key, value in batch.items()}).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    return [value.detach().clone() for value in model.parameters()]


def ranked(rank: int, specs: list[dict[str, Any]]) -> list[list[Tensor]]:
    found = []
    for spec in specs:
        own = Wrapper(spec)
        ddp = DistributedDataParallel(own, find_unused_parameters=True)
        found.append(steps(ddp, own, slice(3 * rank, 3 * rank + 3)))
    return found
