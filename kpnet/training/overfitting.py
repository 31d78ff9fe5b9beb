"""The course's sanity check: a network that cannot memorise one sample will not learn from many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from kpnet import coordinates, metrics
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError
from kpnet.core.runtime import evaluation_mode
from kpnet.data.build import build_train
from kpnet.heads import finds_instances
from kpnet.models.build import assemble
from kpnet.training.freezing import ParameterGroup
from kpnet.training.loaders import trains_on_one
from kpnet.training.optim import build_optimizer

STEPS, TARGET_PX = 300, 0.5


def overfit(config: Config, samples: int, console: Console) -> tuple[float, int]:
    """Train on the first `samples` samples without augmentation; return the RMSE in px and the steps taken.

    The training stops once the RMSE is under 0.5 px, at the latest after 300 steps. `train.overfit` replaces the
    recipe's optimizer if given. The learning rate falls linearly to 0: at a constant rate, an L1 loss, whose gradient
    does not shrink, lets the prediction oscillate around the target for ever.
    """
    if finds_instances(config.model.head):
        raise KpnetError(
            "--overfit trains on one instance in each image, and the head centers finds several: train on a few "
            "instances instead, e.g. data.train={file: FILE, limit: 8}"
        )
    torch.manual_seed(config.train.seed)
    dataset = build_train(config, augment=False)
    if not 0 < samples <= len(dataset):
        raise KpnetError(f"--overfit {samples}: expected 1 to {len(dataset)}, the number of training samples")
    items = [dataset[i] for i in range(samples)]
    batch = {key: torch.stack([item[key] for item in items]) for key in ("image", "keypoints", "weight", "visible")}
    images, visible = batch["image"], batch["visible"]
    if not visible.any():
        raise KpnetError("--overfit: the first samples have no labelled point")
    model = assemble(config.model, dataset.skeleton)
    if samples == 1 and not trains_on_one(model, model.output, images):
        raise KpnetError("--overfit 1: a batch norm of this network has one value for each image: expected at least 2")
    optimizer = build_optimizer(
        [ParameterGroup("model", list(model.parameters()))], config.train.overfit or config.train.optimizer
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    size = config.model.input_size

    target_px = coordinates.normalized_to_pixel(batch["keypoints"], size)

    def error() -> float:
        with torch.no_grad(), evaluation_mode(model), _batch_statistics(model):
            predicted = coordinates.normalized_to_pixel(model(images), size)
        return float(metrics.rmse(metrics.point_errors(predicted, target_px, visible)))

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"overfitting {samples} sample(s)", total=STEPS)
        for step in range(1, STEPS + 1):
            model.train()
            loss = model.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 - step / STEPS)
            progress.update(task, advance=1)
            if step % 10 == 0 and error() < TARGET_PX:
                break
    return error(), step


@contextmanager
def _batch_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms use the batch's statistics, as in training.

    One sample has nine cells at stride 32, and the running variance, which is unbiased, is an eighth larger than the
    batch's in every layer: that gap is no failure to memorise.
    """
    norms = {m: m.momentum for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    for norm in norms:
        norm.training, norm.momentum = True, 0.0  # and keep their running statistics
    try:
        yield
    finally:
        for norm, momentum in norms.items():
            norm.training, norm.momentum = False, momentum
