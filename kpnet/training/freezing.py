"""Freezing schedules and learning rates for transfer learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from kpnet.config.schema import Freeze, TrainConfig
from kpnet.core.errors import KpnetError
from kpnet.models.keypoint_model import KeypointModel


@dataclass
class ParameterGroup:
    """Parameters that learn at `scale` times the optimizer's rate, and are frozen and unfrozen together."""

    name: str
    parameters: list[nn.Parameter]
    scale: float = 1.0

    def groups(self, weight_decay: float, lr: float) -> list[dict[str, Any]]:
        """Return the optimizer's groups. Biases and norms (one dimension) have no weight decay."""
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return [{**group, "lr": lr * self.scale, "part": self.name} for group in groups if group["params"]]


def parameter_groups(model: KeypointModel, config: TrainConfig) -> list[ParameterGroup]:
    """Return the groups in the order in which they are unfrozen: the head, then the backbone or its stages, last first.

    There is one group if all parameters learn alike. The rate of stage i of n (from 0) is multiplied by
    `layer_decay` ** (n - i).
    """
    freeze, decay = config.freeze, config.layer_decay
    scale = config.lr_scale.backbone
    if freeze is None and decay == scale == 1:
        return [ParameterGroup("model", list(model.parameters()))]
    own = [part for part in (model.head, model.presence, model.finder) if part is not None]
    head = ParameterGroup("head", [parameter for part in own for parameter in part.parameters()])
    if decay == 1 and (freeze is None or (freeze.stages is None and freeze.every is None)):
        return [head, ParameterGroup("backbone", list(model.backbone.parameters()), scale)]
    found = [head]
    for stage in reversed(range(len(model.backbone.strides))):
        parameters = [p for name, p in model.backbone.named_parameters() if model.stages.parameters[name] == stage]
        rate = scale * decay ** (len(model.backbone.strides) - stage)
        found.append(ParameterGroup(f"backbone_stride_{model.backbone.strides[stage]}", parameters, rate))
    return found


def frozen_stages(freeze: Freeze | None, stages: int, epoch: int) -> int:
    """Return how many of the backbone's first stages are frozen in `epoch` (from 0)."""
    if freeze is None:
        return 0
    first = stages if freeze.stages is None else freeze.stages
    if freeze.until is None or epoch < freeze.until:
        return first
    if freeze.every is None:
        return 0
    return max(0, first - 1 - (epoch - freeze.until) // freeze.every)


def count_learning_groups(order: list[ParameterGroup], model: KeypointModel, frozen: int) -> int:
    """Return how many of the groups, in their order, learn while the first `frozen` stages are frozen."""
    if len(order) <= 2:
        return len(order) if frozen == 0 else 1
    return 1 + len(model.backbone.strides) - frozen


def check_freeze(model: KeypointModel, config: TrainConfig) -> str | None:
    """Check `train.freeze` against the model and the epochs; return a warning if random weights would be frozen."""
    freeze, stages = config.freeze, len(model.backbone.strides)
    if freeze is None:
        return None
    if freeze.stages is not None and freeze.stages > stages:
        raise KpnetError(f"train.freeze.stages: expected at most {stages}, the backbone's maps, found {freeze.stages}")
    if freeze.until is not None and freeze.until >= config.epochs:
        raise KpnetError(
            f"train.freeze.until: expected less than train.epochs ({config.epochs}), found {freeze.until}; "
            "freeze: true freezes for the whole training"
        )
    if config.schedule.name == "plateau" and "warmup" in freeze.model_fields_set:
        raise KpnetError("train.freeze.warmup counts steps, which schedule: plateau does not: remove warmup")
    last = frozen_stages(freeze, stages, config.epochs - 1)
    if freeze.every is not None and last:
        raise KpnetError(
            f"train.freeze: {last} of {stages} stages would never learn, with until {freeze.until} and every "
            f"{freeze.every} in {config.epochs} epochs: lower until or every, or train for more epochs"
        )
    learns = "never learn" if freeze.until is None else f"not learn before epoch {freeze.until + 1}"
    if model.config.pretrained is False:
        return f"train.freeze would freeze randomly initialised weights, which would {learns}: give model.pretrained"
    return None
