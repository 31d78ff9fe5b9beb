"""Optimizers and schedules from their configs."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from kpnet import config


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for weights alone: biases and norms (at most one dimension) are skipped."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def build_optimizer(model: nn.Module, settings: config.SGD | config.Adam | config.AdamW) -> Optimizer:
    """The optimizer over what requires a gradient."""
    groups = parameter_groups(model, settings.weight_decay)
    if isinstance(settings, config.SGD):
        # Nesterov is not defined without momentum; momentum 1.0 is allowed (the slides' tables have it).
        nesterov = settings.nesterov and settings.momentum > 0
        return SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)
    kind = AdamW if isinstance(settings, config.AdamW) else Adam
    return kind(groups, lr=settings.lr, betas=settings.betas)


def build_schedule(optimizer: Optimizer, settings: config.Schedule, steps: int, epochs: int) -> dict[str, Any] | None:
    """Lightning's scheduler entry; `steps` is the number of optimizer steps of the whole training."""
    if isinstance(settings, config.Constant):
        return None
    if isinstance(settings, config.Plateau):
        plateau = ReduceLROnPlateau(optimizer, factor=settings.factor, patience=settings.patience)
        return {"scheduler": plateau, "interval": "epoch", "monitor": "val_loss"}
    if isinstance(settings, config.OneCycle):
        warmup, start, final = settings.warmup * steps, settings.start_factor, settings.final_factor
    else:
        warmup, start, final = settings.warmup_epochs * steps / epochs, None, settings.final_factor

    def factor(step: int) -> float:
        if step < warmup:
            if start is None:  # linear, from the first step's share
                return (step + 1) / (warmup + 1)
            return _cosine(start, 1.0, step / warmup)
        return _cosine(1.0, final, min(1.0, (step - warmup) / max(1.0, steps - 1 - warmup)))

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
