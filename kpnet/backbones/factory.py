"""Build a backbone from its name: one of kpnet's own, `torchvision/NAME`, or any timm model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpnet.backbones.base import BACKBONES, Backbone
from kpnet.backbones.pretrained import backbone_weights, read_source
from kpnet.backbones.weights import MismatchError, load_matching_weights
from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.registry import load_plugins, split_spec


def build_backbone(
    spec: str | Mapping[str, Any],
    in_channels: int,
    pretrained: bool | str | Path = False,
    input_size: tuple[int, int] | None = None,
) -> Backbone:
    """Build a backbone from its name and options.

    Args:
        spec: The name, or a mapping `{"name": …, option: …}`. Names: see `list_backbones`.
        in_channels: Channels of the images.
        pretrained: False; True for the weights that timm or torchvision publish; the path of a weight file; or a folder
            that kpnet wrote: a run, a pretraining or a saved model.
        input_size: Height and width of the images. The backbone is checked with this size; a vision transformer and
            `mlp` are built for it.

    Returns:
        The backbone, in training mode.

    Raises:
        KpnetError: The name or an option is unknown, the weights do not fit, or the backbone cannot take images of
            `input_size`.

    Example:
        ```python
        backbone = build_backbone({"name": "conv_sandwich", "norm": "batch"}, in_channels=1, input_size=(96, 96))
        maps = backbone(torch.rand(8, 1, 96, 96))  # (8, 32, 48, 48), (8, 64, 24, 24), …
        ```
    """
    source = read_source(pretrained)
    if source is not None:
        source.check(spec, in_channels)
    try:
        backbone = _build(spec, in_channels, pretrained, input_size)
    except MismatchError as error:
        if source is None:
            raise
        raise source.mismatch(spec, input_size, error) from None
    if source is not None:
        backbone.mean, backbone.std = tuple(source.input.mean), tuple(source.input.std)
    backbone.in_channels = in_channels
    return backbone


def _build(
    spec: str | Mapping[str, Any], in_channels: int, pretrained: bool | str | Path, input_size: tuple[int, int] | None
) -> Backbone:
    name, options = split_spec(spec, "backbone")
    failures = () if name in BACKBONES else load_plugins()
    if name in BACKBONES:
        fixed = BACKBONES[name].fixed_size
        backbone: Backbone = BACKBONES.build(spec, in_channels, *([input_size] if fixed else []))
        if pretrained is True:
            raise KpnetError(f'backbone "{name}" has no published weights; give pretrained the path of a weight file')
        if pretrained:
            backbone.loaded = load_matching_weights(backbone, backbone_weights(pretrained), str(pretrained))
        return backbone
    from kpnet.backbones import timm_networks, torchvision_networks  # they take a second or two to import

    if name.startswith("torchvision/"):
        return torchvision_networks.TorchvisionBackbone(name, in_channels, pretrained, input_size, options)
    if timm_networks.is_timm(name):
        return timm_networks.TimmBackbone(name, in_channels, pretrained, input_size, options)
    raise KpnetError(
        f'unknown backbone "{name}"{did_you_mean(name, list_backbones())}; '
        f"there are: {', '.join(sorted(BACKBONES))}, torchvision/NAME and timm's models (kpnet.list_backbones())"
        + "".join(f"; {failure}" for failure in failures)
    )


def list_backbones(filter: str = "", *, pretrained: bool = False) -> list[str]:
    """Return the names that `build_backbone` takes: kpnet's own, torchvision's and timm's.

    Args:
        filter: Only names that contain this text.
        pretrained: Only names with published weights, which `pretrained=True` loads.

    Returns:
        The names: kpnet's first, then `torchvision/NAME`, then timm's.

    Example:
        ```python
        kpnet.list_backbones("resnet18", pretrained=True)  # ["torchvision/resnet18", …, "resnet18", …]
        ```
    """
    from kpnet.backbones import timm_networks, torchvision_networks  # they take a second or two to import

    load_plugins()
    names = [*torchvision_networks.torchvision_names(pretrained), *timm_networks.timm_names(pretrained)]
    return [name for name in ([] if pretrained else sorted(BACKBONES)) + names if filter in name]
