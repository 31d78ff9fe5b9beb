"""The backbone contract."""

from __future__ import annotations

from torch import Tensor, nn

from kpnet.registry import Registry


class Backbone(nn.Module):
    """(B, C, H, W) to a list of feature maps, finest first. It knows nothing of keypoints.

    `channels[i]` and `strides[i]` belong to map i. Every map covers the image: it has
    ceil(H / stride) by ceil(W / stride) cells and cell j stands for the pixels
    `stride * j … stride * (j + 1) - 1`, up to less than half a cell.
    `mean` and `std` are the input statistics (per channel, of images in [0, 1]) that the weights expect.
    """

    channels: list[int]
    strides: list[int]
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)

    def forward(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError


BACKBONES: Registry[type[Backbone]] = Registry("backbone")
