"""The smallest decoder: 1x1 convolutions and upsampling."""

from __future__ import annotations

from typing import Annotated

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


@DECODERS.register("upsample")
class Upsample(Decoder):
    """Two 1x1 convolutions on the coarsest map, then bilinear upsampling to the output stride.

    Follows the AlexNet exercise of the course's slides on segmentation.

    Args:
        width: Channels of the convolutions.
    """

    def __init__(self, pyramid: PyramidInfo, stride: int, *, width: Annotated[int, Field(gt=0)] = 128) -> None:
        super().__init__()
        check_stride(stride, pyramid, "upsample")
        self.layers = nn.Sequential(conv_norm_relu(pyramid.channels[-1], width, 1), conv_norm_relu(width, width, 1))
        self.factor = 2 ** doublings(pyramid.strides[-1], stride, "upsample")
        self.finest, self.stride = pyramid.strides[0], stride
        self.size_divisor, self.channels = max(stride, pyramid.strides[0]), width

    def forward(self, features: list[Tensor]) -> Tensor:
        return upsample_to(self.layers(features[-1]), self.factor, covered_size(features, self.finest, self.stride))
