"""Transfer learning: which parts rest when, and how fast each learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from kpnet.config.schema import Freeze, TrainConfig
from kpnet.core.errors import KpnetError
from kpnet.models.keypoint_model import KeypointModel


@dataclass
class ParameterGroup:
    """Parameters that learn at `scale` times the optimizer's rate, and rest and thaw together."""

    name: str
    parameters: list[nn.Parameter]
    scale: float = 1.0

    def groups(self, weight_decay: float, lr: float) -> list[dict[str, Any]]:
        """The optimizer's groups. Weight decay is for weights alone: biases and norms (one dimension) are skipped."""
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return [{**group, "lr": lr * self.scale, "part": self.name} for group in groups if group["params"]]


def parts(model: KeypointModel, config: TrainConfig) -> list[ParameterGroup]:
    """The head, then the backbone, or its stages from last to first: the order in which they thaw.

    One part where all learn alike. Stage i of n has the rate times `layer_decay` ** (n - i), from 0.
    """
    freeze, decay = config.freeze, config.layer_decay
    scale = config.lr_scale.backbone
    if freeze is None and decay == scale == 1:
        return [ParameterGroup("model", list(model.parameters()))]
    head = ParameterGroup("head", list(model.head.parameters()))
    if decay == 1 and (freeze is None or (freeze.stages is None and freeze.every is None)):
        return [head, ParameterGroup("backbone", list(model.backbone.parameters()), scale)]
    found = [head]
    for stage in reversed(range(len(model.backbone.strides))):
        parameters = [p for name, p in model.backbone.named_parameters() if model.stages.parameters[name] == stage]
        rate = scale * decay ** (len(model.backbone.strides) - stage)
        found.append(ParameterGroup(f"backbone_stride_{model.backbone.strides[stage]}", parameters, rate))
    return found


def frozen_stages(freeze: Freeze | None, stages: int, epoch: int) -> int:
    """How many of the backbone's first stages rest in `epoch` (from 0)."""
    if freeze is None:
        return 0
    first = stages if freeze.stages is None else freeze.stages
    if freeze.until is None or epoch < freeze.until:
        return first
    if freeze.every is None:
        return 0
    return max(0, first - 1 - (epoch - freeze.until) // freeze.every)


def parameter_groups(order: list[ParameterGroup], model: KeypointModel, frozen: int) -> int:
    """How many of the parts, in their order, learn while so many stages rest."""
    if len(order) <= 2:
        return len(order) if frozen == 0 else 1
    return 1 + len(model.backbone.strides) - frozen


def check_freeze(model: KeypointModel, config: TrainConfig) -> str | None:
    """A warning where what is frozen was never trained; a KpnetError for stages and epochs that there are not."""
    freeze, stages = config.freeze, len(model.backbone.strides)
    if freeze is None:
        return None
    if freeze.stages is not None and freeze.stages > stages:
        raise KpnetError(f"train.freeze.stages: expected at most {stages}, the backbone's maps, found {freeze.stages}")
    if freeze.until is not None and freeze.until >= config.epochs:
        raise KpnetError(
            f"train.freeze.until: expected less than train.epochs ({config.epochs}), found {freeze.until}; "
            "freeze: true is for good"
        )
    if config.schedule.name == "plateau" and "warmup" in freeze.model_fields_set:
        raise KpnetError("train.freeze.warmup goes by steps, and schedule: plateau does not: leave it out")
    last = frozen_stages(freeze, stages, config.epochs - 1)
    if freeze.every is not None and last:
        raise KpnetError(
            f"train.freeze: {last} of {stages} stages would never learn, with until {freeze.until} and every "
            f"{freeze.every} in {config.epochs} epochs: give smaller ones, or more epochs"
        )
    learns = "never learn" if freeze.until is None else f"not learn before epoch {freeze.until + 1}"
    if model.config.pretrained is False:
        return f"train.freeze rests random weights, which would {learns}: give model.pretrained"
    return None
