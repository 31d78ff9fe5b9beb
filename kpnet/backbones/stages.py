"""Assign a backbone's parameters and modules to the maps that they make."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from kpnet.backbones.base import Backbone
from kpnet.core.runtime import evaluation_mode


@dataclass(frozen=True)
class Stages:
    """The finest map, counted from 0, that each part of a backbone contributes to.

    Attributes:
        parameters: Parameter name to stage.
        modules: Module path to stage.
    """

    parameters: dict[str, int]
    modules: dict[str, int]


def find_stages(backbone: Backbone, in_channels: int, size: tuple[int, int]) -> Stages:
    """Find the stages of any network by its gradients: a parameter's stage is the finest map that depends on it.

    A parameter that no map depends on belongs to the last stage. A module belongs to the latest stage of its
    parameters; one without parameters, such as dropout, to that of the smallest block around it that has some.

    Args:
        backbone: The network; it is left as it was.
        in_channels: Channels of the blank image that is passed through it.
        size: Height and width of that image.

    Returns:
        The stage of every parameter and of every module.
    """
    stages = _parameter_stages(backbone, in_channels, size)
    modules = {}
    for path, module in backbone.named_modules():
        around, own = path, list(module.parameters())
        while not own and around:
            around = around.rpartition(".")[0]
            own = list(backbone.get_submodule(around).parameters())
        modules[path] = max((stages[p] for p in own), default=len(backbone.strides) - 1)
    return Stages({name: stages[p] for name, p in backbone.named_parameters()}, modules)


def _parameter_stages(backbone: Backbone, in_channels: int, size: tuple[int, int]) -> dict[nn.Parameter, int]:
    parameters = list(backbone.parameters())
    frozen = [p for p in parameters if not p.requires_grad]
    stages: dict[nn.Parameter, int] = {}
    device, dtype = (parameters[0].device, parameters[0].dtype) if parameters else (None, None)
    try:
        for p in frozen:
            p.requires_grad_(True)
        with evaluation_mode(backbone), torch.enable_grad():
            maps = backbone(torch.zeros(1, in_channels, *size, device=device, dtype=dtype))
            for stage, each in enumerate(maps):
                rest = [p for p in parameters if p not in stages]
                if rest:
                    gradients = torch.autograd.grad(each.sum(), rest, retain_graph=True, allow_unused=True)
                    stages |= {p: stage for p, g in zip(rest, gradients, strict=True) if g is not None}
    finally:
        for p in frozen:
            p.requires_grad_(False)
    return {p: stages.get(p, len(backbone.strides) - 1) for p in parameters}
