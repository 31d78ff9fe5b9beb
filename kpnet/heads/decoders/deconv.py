"""The simple-baseline decoder."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from kpnet.heads.base import Pyramid
from kpnet.heads.decoders.base import DECODERS, check_stride, doublings, upsample_to


@DECODERS.register("deconv")
class Deconv(nn.Module):
    """Transposed 4x4 convolutions from the coarsest map to the output stride (Xiao et al. 2018).

    width: channels of each.
    """

    def __init__(
        self, pyramid: Pyramid, num_keypoints: int, stride: int, *, width: Annotated[int, Field(gt=0)] = 128
    ) -> None:
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
        self.layers = nn.Sequential(*layers, nn.Conv2d(inp, num_keypoints, 1))
        self.finest, self.stride = pyramid.strides[0], stride
        self.multiple = max(stride, pyramid.strides[0])

    def forward(self, features: list[Tensor]) -> Tensor:
        # The coarsest map of an odd size overhangs the image; the overhang is cut off.
        height, width = features[0].shape[-2:]
        size = (height * self.finest // self.stride, width * self.finest // self.stride)
        return upsample_to(self.layers(features[-1]), 1, size)
