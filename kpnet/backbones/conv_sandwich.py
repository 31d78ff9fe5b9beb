"""The course's network: blocks of convolution, pooling and ReLU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from kpnet.backbones.base import BACKBONES, Backbone
from kpnet.core.errors import KpnetError
from kpnet.core.runtime import is_tracing

MAX_BLOCKS, MAX_RESIDUAL = 16, 1000  # the last block's cells are 65536 pixels wide
Norm = Literal["none", "batch", "instance", "layer", "group"]


@BACKBONES.register("conv_sandwich")
class ConvSandwich(Backbone):
    """Blocks of Conv2d 3x3, norm, MaxPool 2x2, ReLU, spatial dropout and residual blocks.

    Map i has `channels[i]` channels at stride 2^(i + 1); a size that 2 does not divide is rounded up. Follows the
    course's keypoint exercise (I2DL, exercise 9), which has 32-64-128-256 channels and no norm.

    Args:
        channels: Channels of each block; there are as many blocks as entries.
        norm: Normalisation after each convolution: `none`, `batch`, `instance`, `layer` (over channels and space, so
            that no input size is fixed) or `group` (Wu and He 2018, Group Normalization).
        dropout: Probability that spatial dropout sets a channel to zero, after each block.
        residual: Residual blocks (He et al. 2016, Deep Residual Learning for Image Recognition) after each block.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: tuple[int, ...] = (32, 64, 128, 256),
        norm: Norm = "none",
        dropout: float = 0.0,
        residual: int = 0,
    ) -> None:
        super().__init__()
        _check(in_channels, channels, norm, dropout, residual)
        self.channels = list(channels)
        self.strides = [2 ** (i + 1) for i in range(len(channels))]
        self.mean, self.std = (0.5,) * in_channels, (0.25,) * in_channels
        inputs = [in_channels, *channels[:-1]]
        self.blocks = nn.ModuleList(
            _sandwich(inp, out, norm, dropout, residual) for inp, out in zip(inputs, channels, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for block in self.blocks:
            images = block(images)
            maps.append(images)
        return maps


class MaxPool2x2(nn.MaxPool2d):
    """Max-pooling of 2x2 cells, in about half of the time of torch's where no gradient is wanted."""

    def __init__(self) -> None:
        super().__init__(2, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        # torch's also finds the indices that a gradient needs; an exported program is to have a pooling.
        if torch.is_grad_enabled() or is_tracing() or x.device.type != "cpu" or x.shape[-1] % 2 or x.shape[-2] % 2:
            return super().forward(x)
        rows = torch.maximum(x[..., ::2, :], x[..., 1::2, :])
        return torch.maximum(rows[..., ::2], rows[..., 1::2])


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a skip connection, `relu(x + branch(x))`; the branch starts at zero."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_conv_norm(channels, channels, norm), nn.ReLU(inplace=True), *_conv_norm(channels, channels, norm)
        )
        self.relu = nn.ReLU(inplace=True)
        for parameter in self.branch[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.branch(x))


def _sandwich(inp: int, out: int, norm: Norm, dropout: float, residual: int) -> nn.Sequential:
    # ReLU and pooling commute; after the pooling ReLU has a quarter of the work.
    layers = [*_conv_norm(inp, out, norm), MaxPool2x2(), nn.ReLU(inplace=True)]
    if dropout:
        layers.append(nn.Dropout2d(dropout))
    return nn.Sequential(*layers, *(ResidualBlock(out, norm) for _ in range(residual)))


def _conv_norm(inp: int, out: int, norm: Norm) -> list[nn.Module]:
    conv = nn.Conv2d(inp, out, 3, padding=1, bias=norm == "none")
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return [conv] if norm == "none" else [conv, _norm(out, norm)]


def _norm(channels: int, norm: Norm) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if norm == "layer":
        return nn.GroupNorm(1, channels)
    # 32 groups as in the paper, fewer where a group would have under four channels.
    return nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // 4))), channels)


def _check(in_channels: int, channels: Sequence[int], norm: str, dropout: float, residual: int) -> None:
    where = 'backbone "conv_sandwich"'
    if in_channels < 1:
        raise KpnetError(f"{where}: in_channels: expected at least 1, found {in_channels}")
    if not channels or min(channels) < 1:
        raise KpnetError(f"{where}: channels: expected one positive number per block, found {list(channels)}")
    if len(channels) > MAX_BLOCKS:
        raise KpnetError(f"{where}: channels: expected at most {MAX_BLOCKS} blocks, found {len(channels)}")
    if norm not in Norm.__args__:  # type: ignore[attr-defined]
        raise KpnetError(f'{where}: norm: expected one of {", ".join(Norm.__args__)}, found "{norm}"')  # type: ignore[attr-defined]
    if not 0 <= dropout < 1:
        raise KpnetError(f"{where}: dropout: expected 0 <= p < 1, found {dropout}")
    if not 0 <= residual <= MAX_RESIDUAL:
        raise KpnetError(f"{where}: residual: expected 0 to {MAX_RESIDUAL} blocks, found {residual}")
