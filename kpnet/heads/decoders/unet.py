"""The decoder of U-Net."""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from kpnet.heads.base import PyramidInfo
from kpnet.heads.decoders.base import DECODERS, Decoder, check_stride, conv_norm_relu, doublings, upsample_to


@DECODERS.register("unet")
class UNet(Decoder):
    """A U-Net decoder: upsampling, concatenation of the skip connection and two 3x3 convolutions at every level.

    Uses every map from the coarsest to the output stride; a stride finer than the finest map is reached by more
    upsampling. Ronneberger et al. 2015, U-Net: Convolutional Networks for Biomedical Image Segmentation.

    Args:
        width: Channels of every level and of the result.
    """

    def __init__(self, pyramid: PyramidInfo, stride: int, *, width: Annotated[int, Field(gt=0)] = 64) -> None:
        super().__init__()
        check_stride(stride, pyramid, "unet")
        self.levels = [i for i, s in enumerate(pyramid.strides) if s >= stride]
        strides = [pyramid.strides[i] for i in self.levels]
        self.factors = [2 ** doublings(b, a, "unet") for a, b in itertools.pairwise(strides)]
        self.coarsest = conv_norm_relu(pyramid.channels[-1], width, 3)
        self.merge = nn.ModuleList(_double(pyramid.channels[i] + width, width) for i in self.levels[:-1])
        self.finer = nn.ModuleList(_double(width, width) for _ in range(doublings(strides[0], stride, "unet")))
        self.size_divisor, self.channels = strides[0], width

    def forward(self, features: list[Tensor]) -> Tensor:
        skips = [features[i] for i in self.levels]
        x = self.coarsest(skips[-1])
        for level in range(len(skips) - 2, -1, -1):
            size = (skips[level].shape[-2], skips[level].shape[-1])
            x = self.merge[level](torch.cat([skips[level], upsample_to(x, self.factors[level], size)], 1))
        for convolutions in self.finer:
            x = convolutions(upsample_to(x, 2, (2 * x.shape[-2], 2 * x.shape[-1])))
        return x


def _double(inp: int, out: int) -> nn.Sequential:
    return nn.Sequential(conv_norm_relu(inp, out, 3), conv_norm_relu(out, out, 3))
