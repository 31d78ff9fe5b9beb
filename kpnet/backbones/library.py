"""The base class of backbones from other libraries, timm and torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kpnet.backbones.base import Backbone
from kpnet.core.errors import KpnetError, first_line

Pretrained = bool | str | Path
Size = tuple[int, int] | None

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LibraryBackbone(Backbone):
    """Base class that checks the options, sets the input statistics, and checks that every map covers the image."""

    name: str
    net: Any

    def _start(self, name: str, in_channels: int, pretrained: Pretrained) -> None:
        super().__init__()
        self.name = f'backbone "{name}"'
        if in_channels < 1:
            raise KpnetError(f"{self.name}: in_channels: expected at least 1, found {in_channels}")
        if pretrained is True and in_channels != 3:
            raise KpnetError(
                f"{self.name}: its published weights take 3 input channels, found in_channels {in_channels}"
            )

    def _statistics(self, mean: tuple[float, ...], std: tuple[float, ...], in_channels: int) -> None:
        if in_channels != len(mean):
            mean, std = ((sum(v) / len(v),) * in_channels for v in (mean, std))
        self.mean, self.std = tuple(mean), tuple(std)

    def _note_norms(self) -> None:
        self.has_norm_layers = any("Norm" in type(module).__name__ for module in self.net.modules())

    def maps(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps, as `forward` returns them."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.maps(images)
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            self._check_cover(images.shape[-2:], [m.shape[-2:] for m in maps])
        return maps

    def probe(self, in_channels: int, size: tuple[int, ...]) -> list[Tensor]:
        """Return the maps of a blank image; batch norm statistics and the training mode stay as they are."""
        training = self.training
        try:
            with torch.no_grad():
                return self.eval()(torch.zeros(1, in_channels, *size))
        except KpnetError:
            raise
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            cause = first_line(error) if str(error) else "a check of its own fails"
            raise KpnetError(f"{self.name} does not take images of {size[0]}x{size[1]} pixels: {cause}") from None
        finally:
            self.train(training)

    def _check_cover(self, size: Any, found: list[Any]) -> None:
        for stride, cells in zip(self.strides, found, strict=True):
            expected = tuple(-(-side // stride) for side in size)
            if tuple(cells) != expected:
                fix = f"use a height and width that {max(self.strides)} divides"
                if not any(side % max(self.strides) for side in size):
                    fix = "its layers lack the padding; choose another backbone"
                raise KpnetError(
                    f"{self.name}: the map of stride {stride} does not cover an image of {size[0]}x{size[1]} pixels: "
                    f"{cells[0]}x{cells[1]} cells, expected {expected[0]}x{expected[1]}; {fix}"
                )


def download_message(where: str, error: Exception) -> str:
    """Return the message for published weights that could not be downloaded."""
    return (
        f"{where}: its weights could not be downloaded ({first_line(error, with_type=True)}); "
        "fetch the file elsewhere and set pretrained to its path"
    )
