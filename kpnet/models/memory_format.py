"""The memory format of a network's weights, which decides in which one its convolutions compute."""

from __future__ import annotations

import torch
from torch import nn

# Libraries whose layers take maps of any memory format; other code may call `view` on them.
_LIBRARIES = ("kpnet", "timm", "torch", "torchvision")
# Channels of a vector of AVX-512, which oneDNN's 1x1 convolutions compute at once; half as many with AVX2.
_VECTOR = 16


def set_memory_format(part: nn.Module) -> bool:
    """Put a network's 2D convolutions into channels_last if that is safe, and leave it as it is if not.

    The format is a quarter to a half faster on CPUs, and the one that GPUs want under autocast; the numbers are the
    same. It is not safe with layers of other code than kpnet's, timm's and torch's, which may call `view` on maps; nor
    with a 1x1 convolution that has a stride and few input channels, whose gradient writes past its memory on CPUs
    (oneDNN issue 6035).

    Args:
        part: A network, such as a backbone or a head. The layout of its weights changes in place.

    Returns:
        Whether it is in channels_last now.
    """
    safe = all(_is_safe(module) for module in part.modules())
    if safe:
        for module in part.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.to(memory_format=torch.channels_last)
    return safe


def _is_safe(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] in _LIBRARIES and not (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.groups == 1
        and module.in_channels < _VECTOR
    )
