"""The decoder of DeepLab."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from kpnet.heads.base import PyramidInfo
from kpnet.heads.decoders.base import (
    DECODERS,
    Decoder,
    check_stride,
    conv_norm_relu,
    covered_size,
    doublings,
    upsample_to,
)

Rate = Annotated[int, Field(gt=0)]


@DECODERS.register("aspp")
class ASPP(Decoder):
    """Atrous spatial pyramid pooling of the coarsest map, joined with the map at the output stride.

    1x1 and dilated 3x3 convolutions and image pooling stand side by side (Chen et al. 2017, Rethinking Atrous
    Convolution for Semantic Image Segmentation; 2018, Encoder-Decoder with Atrous Separable Convolution).

    Args:
        width: Channels of each branch and of the result.
        rates: Dilations of the 3x3 convolutions, in cells.
    """

    def __init__(
        self,
        pyramid: PyramidInfo,
        stride: int,
        *,
        width: Annotated[int, Field(gt=0)] = 64,
        rates: tuple[Rate, ...] = (1, 2, 3),
    ) -> None:
        super().__init__()
        check_stride(stride, pyramid, "aspp")
        inp = pyramid.channels[-1]
        self.branches = nn.ModuleList([conv_norm_relu(inp, width, 1), *(_dilated(inp, width, r) for r in rates)])
        # Without batch norm: in training, a batch of one has no variance here.
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inp, width, 1), nn.ReLU(inplace=True))
        self.project = conv_norm_relu((2 + len(rates)) * width, width, 1)
        self.factor = 2 ** doublings(pyramid.strides[-1], stride, "aspp")
        # The map at the output stride brings back what is small, where the backbone has one.
        self.skip = pyramid.strides.index(stride) if stride in pyramid.strides[:-1] else None
        skipped = 0 if self.skip is None else pyramid.channels[self.skip]
        self.smooth = conv_norm_relu(width + skipped, width, 3)
        self.finest, self.stride = pyramid.strides[0], stride
        self.size_divisor, self.channels = max(stride, pyramid.strides[0]), width

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        branches = [branch(x) for branch in self.branches]
        x = self.project(torch.cat([*branches, self.pooled(x).expand(-1, -1, *x.shape[-2:])], 1))
        x = upsample_to(x, self.factor, covered_size(features, self.finest, self.stride))
        return self.smooth(x if self.skip is None else torch.cat([x, features[self.skip]], 1))


def _dilated(inp: int, out: int, rate: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inp, out, 3, padding=rate, dilation=rate, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )
