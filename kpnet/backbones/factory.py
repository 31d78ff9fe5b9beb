"""Backbones by name: kpnet's own, `torchvision/NAME`, and any timm model by its plain name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpnet.backbones.base import BACKBONES, Backbone
from kpnet.errors import KpnetError, nearest
from kpnet.registry import split_spec


def build_backbone(
    spec: str | Mapping[str, Any],
    in_channels: int,
    pretrained: bool | str | Path = False,
    input_size: tuple[int, int] | None = None,
) -> Backbone:
    """Build a backbone from its name or `{"name": …, option: …}`.

    `pretrained` is False, True (the library's own download) or the path of a weight file.
    `input_size` (H, W) is what it is checked with, and what a vision transformer is built for.
    An unknown name or option, or weights that do not fit, is a KpnetError.
    """
    name, options = split_spec(spec, "backbone")
    if name in BACKBONES:
        backbone: Backbone = BACKBONES.build(spec, in_channels)
        if pretrained is True:
            raise KpnetError(f'backbone "{name}" has no published weights; give pretrained the path of a weight file')
        if pretrained:
            from kpnet.weights import fit_weights, load_weights

            fit_weights(backbone, load_weights(pretrained), str(pretrained))
        return backbone
    from kpnet.backbones import pretrained as library  # timm and torchvision take a second or two to import

    if name.startswith("torchvision/"):
        return library.TorchvisionBackbone(name, in_channels, pretrained, input_size, options)
    if library.is_timm(name):
        return library.TimmBackbone(name, in_channels, pretrained, input_size, options)
    raise KpnetError(
        f'unknown backbone "{name}"{nearest(name, list_backbones())}; '
        f"there are: {', '.join(sorted(BACKBONES))}, torchvision/NAME and timm's models (kpnet.list_backbones())"
    )


def list_backbones(filter: str = "") -> list[str]:
    """Names that `build_backbone` takes, of those that contain `filter`: kpnet's own, torchvision's, timm's."""
    from kpnet.backbones import pretrained as library

    names = [*sorted(BACKBONES), *library.torchvision_names(), *library.timm_names()]
    return [name for name in names if filter in name]
