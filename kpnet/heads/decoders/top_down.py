"""The top-down decoder, the default."""

from __future__ import annotations

import itertools
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from kpnet.heads.base import PyramidInfo
from kpnet.heads.decoders.base import DECODERS, Decoder, check_stride, conv_norm_relu, doublings, upsample_to


@DECODERS.register("top_down")
class TopDown(Decoder):
    """A light feature pyramid: 1x1 lateral convolution, upsampling, sum and 3x3 convolution at every level.

    Uses every map from the coarsest to the output stride; a stride finer than the finest map is reached by more
    upsampling. Lin et al. 2017, Feature Pyramid Networks for Object Detection.

    Args:
        width: Channels of every level and of the result.
    """

    def __init__(self, pyramid: PyramidInfo, stride: int, *, width: Annotated[int, Field(gt=0)] = 64) -> None:
        super().__init__()
        check_stride(stride, pyramid, "top_down")
        self.levels = [i for i, s in enumerate(pyramid.strides) if s >= stride]
        strides = [pyramid.strides[i] for i in self.levels]
        self.laterals = nn.ModuleList(nn.Conv2d(pyramid.channels[i], width, 1) for i in self.levels)
        self.smooth = nn.ModuleList(conv_norm_relu(width, width, 3) for _ in self.levels)
        self.factors = [2 ** doublings(b, a, "top_down") for a, b in itertools.pairwise(strides)]
        self.finer = nn.ModuleList(
            conv_norm_relu(width, width, 3) for _ in range(doublings(strides[0], stride, "top_down"))
        )
        self.size_divisor = strides[0]
        self.channels = width

    def forward(self, features: list[Tensor]) -> Tensor:
        maps = [lateral(features[i]) for lateral, i in zip(self.laterals, self.levels, strict=True)]
        x = self.smooth[-1](maps[-1])
        for level in range(len(maps) - 2, -1, -1):
            size = (maps[level].shape[-2], maps[level].shape[-1])
            x = self.smooth[level](maps[level] + upsample_to(x, self.factors[level], size))
        for smooth in self.finer:
            x = smooth(upsample_to(x, 2, (2 * x.shape[-2], 2 * x.shape[-1])))
        return x
