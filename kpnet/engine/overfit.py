"""The slides' sanity check: a network that cannot memorise one sample will learn nothing from many."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.progress import Progress

from kpnet import coordinates, metrics
from kpnet.config import Config
from kpnet.data.build import build_dataset
from kpnet.engine.optim import build_optimizer
from kpnet.errors import KpnetError
from kpnet.model import assemble

STEPS, TARGET_PX = 300, 0.5


def overfit(config: Config, samples: int, console: Console) -> tuple[float, int]:
    """Train on the first `samples` samples without augmentation; (RMSE in px, steps taken).

    Stops once the RMSE is under 0.5 px, at the latest after 300 steps. Uses `train.overfit` as the optimizer
    where the recipe has one, at a constant learning rate.
    """
    if config.data.train is None:
        raise KpnetError("data.train is missing: give a file under data.root")
    torch.manual_seed(config.train.seed)
    dataset = build_dataset(config.data, config.model, config.data.train, seed=config.train.seed)
    if not 0 < samples <= len(dataset):
        raise KpnetError(f"--overfit {samples}: expected 1 to {len(dataset)}, the number of training samples")
    items = [dataset[i] for i in range(samples)]
    images, target, weight, visible = (
        torch.stack([i[k] for i in items]) for k in ("image", "keypoints", "weight", "visible")
    )
    if not visible.any():
        raise KpnetError("--overfit: the first samples have no labelled point")
    model = assemble(config.model, dataset.skeleton)
    optimizer = build_optimizer(model, config.train.overfit or config.train.optimizer)
    size = config.model.input_size

    def error() -> float:
        predicted = coordinates.normalized_to_pixel(model.infer(images).keypoints, size)
        return float(
            metrics.rmse(metrics.point_errors(predicted, coordinates.normalized_to_pixel(target, size), visible))
        )

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"overfitting {samples} sample(s)", total=STEPS)
        for step in range(1, STEPS + 1):
            model.train()
            loss = torch.stack(list(model.head.loss(model.output(images), target, weight).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress.update(task, advance=1)
            if step % 10 == 0 and error() < TARGET_PX:
                break
    return error(), step
