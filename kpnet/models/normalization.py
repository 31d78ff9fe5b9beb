"""Input normalisation: the mean and standard deviation that a network subtracts and divides by."""

from __future__ import annotations

import torch
from torch import nn

from kpnet.backbones import Backbone
from kpnet.config.pretraining import PretrainModelConfig
from kpnet.config.schema import ModelConfig
from kpnet.core.errors import KpnetError


def register_statistics(module: nn.Module, config: ModelConfig | PretrainModelConfig, backbone: Backbone) -> None:
    """Register `mean` and `std` (1, C, 1, 1) as buffers: the config's, or else the backbone's.

    Raises:
        KpnetError: There is neither one value nor one for each of the backbone's input channels.
    """
    channels = backbone.in_channels
    for name, values in (("mean", config.mean or backbone.mean), ("std", config.std or backbone.std)):
        if len(values) not in (1, channels):
            expected = "1 value" if channels == 1 else f"1 or {channels} values"
            raise KpnetError(f"model.{name}: expected {expected}, found {len(values)}")
        # One value is repeated for every input channel of the backbone, so that a grey image always broadcasts to as
        # many. They are in the state dict: the weights predict otherwise
        # without the statistics that they were trained with.
        each = torch.tensor(list(values)).expand(channels).clone()
        module.register_buffer(name, each.view(1, -1, 1, 1))
