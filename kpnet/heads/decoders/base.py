"""What the map decoders share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kpnet.core.errors import KpnetError
from kpnet.core.registry import Registry
from kpnet.heads.base import PyramidInfo


class Decoder(nn.Module):
    """The list of feature maps to one map (B, channels, H / stride, W / stride).

    Built as `cls(pyramid, stride, **options)`; H and W must be multiples of its `size_divisor`.
    """

    channels: int
    size_divisor: int


DECODERS: Registry[type[Decoder]] = Registry("decoder")


def doublings(coarse: int, fine: int, what: str) -> int:
    """How often a stride is halved from `coarse` to `fine`; a KpnetError where that is no whole number."""
    times = 0
    while fine << times < coarse:
        times += 1
    if fine << times != coarse:
        raise KpnetError(f"{what}: stride {coarse} cannot be brought to stride {fine} by doubling the map")
    return times


def check_stride(stride: int, pyramid: PyramidInfo, decoder: str) -> None:
    """A KpnetError for a map coarser than the backbone's coarsest, and for a backbone that has none."""
    if pyramid.sizes == [(1, 1)]:
        raise KpnetError(
            f'decoder "{decoder}": the backbone gives one vector for the whole image, and no map to decode: '
            "use the head regression (or rle, …), or a backbone with maps, e.g. conv_sandwich"
        )
    if stride > pyramid.strides[-1]:
        raise KpnetError(
            f'decoder "{decoder}": stride {stride} is coarser than the backbone\'s coarsest map '
            f"(its strides: {', '.join(map(str, pyramid.strides))})"
        )


def upsample_to(x: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Bilinear by a whole factor, then cropped or edge-padded to `size` on the right and below.

    Cell 0 stays where it is: stretching to an odd size instead would shift every point.
    """
    if factor > 1:
        x = F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
    down, right = size[0] - x.shape[-2], size[1] - x.shape[-1]
    if down > 0 or right > 0:
        x = F.pad(x, (0, max(right, 0), 0, max(down, 0)), mode="replicate")
    return x[..., : size[0], : size[1]]


def conv_norm_relu(inp: int, out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inp, out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )


def covered_size(features: list[Tensor], finest: int, stride: int) -> tuple[int, int]:
    """(h, w) of a map of `stride` that covers the image whose finest feature map has stride `finest`.

    A coarse map of an odd size overhangs the image; `upsample_to` this size cuts the overhang off.
    """
    height, width = features[0].shape[-2:]
    return height * finest // stride, width * finest // stride
