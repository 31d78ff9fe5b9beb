"""Networks of timm as backbones."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import timm
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

_HOOKED = threading.Lock()


class TimmBackbone(LibraryBackbone):
    """Any timm model that can return feature maps, by its plain name.

    A transformer is built for `input_size`; where timm allows it, position embeddings are resampled for other sizes.
    The last of several maps of one stride is kept. Options that choose the architecture go to `timm.create_model`
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

    def __init__(
        self, name: str, in_channels: int, pretrained: Pretrained, input_size: Size, options: Mapping[str, Any]
    ) -> None:
        self._start(name, in_channels, pretrained)
        self.net = _create(name, in_channels, pretrained is True, input_size, options)
        reductions = self.net.feature_info.reduction()
        self._note_norms()
        self._channels_last = getattr(self.net, "output_fmt", None) == Format.NHWC  # swin and its kin
        self._has_hooks = any(getattr(self.net, name, None) for name in ("hooks", "feature_hooks"))
        self._kept = _last_of_each(reductions)
        self.strides = [reductions[i] for i in self._kept]
        self.channels = [self.net.feature_info.channels()[i] for i in self._kept]
        cfg = self.net.pretrained_cfg
        self._statistics(cfg.get("mean", IMAGENET_MEAN), cfg.get("std", IMAGENET_STD), in_channels)
        if pretrained and pretrained is not True:
            self.loaded = _load_timm(self.net, name, backbone_weights(pretrained), str(pretrained))
        elif pretrained:
            self.loaded = LoadReport(
                f"timm's {cfg.get('architecture')}.{cfg.get('tag')}", len(self.net.state_dict()), []
            )
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
        # Networks with hooks keep the maps of a pass in one place, which threads have to enter one by one.
        with _HOOKED if self._has_hooks and not is_tracing() else nullcontext():
            found = self.net(images)
        maps = [m for i, m in enumerate(found) if i in self._kept]
        return [m.permute(0, 3, 1, 2).contiguous() for m in maps] if self._channels_last else maps


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
