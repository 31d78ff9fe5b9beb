"""Networks of timm as backbones."""

from __future__ import annotations

import math
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import Format
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from kpnet.backbones.library import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LibraryBackbone,
    Pretrained,
    Size,
    download_message,
)
from kpnet.backbones.padding import pad_to_cover, round_up
from kpnet.backbones.pretrained import backbone_weights
from kpnet.backbones.timm_options import check_timm_options
from kpnet.backbones.weights import LoadReport, load_matching_weights
from kpnet.core.errors import KpnetError, first_line
from kpnet.core.hub import quick_downloads
from kpnet.core.runtime import is_tracing

STEP = 32  # sides that nearly every network with a pyramid can be built for are multiples of it
_HOOKED = threading.Lock()


class TimmBackbone(LibraryBackbone):
    """Any timm model that can return feature maps, by its plain name.

    A transformer is built for `input_size`; where timm allows it, position embeddings are resampled for other sizes.
    Images that its patches or strides do not divide are padded, where the network does not pad them itself. The last of
    several maps of one stride is kept. Options that choose the architecture go to `timm.create_model`
    (`drop_path_rate`, …); see `timm_options`.

    Args:
        name: A name of `timm_names`, or one with a tag of its weights (`NAME.TAG`).
        in_channels: Channels of the images.
        pretrained: True loads timm's published weights, a path those of a weight file, a run or a pretraining; False
            starts from random ones.
        input_size: Height and width of the images. None: those that timm states for the network.
        options: Options of the architecture, by name.

    Raises:
        KpnetError: The network cannot be built, an option is unknown or set by kpnet, the weights cannot be loaded, or
            the maps do not cover an image of this size.
    """

    pad_to: int = 1
    """What the images' sides are padded to a multiple of, on the right and below, before the network sees them."""
    _as_it_is: tuple[int, int] | None = None  # the size that it was built for, where that one needs no padding

    def __init__(
        self, name: str, in_channels: int, pretrained: Pretrained, input_size: Size, options: Mapping[str, Any]
    ) -> None:
        self._start(name, in_channels, pretrained)
        published = pretrained is True
        self.net, built = _create_near(name, in_channels, published, input_size, options)
        self._describe(in_channels)
        size = input_size or tuple(self.net.pretrained_cfg.get("input_size", (3, 224, 224))[1:])
        step = self.strides[-1] if built == input_size else max(STEP, self.strides[-1])
        whole = (round_to(size[0], step), round_to(size[1], step))
        refused = self._cover(in_channels, size, whole)
        if self.pad_to > 1:
            self.pad_to = step
        if self.pad_to > 1 and self._as_it_is is None and input_size and whole != built:
            # Position embeddings are made for the padded size, not resampled in every pass.
            self.net, _ = _create_near(name, in_channels, published, whole, options)
            padded_to, self.pad_to = self.pad_to, 1  # cutting the padding off would hide that cells are missing
            refused = self._cover_whole(in_channels, whole)
            self.pad_to = padded_to
            refused = refused or self._refusal(in_channels, size)
        if refused is not None:
            given = "" if whole == tuple(size) else f"images of {size[0]}x{size[1]} pixels are padded; "
            raise KpnetError(f"{given}{refused}{_nearest(name, in_channels, size, step, options)}")
        if pretrained and pretrained is not True:
            self.loaded = _load_timm(self.net, name, backbone_weights(pretrained), str(pretrained))
        elif pretrained:
            cfg = self.net.pretrained_cfg
            self.loaded = LoadReport(
                f"timm's {cfg.get('architecture')}.{cfg.get('tag')}", len(self.net.state_dict()), []
            )

    def _describe(self, in_channels: int) -> None:
        reductions = self.net.feature_info.reduction()
        self._note_norms()
        self._channels_last = getattr(self.net, "output_fmt", None) == Format.NHWC  # swin and its kin
        self._has_hooks = any(getattr(self.net, name, None) for name in ("hooks", "feature_hooks"))
        self._kept = _last_of_each(reductions)
        self.strides = [reductions[i] for i in self._kept]
        self.channels = [self.net.feature_info.channels()[i] for i in self._kept]
        cfg = self.net.pretrained_cfg
        self._statistics(cfg.get("mean", IMAGENET_MEAN), cfg.get("std", IMAGENET_STD), in_channels)

    def _cover(self, in_channels: int, size: tuple[int, ...], whole: tuple[int, int]) -> KpnetError | None:
        """Pad layers, then images, where the maps would not cover the image; return what refuses even then."""
        # At a size that every stride divides: what is padded must not depend on the images.
        refused = self._cover_whole(in_channels, whole)
        if refused is not None:
            self.pad_to = self.strides[-1] if tuple(size) != whole else 1  # it may take images of the padded size
            return refused
        # One pixel more: the maps of every stride have an odd number of cells.
        if self._refusal(in_channels, (whole[0] + 1, whole[1] + 1)) is not None:
            if tuple(size) != whole and self._refusal(in_channels, size) is None:
                self._as_it_is = (size[0], size[1])
            self.pad_to = self.strides[-1]
        return None

    def _cover_whole(self, in_channels: int, whole: tuple[int, int]) -> KpnetError | None:
        """Pad layers where the maps would not cover images of a size that all strides divide; return what refuses."""
        round_up(self.net)
        refused = self._refusal(in_channels, whole)
        if refused is None:
            return None
        pad_to_cover(self.net)  # only where it is needed: some stems pad by a layer of their own
        return refused if self._refusal(in_channels, whole) is not None else None

    def _refusal(self, in_channels: int, size: tuple[int, ...]) -> KpnetError | None:
        """Return the error of the network for images of this size."""
        try:
            self.probe(in_channels, size)
        except KpnetError as error:
            return error
        return None

    def maps(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        if self.pad_to == 1 or (height, width) == self._as_it_is:
            return self._maps(images)
        # On the right and below, where padding moves no cell.
        maps = self._maps(F.pad(images, (0, -width % self.pad_to, 0, -height % self.pad_to)))
        sizes = [(-(-height // stride), -(-width // stride)) for stride in self.strides]
        return [each[..., :rows, :columns] for each, (rows, columns) in zip(maps, sizes, strict=True)]

    def _maps(self, images: Tensor) -> list[Tensor]:
        # Networks with hooks keep the maps of a pass in one place, which threads have to enter one by one.
        with _HOOKED if self._has_hooks and not is_tracing() else nullcontext():
            found = self.net(images)
        maps = [m for i, m in enumerate(found) if i in self._kept]
        return [m.permute(0, 3, 1, 2).contiguous() for m in maps] if self._channels_last else maps


def round_to(side: int, step: int) -> int:
    """Return the smallest multiple of `step` that is not below a side."""
    return -(-side // step) * step


def _nearest(name: str, in_channels: int, size: tuple[int, ...], step: int, options: Mapping[str, Any]) -> str:
    """Return the end of a message: the size nearest to `size` that a network takes, empty if none of those tried."""
    own = timm.models.get_pretrained_cfg_value(name, "input_size") or (3, 224, 224)
    steps = [step * windows for windows in (1, 2, 4, 7, 8)]
    rounded = {(_nearest_multiple(size[0], each), _nearest_multiple(size[1], each)) for each in steps}
    square = {(side, side) for each in rounded for side in each}
    for found in sorted({*rounded, *square, own[1:]} - {tuple(size)}, key=lambda each: math.dist(each, size)):
        try:
            with torch.device("meta"), torch.no_grad():  # shapes alone
                net = _create(name, in_channels, False, found, options).eval()
                maps = net(torch.zeros(1, in_channels, *found))
        except Exception:  # it does not take that size either, for whatever reason
            continue
        cells = [(-(-found[0] // stride), -(-found[1] // stride)) for stride in net.feature_info.reduction()]
        if all(each in (m.shape[1:3], m.shape[2:]) for each, m in zip(cells, maps, strict=True)):
            return f"; the nearest size that it takes: {found[0]}x{found[1]}"
    return ""


def _nearest_multiple(side: int, step: int) -> int:
    return max(step, round(side / step) * step)


def is_timm(name: str) -> bool:
    """Return whether timm has a network of this name, with or without a tag of its weights."""
    return bool(timm.is_model(name))


def timm_names(pretrained: bool = False) -> list[str]:
    """Return the plain names of timm's networks.

    Nearly all return feature maps; the few that do not raise an error when they are built.

    Args:
        pretrained: Only networks with published weights.

    Returns:
        The names, in timm's order.
    """
    return [name for name in timm.list_models() if not pretrained or timm.models.is_model_pretrained(name)]


class SizeError(KpnetError):
    """A network cannot be built for a size of images."""


def _create_near(
    name: str, in_channels: int, pretrained: bool, size: Size, options: Mapping[str, Any]
) -> tuple[Any, Size]:
    """Build a network for a size, or for that size padded to a multiple of `STEP`; return the size that it is for."""
    try:
        return _create(name, in_channels, pretrained, size, options), size
    except SizeError as error:
        assert size is not None
        padded = (round_to(size[0], STEP), round_to(size[1], STEP))
        try:
            return _create(name, in_channels, pretrained, padded, options), padded
        except SizeError:
            raise KpnetError(f"{error}{_nearest(name, in_channels, size, STEP, options)}") from None


def _create(name: str, in_channels: int, pretrained: bool, size: Size, options: Mapping[str, Any]) -> Any:
    """Build a network with `timm.create_model`, with the size options of transformers where it takes them."""
    extra: dict[str, Any] = {"dynamic_img_size": True, "img_size": size}
    check_timm_options(name, options)
    while True:
        try:
            with quick_downloads() if pretrained else nullcontext():
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
                raise KpnetError(f'backbone "{name}": it does not take the key "{ours[0]}"') from None
            raise KpnetError(f'backbone "{name}" cannot be built: {first_line(error, with_type=True)}') from None
        except KpnetError:  # of the memory that it needs
            raise
        except AssertionError as error:
            if "img_size" not in extra or size is None:
                raise KpnetError(f'backbone "{name}" cannot be built: {first_line(error, with_type=True)}') from None
            reason = str(error) or "a side is no multiple of its patches or windows"
            raise SizeError(f'backbone "{name}" does not take images of {size[0]}x{size[1]} pixels: {reason}') from None
        except Exception as error:
            if pretrained:
                raise KpnetError(download_message(f'backbone "{name}"', error)) from None
            raise KpnetError(f'backbone "{name}" cannot be built: {first_line(error, with_type=True)}') from None


def _load_timm(net: nn.Module, name: str, state: dict[str, Tensor], source: str) -> LoadReport:
    if isinstance(net, FeatureGetterNet):
        # The model as it is, whose own filter resamples position embeddings to the size it was built for.
        entry = sys.modules[timm.models.model_entrypoint(name.split(".")[0]).__module__]
        convert = getattr(entry, "checkpoint_filter_fn", None)
        return load_matching_weights(net.model, convert(state, net.model) if convert else state, source)
    return load_matching_weights(net, state, source)


def _last_of_each(strides: list[int]) -> list[int]:
    """Return the index of the last map of each stride, finest first."""
    return [i for _, i in sorted({stride: i for i, stride in enumerate(strides)}.items())]
