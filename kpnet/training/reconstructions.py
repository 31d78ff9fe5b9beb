"""What a pretraining shows for itself: the error of its reconstructions, and their images."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kpnet import plot
from kpnet.config.pretraining import Mask
from kpnet.core.runtime import evaluation_mode
from kpnet.data.unlabelled import UnlabelledImages
from kpnet.models.autoencoder import Autoencoder
from kpnet.models.masking import corrupt
from kpnet.models.reconstruction import ReconstructionModel

SHOWN, PAIRS, STEPS = 10, 5, 7  # images reconstructed; pairs interpolated; steps of each interpolation


@torch.no_grad()
def measure(
    model: ReconstructionModel, dataset: Dataset[Any], mask: Mask | None = None, seed: int = 0, batch_size: int = 64
) -> dict[str, float]:
    """Measure the reconstructions of a dataset, without noise.

    Args:
        model: The network; it stays on its device.
        dataset: Items with `image` (C, H, W).
        mask: The patches to hide from a masked-image model. An autoencoder sees the whole images.
        seed: Random seed of which patches are hidden.
        batch_size: Images per forward pass.

    Returns:
        Errors in grey values of [0, 1]. Of an autoencoder: `mse`, the mean squared error, and `mean_image_mse`, the
        error of the images' mean: the lowest that an encoder which gives the same for every image can reach. Of a
        masked-image model: `hidden_l1`, the mean absolute error of the hidden pixels, and `mean_image_l1`, that of the
        images' mean there. A single image is its own mean, so that the second one is left out.
    """
    with evaluation_mode(model):
        if isinstance(model, Autoencoder):
            measures, count = _measure_whole(model, dataset, batch_size)
        else:
            measures, count = _measure_hidden(model, dataset, mask, seed, batch_size)
    return measures if count > 1 else {key: value for key, value in measures.items() if not key.startswith("mean_")}


def _measure_whole(model: ReconstructionModel, dataset: Dataset[Any], batch_size: int) -> tuple[dict[str, float], int]:
    """Return the errors and the number of images."""
    error, count, total, squares = 0.0, 0, torch.zeros(()), torch.zeros(())
    for images in _batches(dataset, batch_size):
        error += (model(images.to(model.mean.device)).cpu() - images).double().square().sum().item()
        total, squares = total + images.double().sum(0), squares + images.double().square().sum(0)
        count += len(images)
    variance = squares / count - (total / count) ** 2
    return {"mse": error / (count * total.numel()), "mean_image_mse": variance.mean().item()}, count


def _measure_hidden(
    model: ReconstructionModel, dataset: Dataset[Any], mask: Mask | None, seed: int, batch_size: int
) -> tuple[dict[str, float], int]:
    """Return the errors and the number of images."""
    count, total = 0, torch.zeros(())
    for images in _batches(dataset, batch_size):
        count, total = count + len(images), total + images.double().sum(0)
    generator = torch.Generator().manual_seed(seed)
    errors, pixels = torch.zeros(2, dtype=torch.float64), 0
    for images in _batches(dataset, batch_size):
        seen, hidden = corrupt(images, 0.0, mask, model.mean.cpu(), generator)
        for i, guess in enumerate((model(seen.to(model.mean.device)).cpu(), total / count)):
            errors[i] += (guess - images).double().abs().masked_fill(~hidden, 0.0).sum()
        pixels += int(hidden.sum()) * images.shape[1]
    return dict(zip(("hidden_l1", "mean_image_l1"), (errors / pixels).tolist(), strict=True)), count


def _batches(dataset: Dataset[Any], batch_size: int) -> Iterator[Tensor]:
    for batch in DataLoader(dataset, batch_size):
        yield batch["image"]


@torch.no_grad()
def draw(model: ReconstructionModel, images: Tensor, seen: Tensor, hidden: Tensor) -> dict[str, plot.Figure]:
    """Draw `reconstructions` of images (N, C, H, W), and `interpolations`.

    `seen` are the images as the encoder sees them, and `hidden` (N, 1, H, W) is which of their pixels are blanked. Of a
    masked-image model only the hidden patches are shown as it predicts them. An autoencoder's interpolations lie in the
    latent space, between the first image and the second, the third and the fourth, and so on.
    """
    with evaluation_mode(model):
        shown = model(seen)
        if not isinstance(model, Autoencoder):
            shown = torch.where(hidden, shown, images)
        rows = torch.stack([seen, shown, images])
        figures = {"reconstructions": plot.draw_mosaic(rows, ["input", "reconstruction", "original"])}
        first, second = images[: 2 * PAIRS - 1 : 2], images[1 : 2 * PAIRS : 2]
        if len(second) and isinstance(model, Autoencoder):
            between = model.interpolate(first[: len(second)], second, STEPS).transpose(0, 1)
            ends = torch.cat([first[: len(second), None], between, second[:, None]], 1)
            steps = ["first", *(f"{i / (STEPS - 1):.2f}" for i in range(STEPS)), "second"]
            figures["interpolations"] = plot.draw_mosaic(ends, columns=steps)
    return figures


def first_images(dataset: UnlabelledImages) -> Tensor:
    """Return the first images of a dataset (at most SHOWN, C, H, W), not augmented."""
    plain = copy.copy(dataset)
    plain.transform = None
    return torch.stack([plain[i]["image"] for i in range(min(SHOWN, len(plain)))])
