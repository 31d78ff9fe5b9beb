"""The contract of a map decoder, and what decoders share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kpnet.core.errors import KpnetError
from kpnet.core.registry import Registry
from kpnet.heads.base import PyramidInfo


class StrideError(KpnetError):
    """Maps that no doubling brings to the stride of a decoder; a neck brings them there."""


class Decoder(nn.Module):
    """A network from feature maps to one map.

    A subclass is built as `cls(pyramid, stride, **options)`, with the `PyramidInfo` of the maps and the input pixels
    per cell of the result. Its keyword-only parameters are the options that a config may set: their annotations are
    checked, and `Args:` in the class docstring describes them. It sets `channels` and `size_divisor`.
    """

    channels: int
    """Channels of the result."""
    size_divisor: int
    """What the height and width of the images must be multiples of."""

    def forward(self, features: list[Tensor]) -> Tensor:
        """Compute the map.

        Args:
            features: The backbone's maps (B, C, h, w), finest first.

        Returns:
            A map (B, channels, H / stride, W / stride) of images of H x W pixels.
        """
        raise NotImplementedError


DECODERS: Registry[type[Decoder]] = Registry("decoder")


def doublings(coarse: int, fine: int, what: str) -> int:
    """Return how often a map of stride `coarse` is doubled to have stride `fine`.

    Args:
        coarse: Stride of the map.
        fine: Stride that is wanted.
        what: What needs it, for the message.

    Returns:
        Number of doublings; 0 for equal strides.

    Raises:
        StrideError: Doubling does not lead from one to the other.
    """
    times = 0
    while fine << times < coarse:
        times += 1
    if fine << times != coarse:
        raise StrideError(f"{what}: stride {coarse} cannot be brought to stride {fine} by doubling the map")
    return times


def check_stride(stride: int, pyramid: PyramidInfo, decoder: str) -> None:
    """Raise StrideError for a stride coarser than the backbone's maps, and KpnetError for a backbone without maps."""
    if pyramid.sizes == [(1, 1)]:
        raise KpnetError(
            f'decoder "{decoder}": the backbone gives one vector for the whole image, and no map to decode: '
            "use the head regression (or rle, …), a backbone with maps, e.g. conv_sandwich, or a larger "
            "model.input_size where it cuts the image into patches"
        )
    if stride > pyramid.strides[-1]:
        raise StrideError(
            f'decoder "{decoder}": stride {stride} is coarser than the backbone\'s coarsest map '
            f"(its strides: {', '.join(map(str, pyramid.strides))})"
        )


def upsample_to(x: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Upsample a map by a whole factor, bilinearly, then crop or pad it to `size` (h, w) on the right and below.

    Cell 0 stays where it is: stretching to an odd size would shift every point.
    """
    if factor > 1:
        x = F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
    down, right = size[0] - x.shape[-2], size[1] - x.shape[-1]
    if down > 0 or right > 0:
        x = F.pad(x, (0, max(right, 0), 0, max(down, 0)), mode="replicate")
    return x[..., : size[0], : size[1]]


def conv_norm_relu(inp: int, out: int, kernel: int) -> nn.Sequential:
    """Return a convolution that keeps the size, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inp, out, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )


def covered_size(features: list[Tensor], finest: int, stride: int) -> tuple[int, int]:
    """Return the size (h, w) of a map of `stride` that covers the image whose finest feature map has stride `finest`.

    A coarse map of an odd size overhangs the image; `upsample_to` this size cuts the overhang off.
    """
    height, width = features[0].shape[-2:]
    return height * finest // stride, width * finest // stride
