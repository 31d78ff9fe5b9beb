"""Any network as a backbone: a module that the caller built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kpnet.backbones.base import Backbone
from kpnet.backbones.library import LibraryBackbone
from kpnet.core.errors import KpnetError, first_line
from kpnet.core.runtime import evaluation_copy


class ModuleBackbone(LibraryBackbone):
    """A module from images to one feature map, or to several: a list, a tuple or a dict of them.

    Strides and channels are found with a blank image. The last of several maps of one stride is kept. A network of timm
    (`timm.create_model(…, features_only=True)`) keeps the mean and the standard deviation of its weights; others have
    0.5 and 0.25, unless `build_model` is given `mean` and `std`.

    Args:
        net: The module. It gets normalised images (B, C, H, W) and returns maps (B, c, h, w) that cover them.
        in_channels: Channels of the images.
        input_size: Height and width of the images.

    Raises:
        KpnetError: The module does not take such images, or returns something else than maps that cover them.
    """

    def __init__(self, net: nn.Module, in_channels: int, input_size: tuple[int, int]) -> None:
        self._start(f"{type(net).__name__} (module)", in_channels, pretrained=False)
        self.net = net
        self._note_norms()
        self._channels_last = str(getattr(net, "output_fmt", "")).endswith("NHWC")  # timm's word for (B, h, w, c)
        cfg = getattr(net, "pretrained_cfg", None)
        if isinstance(cfg, Mapping) and {"mean", "std"} <= cfg.keys():
            self._statistics(tuple(cfg["mean"]), tuple(cfg["std"]), in_channels)
        self._kept: list[int] | None = None
        maps = self._run_blank(in_channels, input_size)
        strides = [self._stride(m, input_size) for m in maps]
        self._kept = [i for _, i in sorted({stride: i for i, stride in enumerate(strides)}.items())]
        self.strides = [strides[i] for i in self._kept]
        self.channels = [maps[i].shape[1] for i in self._kept]

    def _run_blank(self, in_channels: int, size: tuple[int, int]) -> list[Tensor]:
        first = next(self.net.parameters(), torch.zeros(()))
        blank = torch.zeros(1, in_channels, *size, dtype=first.dtype, device=first.device)
        try:
            with torch.no_grad():
                return evaluation_copy(self).maps(blank)
        except KpnetError:
            raise
        except Exception as error:
            raise KpnetError(
                f"{self.name} does not take images ({in_channels}, {size[0]}, {size[1]}): "
                f"{first_line(error, with_type=True)}"
            ) from None

    def _stride(self, each: Tensor, size: tuple[int, int]) -> int:
        """Return the stride of a map that covers an image of this size."""
        cells = each.shape[-2:]
        stride = max(-(-side // cell) for side, cell in zip(size, cells, strict=True))
        if tuple(-(-side // stride) for side in size) != tuple(cells):
            raise KpnetError(
                f"{self.name}: a map of {cells[0]}x{cells[1]} cells does not cover an image of {size[0]}x{size[1]} "
                "pixels with one stride; use sizes that its strides divide, and layers with padding"
            )
        return stride

    def maps(self, images: Tensor) -> list[Tensor]:
        found: Any = self.net(images)
        maps = list(found.values()) if isinstance(found, Mapping) else found
        maps = list(maps) if isinstance(maps, Sequence) else [maps]
        for each in maps:
            if not isinstance(each, Tensor) or each.ndim != 4 or not each.numel():
                what = f"a tensor {tuple(each.shape)}" if isinstance(each, Tensor) else f"a {type(each).__name__}"
                raise KpnetError(
                    f"{self.name}: expected feature maps (B, C, h, w), found {what}: give a network without its "
                    "classifier, such as timm.create_model(…, features_only=True)"
                )
        if not maps:
            raise KpnetError(f"{self.name}: expected feature maps (B, C, h, w), found none")
        maps = maps if self._kept is None else [maps[i] for i in self._kept]
        return [m.permute(0, 3, 1, 2).contiguous() for m in maps] if self._channels_last else maps


def wrap_module(net: nn.Module, in_channels: int, input_size: tuple[int, int]) -> Backbone:
    """Return a module as a backbone.

    Args:
        net: A `Backbone`, which is returned itself, or any module; see `ModuleBackbone`.
        in_channels: Channels of the images.
        input_size: Height and width of the images.

    Returns:
        The backbone.

    Raises:
        KpnetError: The module is no backbone for such images.
    """
    if not isinstance(net, Backbone):
        net = ModuleBackbone(net, in_channels, input_size)
    built_for = getattr(net, "in_channels", in_channels)
    if built_for != in_channels:
        raise KpnetError(
            f"backbone {type(net).__name__}: it was built for in_channels {built_for}, found {in_channels}"
        )
    net.in_channels = in_channels
    return net
