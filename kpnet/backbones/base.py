"""The backbone contract."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from kpnet.backbones.weights import LoadReport
from kpnet.core.registry import Registry


class Backbone(nn.Module):
    """(B, C, H, W) to a list of feature maps, finest first. It knows nothing of keypoints.

    `channels[i]` and `strides[i]` belong to map i. Every map covers the image: it has
    ceil(H / stride) by ceil(W / stride) cells and cell j stands for the pixels
    `stride * j … stride * (j + 1) - 1`, up to less than half a cell.
    `mean` and `std` are the input statistics (per channel, of images in [0, 1]) that the weights expect.
    `normed` is False where the model is to standardise the maps: those of a library's network without norm layers.

    Built as `cls(in_channels, **options)`; one of a `fixed_size` as `cls(in_channels, input_size, **options)`.
    `in_channels` is set by `build_backbone`.
    """

    fixed_size: ClassVar[bool] = False
    in_channels: int
    loaded: LoadReport | None = None
    """What came from a weight file."""
    channels: list[int]
    strides: list[int]
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    has_norm_layers: bool = True

    def forward(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def mirror(self) -> nn.Module | None:
        """A decoder of its own, from the coarsest map to normalised images; None: any that fits the map."""
        return None


BACKBONES: Registry[type[Backbone]] = Registry("backbone")
