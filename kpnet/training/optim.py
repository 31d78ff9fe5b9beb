"""Optimizers and learning-rate schedules, built from their configs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from kpnet.config import optim as schema
from kpnet.training.freezing import ParameterGroup


def build_optimizer(parts: Iterable[ParameterGroup], settings: schema.SGD | schema.Adam | schema.AdamW) -> Optimizer:
    """Build the optimizer of these groups of parameters."""
    groups = [group for part in parts for group in part.groups(settings.weight_decay, settings.lr)]
    if isinstance(settings, schema.SGD):
        # Nesterov is not defined without momentum; momentum 1.0 is allowed (the slides' tables have it).
        nesterov = settings.nesterov and settings.momentum > 0
        return SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)
    kind = AdamW if isinstance(settings, schema.AdamW) else Adam
    return kind(groups, lr=settings.lr, betas=settings.betas)


def build_schedule(
    optimizer: Optimizer, settings: schema.Schedule, steps: int, epochs: int, unfreeze_warmup: float = 0.0
) -> dict[str, Any]:
    """Build Lightning's scheduler entry for a training of `steps` optimizer steps.

    `unfreeze_warmup` is the number of steps over which a part that is unfrozen warms up.
    """
    if isinstance(settings, schema.Plateau):
        plateau = ReduceLROnPlateau(optimizer, factor=settings.factor, patience=settings.patience)
        return {"scheduler": plateau, "interval": "epoch", "monitor": "val_loss"}
    if isinstance(settings, schema.OneCycle):
        warmup, start, final = settings.warmup * steps, settings.start_factor, settings.final_factor
    elif isinstance(settings, schema.Constant):
        warmup, start, final = 0.0, None, 1.0
    else:
        warmup, start, final = settings.warmup_epochs * steps / epochs, None, settings.final_factor

    def factor(step: int) -> float:
        if step < warmup:
            if start is None:  # linear
                return (step + 1) / (warmup + 1)
            return _cosine(start, 1.0, step / warmup)
        return _cosine(1.0, final, min(1.0, (step - warmup) / max(1.0, steps - 1 - warmup)))

    return {"scheduler": GroupSchedule(optimizer, factor, unfreeze_warmup), "interval": "step"}


class GroupSchedule(LRScheduler):
    """Each group's own rate times `factor(step)`; a group added at step `since` warms up over `warmup` steps."""

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float], warmup: float) -> None:
        self.factor, self.warmup = factor, warmup
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        return [self._rate(group) for group in self.optimizer.param_groups]

    def _rate(self, group: dict[str, Any]) -> float:
        warmed = (self.last_epoch - group["since"] + 1) / (self.warmup + 1) if "since" in group else 1.0
        return float(group["initial_lr"] * self.factor(self.last_epoch) * min(1.0, warmed))

    def add(self, part: ParameterGroup, weight_decay: float, lr: float) -> None:
        """Let a part learn from the next step on."""
        for group in part.groups(weight_decay, lr):
            group |= {"initial_lr": group["lr"], "since": self.last_epoch}
            self.optimizer.add_param_group({**group, "lr": self._rate(group)})

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a step; the rates are those of this schedule, which may be for more epochs than the saved one."""
        super().load_state_dict(state_dict)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(group)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
