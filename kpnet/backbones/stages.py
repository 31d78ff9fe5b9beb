"""Which parts of a backbone make which map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from kpnet.backbones.base import Backbone
from kpnet.core.runtime import evaluation_mode


@dataclass(frozen=True)
class Stages:
    """Of a backbone's parameters and modules, by their names: the finest map, from 0, that they have a part in."""

    parameters: dict[str, int]
    modules: dict[str, int]


def find_stages(backbone: Backbone, in_channels: int, size: tuple[int, int]) -> Stages:
    """For any network: a parameter is of stage i if map i is the finest that depends on it, by its gradient.

    What no map depends on is of the last stage. A module is of the latest stage of its parameters; one without, such
    as dropout, of that of the smallest block around it that has some. Found with a blank image of `size` (H, W).
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
