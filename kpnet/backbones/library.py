"""Networks of timm and torchvision as feature pyramids, with their published weights or a file's."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from timm.layers import Format
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from kpnet.backbones.base import Backbone
from kpnet.backbones.padding import pad_to_cover, round_up
from kpnet.backbones.sources import backbone_weights
from kpnet.errors import KpnetError, nearest
from kpnet.weights import Loaded, fit_weights

Pretrained = bool | str | Path
Size = tuple[int, int] | None

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Families whose forward pass is the chain of their modules up to the pooling before the classifier.
_TORCHVISION = re.compile(
    r"(alexnet|squeezenet|vgg|resnet|resnext|wide_resnet|densenet|mobilenet|efficientnet|convnext|mnasnet|regnet"
    r"|shufflenet)"
)
_HEADS = ("classifier", "fc", "avgpool")


class _Library(Backbone):
    """What both libraries share: checks, input statistics, and maps that are known to cover the image."""

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
        self.normed = any("Norm" in type(module).__name__ for module in self.net.modules())

    def maps(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.maps(images)
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            self._check_cover(images.shape[-2:], [m.shape[-2:] for m in maps])
        return maps

    def probe(self, in_channels: int, size: tuple[int, ...]) -> list[Tensor]:
        """The maps of a blank image, without a trace in the batch norms or the training mode."""
        training = self.training
        try:
            with torch.no_grad():
                return self.eval()(torch.zeros(1, in_channels, *size))
        except KpnetError:
            raise
        except (RuntimeError, AssertionError, ValueError) as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise KpnetError(f"{self.name} does not take images of {size[0]}x{size[1]} pixels: {why}") from None
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


class TimmBackbone(_Library):
    """Any timm model that gives features. Options go to `timm.create_model` (`drop_path_rate`, …).

    A transformer is built for `input_size`; where timm allows it, other sizes are resampled on the way.
    Of several maps at one stride the last is kept.
    """

    def __init__(
        self, name: str, in_channels: int, pretrained: Pretrained, input_size: Size, options: Mapping[str, Any]
    ) -> None:
        self._start(name, in_channels, pretrained)
        self.net = _create(name, in_channels, pretrained is True, input_size, options)
        reductions = self.net.feature_info.reduction()
        self._note_norms()
        self._channels_last = getattr(self.net, "output_fmt", None) == Format.NHWC  # swin and its kin
        self._kept = _last_of_each(reductions)
        self.strides = [reductions[i] for i in self._kept]
        self.channels = [self.net.feature_info.channels()[i] for i in self._kept]
        cfg = self.net.pretrained_cfg
        self._statistics(cfg.get("mean", IMAGENET_MEAN), cfg.get("std", IMAGENET_STD), in_channels)
        if pretrained and pretrained is not True:
            self.loaded = _load_timm(self.net, name, backbone_weights(pretrained), str(pretrained))
        elif pretrained:
            self.loaded = Loaded(f"timm's {cfg.get('architecture')}.{cfg.get('tag')}", len(self.net.state_dict()), [])
        size = input_size or tuple(cfg.get("input_size", (3, 224, 224))[1:])
        round_up(self.net)
        self._cover(in_channels, size)

    def _cover(self, in_channels: int, size: tuple[int, ...]) -> None:
        """Pad where the layers lack padding, and refuse what still does not cover the image."""
        # At a size that every stride divides: what is padded must not depend on the images.
        whole = tuple(-(-side // self.strides[-1]) * self.strides[-1] for side in size)
        reason: KpnetError | None = None
        try:
            self.probe(in_channels, whole)
        except KpnetError as error:
            # Only where it is needed: some stems pad by a layer of their own.
            reason = error
            pad_to_cover(self.net)
        try:
            self.probe(in_channels, size)
        except KpnetError as error:
            raise (reason if reason and whole == size else error) from None

    def maps(self, images: Tensor) -> list[Tensor]:
        maps = [m for i, m in enumerate(self.net(images)) if i in self._kept]
        return [m.permute(0, 3, 1, 2).contiguous() for m in maps] if self._channels_last else maps


class TorchvisionBackbone(_Library):
    """`torchvision/NAME`: the last map at each stride of the modules before the classifier.

    Stems without padding (alexnet, squeezenet) get it, so that cell j's centre lies within half a cell of
    the middle of its pixels; the weights stay as published.
    """

    def __init__(
        self, name: str, in_channels: int, pretrained: Pretrained, input_size: Size, options: Mapping[str, Any]
    ) -> None:
        self._start(name, in_channels, pretrained)
        short = name.removeprefix("torchvision/")
        if name not in torchvision_names():
            raise KpnetError(f"unknown {self.name}{nearest(name, torchvision_names())}; see kpnet.list_backbones()")
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
            self.loaded = fit_weights(
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


def is_timm(name: str) -> bool:
    return bool(timm.is_model(name))


def timm_names(pretrained: bool = False) -> list[str]:
    """timm's plain names. Nearly all give features; the few that don't say so when built."""
    return [name for name in timm.list_models() if not pretrained or timm.models.is_model_pretrained(name)]


def torchvision_names(pretrained: bool = False) -> list[str]:
    names = torchvision.models.list_models(module=torchvision.models)
    names = [name for name in names if not pretrained or len(torchvision.models.get_model_weights(name))]
    return [f"torchvision/{name}" for name in names if _TORCHVISION.match(name)]


def _create(name: str, in_channels: int, pretrained: bool, size: Size, options: Mapping[str, Any]) -> Any:
    """`timm.create_model`, with the transformers' size options where the model has them."""
    extra: dict[str, Any] = {"dynamic_img_size": True, "img_size": size}
    reserved = {"pretrained", "features_only", "in_chans", "out_indices", *extra} & set(options)
    if reserved:
        raise KpnetError(f'backbone "{name}": "{min(reserved)}" is set by kpnet (in_channels, input_size, pretrained)')
    while True:
        try:
            return timm.create_model(
                name, pretrained=pretrained, features_only=True, in_chans=in_channels, **extra, **options
            )
        except TypeError as error:
            unknown = re.findall(r"'(\w+)'", str(error).partition("unexpected keyword argument")[2])
            if any(key in extra for key in unknown):
                extra = {key: value for key, value in extra.items() if key not in unknown}
                continue
            ours = [key for key in unknown if key in options]
            if ours:
                raise KpnetError(f'backbone "{name}": unknown key "{ours[0]}" ({_line(error)})') from None
            raise KpnetError(f'backbone "{name}" cannot be built: {_line(error)}') from None
        except Exception as error:
            if pretrained:
                raise KpnetError(_no_download(f'backbone "{name}"', error)) from None
            raise KpnetError(f'backbone "{name}" cannot be built: {_line(error)}') from None


def _load_timm(net: nn.Module, name: str, state: dict[str, Tensor], source: str) -> Loaded:
    if isinstance(net, FeatureGetterNet):
        # The model as it is, whose own filter resamples position embeddings to the size it was built for.
        entry = sys.modules[timm.models.model_entrypoint(name.split(".")[0]).__module__]
        convert = getattr(entry, "checkpoint_filter_fn", None)
        return fit_weights(net.model, convert(state, net.model) if convert else state, source)
    return fit_weights(net, state, source)


def _last_of_each(strides: list[int]) -> list[int]:
    """The last index of each stride, finest first."""
    return [i for _, i in sorted({stride: i for i, stride in enumerate(strides)}.items())]


def _chain(net: nn.ModuleDict) -> list[tuple[str, nn.Module]]:
    """The modules in order, plain sequences taken apart."""
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
    """torchvision's constructors know only colour images."""
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
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except Exception as error:
        raise KpnetError(_no_download(where, error)) from None


def _no_download(where: str, error: Exception) -> str:
    return (
        f"{where}: its weights could not be downloaded ({_line(error)}); "
        "fetch the file elsewhere and set pretrained to its path"
    )


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
