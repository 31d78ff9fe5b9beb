"""The neck: a backbone's maps at the strides that a head needs, where doubling them does not lead there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kpnet.config.schema import ModelConfig
from kpnet.heads import HEADS, Head, PyramidInfo
from kpnet.heads.base import strides_of
from kpnet.heads.decoders.base import StrideError


class Neck(nn.Module):
    """Resamples maps bilinearly to strides that double, down to the stride of the head. It has no parameters.

    A map of stride s goes to the coarsest of stride, 2 stride, 4 stride, … that is not coarser than s, and the finest
    of them to the stride of the head itself: images need only be multiples of that. The map of a transformer of patch
    14 goes to stride 4 for a heatmap of stride 4. Upsampling without learned layers, followed by convolutions, is the
    simple decoder of Xu et al. 2022, ViTPose.

    Args:
        pyramid: The backbone's maps.
        strides: Strides of the maps that the head makes of them.
        size: Height and width of the images.

    Attributes:
        pyramid: The maps that the head is given.
    """

    def __init__(self, pyramid: PyramidInfo, strides: Sequence[int], size: tuple[int, int]) -> None:
        super().__init__()
        targets = {target: i for stride in strides for target, i in _targets(pyramid.strides, stride).items()}
        self.sources = [targets[target] for target in sorted(targets)]
        self.source_strides = [pyramid.strides[i] for i in self.sources]
        channels = [pyramid.channels[i] for i in self.sources]
        sizes = [(-(-size[0] // target), -(-size[1] // target)) for target in sorted(targets)]
        self.pyramid = PyramidInfo(channels, sorted(targets), sizes)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Resample the maps.

        Args:
            maps: The backbone's maps (B, C, h, w), finest first.
            size: Height and width of the images.

        Returns:
            The maps of `pyramid`, for images of this size.
        """
        pairs = zip(self.sources, self.source_strides, self.pyramid.strides, strict=True)
        return [resample(maps[i], source, target, size) for i, source, target in pairs]


def build_head(config: ModelConfig, pyramid: PyramidInfo, num_keypoints: int) -> tuple[Head, Neck | None]:
    """Build the head of a config, and the neck that it needs.

    Args:
        config: The `model` section.
        pyramid: The backbone's maps.
        num_keypoints: Number of keypoints.

    Returns:
        The head, and None where it takes the backbone's maps as they are.

    Raises:
        KpnetError: The head or an option is unknown, or its stride is twice that of the coarsest map, or more.
    """
    strides = strides_of(config.head)
    try:
        head: Head = HEADS.build(config.head, pyramid, num_keypoints)
        if not strides or not any(side % head.size_divisor for side in config.input_size):
            return head, None
    except StrideError:
        if max(strides) >= 2 * pyramid.strides[-1]:
            raise
    neck = Neck(pyramid, strides, config.input_size)
    return HEADS.build(config.head, neck.pyramid, num_keypoints), neck


def resample(x: Tensor, source: int, target: int, size: tuple[int, int]) -> Tensor:
    """Resample a map bilinearly from one stride to another: cell j of stride s lies at pixel s j + (s - 1) / 2.

    Args:
        x: Map (B, C, h, w) that covers the image.
        source: Its stride.
        target: Stride of the result, less than twice the source's.
        size: Height and width of the image.

    Returns:
        Map (B, C, ceil(H / target), ceil(W / target)).
    """
    if target != source:
        # More cells, for those beyond the last centre, and lest a rounded scale lose the last one; and so many that the
        # size changes, since torch copies a map whose size is to stay, whatever the scale.
        least = 1 if target < source else 2
        needed = -(-target // abs(source - target))
        below, right = (least if needed <= 2 else max(least, needed - cells) for cells in x.shape[-2:])
        x = F.pad(x, (0, right, 0, below), mode="replicate")
        x = F.interpolate(x, scale_factor=source / target, mode="bilinear", align_corners=False)
    return x[..., : -(-size[0] // target), : -(-size[1] // target)]


def _targets(strides: Sequence[int], stride: int) -> dict[int, int]:
    """Return the strides that maps of `strides` go to for a head of `stride`, each with the map that goes there."""
    coarser = [i for i, each in enumerate(strides) if each >= stride]
    if not coarser:
        return {stride: len(strides) - 1}
    targets = {stride << int(math.log2(strides[i] // stride)): i for i in coarser}
    targets[stride] = coarser[0]
    return {target: i for target, i in targets.items() if target == stride or i != coarser[0]}
