"""The decoder of Simple Baselines."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from kpnet.heads.base import PyramidInfo
from kpnet.heads.decoders.base import DECODERS, Decoder, check_stride, covered_size, doublings, upsample_to


@DECODERS.register("deconv")
class Deconv(Decoder):
    """Transposed 4x4 convolutions from the coarsest map to the output stride.

    Xiao et al. 2018, Simple Baselines for Human Pose Estimation and Tracking.

    Args:
        width: Channels of each convolution.
    """

    def __init__(self, pyramid: PyramidInfo, stride: int, *, width: Annotated[int, Field(gt=0)] = 128) -> None:
        super().__init__()
        check_stride(stride, pyramid, "deconv")
        inp = pyramid.channels[-1]
        layers: list[nn.Module] = []
        for _ in range(doublings(pyramid.strides[-1], stride, "deconv")):
            layers += [
                nn.ConvTranspose2d(inp, width, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            inp = width
        self.layers = nn.Sequential(*layers)
        self.channels = inp
        self.finest, self.stride = pyramid.strides[0], stride
        self.size_divisor = max(stride, pyramid.strides[0])

    def forward(self, features: list[Tensor]) -> Tensor:
        return upsample_to(self.layers(features[-1]), 1, covered_size(features, self.finest, self.stride))
