"""Networks of torchvision as backbones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from kpnet.backbones.library import IMAGENET_MEAN, IMAGENET_STD, LibraryBackbone, Pretrained, Size, download_message
from kpnet.backbones.padding import pad_to_cover, round_up
from kpnet.backbones.pretrained import backbone_weights
from kpnet.backbones.weights import load_matching_weights
from kpnet.core.errors import KpnetError, did_you_mean

# Families whose forward pass is the chain of their modules up to the pooling before the classifier.
_TORCHVISION = re.compile(
    r"(alexnet|squeezenet|vgg|resnet|resnext|wide_resnet|densenet|mobilenet|efficientnet|convnext|mnasnet|regnet"
    r"|shufflenet)"
)
_HEADS = ("classifier", "fc", "avgpool")


class TorchvisionBackbone(LibraryBackbone):
    """A torchvision classifier without its classifier, as `torchvision/NAME`: the last map of each stride.

    First layers without padding (alexnet, squeezenet) are padded, so that the centre of a cell lies within half a cell
    of the middle of its pixels; the weights stay as published.
    """

    def __init__(
        self, name: str, in_channels: int, pretrained: Pretrained, input_size: Size, options: Mapping[str, Any]
    ) -> None:
        self._start(name, in_channels, pretrained)
        short = name.removeprefix("torchvision/")
        if name not in torchvision_names():
            raise KpnetError(
                f"unknown {self.name}{did_you_mean(name, torchvision_names())}; see kpnet.list_backbones()"
            )
        if options:
            raise KpnetError(f'{self.name}: unknown key "{next(iter(options))}"; it has no options')
        net = torchvision.models.get_model(short, weights=None)
        children = {"features": net.features} if hasattr(net, "features") else dict(net.named_children())
        if "layers" in children:  # mnasnet's name for the same
            children = {"layers": children["layers"]}
        self.net = nn.ModuleDict({key: module for key, module in children.items() if key not in _HEADS})
        self._note_norms()
        _replace_stem(self.net, in_channels)
        if pretrained:
            source = name if pretrained is True else str(pretrained)
            self.loaded = load_matching_weights(
                self.net, _download(self.name, short) if pretrained is True else backbone_weights(pretrained), source
            )
        self._statistics(IMAGENET_MEAN, IMAGENET_STD, in_channels)
        round_up(self.net)
        pad_to_cover(self.net)
        self._plan(in_channels)
        if input_size is not None:
            self.probe(in_channels, input_size)

    def _plan(self, in_channels: int) -> None:
        """Find strides and channels, and group the chain of modules by stride."""
        side, x = 128, torch.zeros(1, in_channels, 128, 128)
        self.stages: list[list[str]] = []
        self.strides, self.channels = [], []
        self.eval()
        for path, module in _chain(self.net):
            with torch.no_grad():
                x = module(x)
            stride = side // x.shape[-1]
            if not self.strides or stride > self.strides[-1]:
                self.stages.append([])
                self.strides.append(stride)
                self.channels.append(0)
            self.stages[-1].append(path)
            self.channels[-1] = x.shape[1]
        self.train()

    def maps(self, images: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            for path in stage:
                images = self.net.get_submodule(path)(images)
            maps.append(images)
        return maps


def torchvision_names(pretrained: bool = False) -> list[str]:
    """Return the `torchvision/NAME` of every supported network; pretrained: only those with published weights."""
    names = torchvision.models.list_models(module=torchvision.models)
    names = [name for name in names if not pretrained or len(torchvision.models.get_model_weights(name))]
    return [f"torchvision/{name}" for name in names if _TORCHVISION.match(name)]


def _chain(net: nn.ModuleDict) -> list[tuple[str, nn.Module]]:
    """Return paths and modules in the order of the forward pass; a plain sequence is replaced by what it holds."""
    chain: list[tuple[str, nn.Module]] = []

    def walk(path: str, module: nn.Module) -> None:
        if type(module) in (nn.Sequential, nn.ModuleDict):
            for key, child in module.named_children():
                walk(f"{path}.{key}".lstrip("."), child)
        else:
            chain.append((path, module))

    walk("", net)
    return chain


def _replace_stem(net: nn.Module, in_channels: int) -> None:
    """Replace the first convolution where it does not fit: torchvision builds networks for colour images only."""
    path, conv = next((path, m) for path, m in net.named_modules() if isinstance(m, nn.Conv2d))
    sizes: Any = {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding}
    if conv.in_channels == in_channels:
        return
    new = nn.Conv2d(in_channels, conv.out_channels, **sizes, bias=conv.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    parent, _, key = path.rpartition(".")
    net.get_submodule(parent).register_module(key, new)


def _download(where: str, name: str) -> dict[str, Tensor]:
    try:
        weights = torchvision.models.get_model_weights(name).DEFAULT
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:
        raise KpnetError(download_message(where, error)) from None
