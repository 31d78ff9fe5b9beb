"""Padding for networks whose maps would not cover the image; the weights stay as they are."""

from __future__ import annotations

from typing import Any

from torch import nn


def round_up(net: nn.Module) -> None:
    """Make pooling layers without overlap (2x2, stride 2) round odd sizes up: ceil(size / stride) cells."""
    for module in net.modules():
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d) and _pair(module.kernel_size) == _pair(module.stride):
            module.ceil_mode = True


def pad_to_cover(net: nn.Module) -> None:
    """Pad overlapping convolutions and pooling layers so that their maps have ceil(size / stride) cells.

    Layers of timm's own classes (TensorFlow's "same" padding, weight standardisation) pad themselves.
    """
    for module in net.modules():
        if type(module) in (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d):
            _pad(module)


def _pad(module: Any) -> None:
    if isinstance(module.padding, str):
        return
    kernel, stride, padding = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
    dilation = _pair(getattr(module, "dilation", 1))
    needed = [d * (k - 1) // 2 if k > s or s == 1 else 0 for k, s, d in zip(kernel, stride, dilation, strict=True)]
    padded = tuple(max(p, n) for p, n in zip(padding, needed, strict=True))
    if padded == padding:
        return
    module.padding = padded
    if isinstance(module, nn.Conv2d):
        # What padding modes other than zeros read.
        module._reversed_padding_repeated_twice = [p for p in reversed(padded) for _ in range(2)]
    else:
        module.ceil_mode = False
    if isinstance(module, nn.AvgPool2d):
        module.count_include_pad = False


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
