"""What a network sees: the filters of its first layer, its feature maps, its heatmaps, its points' uncertainty.

An image is a tensor (C, H, W) in [0, 1], as the model takes it, or the original: a file, or uint8 (H, W) or RGB
(H, W, 3), which is letterboxed as by `Predictor` and shown as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Circle, Ellipse
from torch import Tensor, nn

from kpnet import coordinates
from kpnet.core.display import display_name, figure_text
from kpnet.core.errors import KpnetError
from kpnet.core.registry import split_spec
from kpnet.core.runtime import evaluation_mode
from kpnet.data.images import model_inputs, read_image
from kpnet.heads import Keypoints
from kpnet.models.keypoint_model import KeypointModel
from kpnet.plot.figure import Figure
from kpnet.plot.points import PREDICTION
from kpnet.uncertainty import ellipse_radius

Image = Tensor | np.ndarray | str | Path
FILTERS, COLUMNS = 64, 8
TILE = 0.75  # width in inches; eight tiles and a colour scale fill a figure
LEVEL = 0.9
GUARANTEE = "#4cc9ff"  # colour of the guaranteed circles


class NothingToDraw(KpnetError):
    """The network has nothing to draw, such as a head without heatmaps or a backbone with a single cell."""


@dataclass
class _View:
    """An image as it is shown (`pixels`) and as the model takes it (`images`, (1, C, H, W)).

    `inverse` is the 2x3 mapping from pixels of the model's input to pixels of the shown image.
    """

    pixels: np.ndarray
    images: Tensor
    inverse: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.images.shape[-2], self.images.shape[-1]

    def points(self, predicted: Keypoints) -> np.ndarray:
        """Return the keypoints (K, 2) in pixels of the shown image."""
        xy = coordinates.normalized_to_pixel(predicted.keypoints[0].cpu().double(), self.size).numpy()
        return coordinates.transform(xy, self.inverse)

    def show(self, axes: Axes) -> None:
        axes.imshow(self.pixels, cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
        axes.set_axis_off()
        axes.autoscale(False)


def draw_filters(model: KeypointModel) -> Figure:
    """Draw the weights of the layer that sees the image, at most 64 of its filters, on one scale.

    Filters of one channel are red above 0 and blue below; those of three channels are colours, with grey at 0; others
    are averaged over their channels. A linear layer's filters are as large as the image.

    Args:
        model: The model.

    Returns:
        The filters side by side.

    Raises:
        NothingToDraw: The backbone has no such layer.

    Example:
        ```python
        kpnet.plot.save_figure(kpnet.plot.draw_filters(model), "filters.png")
        ```
    """
    name, weights = _first_filters(model)
    count, channels, height, width = weights.shape
    top = float(np.abs(weights).max()) or 1.0
    if channels == 3:
        tiles = list(0.5 + weights[:FILTERS].transpose(0, 2, 3, 1) / (2 * top))
    else:
        tiles = list(weights[:FILTERS].mean(1))
    shown = f"{len(tiles)} of {count}" if len(tiles) < count else str(count)
    over = {1: "", 3: ", in colour"}.get(channels, f", the mean over {channels} channels")
    rows = math.ceil(len(tiles) / COLUMNS)
    figure = Figure(figsize=(7, 0.4 + TILE * rows * (height / width + 0.05)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    _draw_tiles(axes, tiles, [], "RdBu_r", (-top, top), bar=channels != 3)
    axes.set_title(f"{figure_text(name)}: {shown} filters {height}x{width}{over}", fontsize=9)
    return figure


def draw_features(model: KeypointModel, image: Image, channels: int = 16) -> Figure:
    """Draw an image and the channels of the backbone's feature maps that vary most over it.

    Each map has a colour scale of its own, and its channels are numbered as in the network.

    Args:
        model: The model.
        image: A tensor (C, H, W) in [0, 1] of the model's input size, a file, or uint8 (H, W) or RGB (H, W, 3).
        channels: Number of channels to draw of each map.

    Returns:
        A panel with the image, and one for each feature map, as the head receives it.

    Raises:
        NothingToDraw: The backbone has a single cell for the whole image.
    """
    view = _view(model, image)
    with torch.no_grad(), evaluation_mode(model):
        maps = [each[0].float().cpu().numpy() for each in model.features(view.images)]
    maps = [each for each in maps if each[0].size > 1]
    if not maps:
        raise NothingToDraw("no feature maps: the backbone gives one cell for the whole image")
    height, width = view.size
    rows = [math.ceil(min(channels, len(each)) / COLUMNS) for each in maps]
    heights = [2.0, *(0.4 + TILE * count * (height / width + 0.16) for count in rows)]
    figure = Figure(figsize=(7, sum(heights) + 0.2), dpi=150, layout="constrained")
    first, *panels = figure.subplots(len(heights), 1, height_ratios=heights)
    _view(model, view.images).show(first)  # the maps' own frame: letterboxed
    for axes, each in zip(panels, maps, strict=True):
        kept = np.argsort(-each.std((1, 2)), kind="stable")[:channels]
        limits = (float(each[kept].min()), float(each[kept].max()))
        _draw_tiles(axes, list(each[kept]), [str(c) for c in kept], "viridis", limits, bar=True)
        count, h, w = each.shape
        shown = f"the {len(kept)} of {count} channels that vary most" if len(kept) < count else f"{count} channels"
        axes.set_title(f"stride {round(height / h)}, {h}x{w} cells: {shown}", fontsize=9)
    return figure


def draw_heatmaps(model: KeypointModel, image: Image) -> Figure:
    """Draw each point's heatmap over the image, with the predicted point, its name and its confidence.

    Args:
        model: The model.
        image: A tensor (C, H, W) in [0, 1] of the model's input size, a file, or uint8 (H, W) or RGB (H, W, 3).

    Returns:
        A grid with a panel for each point.

    Raises:
        NothingToDraw: The head has no heatmaps.

    Example:
        ```python
        kpnet.plot.save_figure(kpnet.plot.draw_heatmaps(model, "photo.jpg"), "heatmaps.png")
        ```
    """
    view = _view(model, image)
    predicted = model.infer(view.images)
    if predicted.heatmaps is None:
        raise NothingToDraw(f'no heatmaps: the head "{split_spec(model.config.head, "head")[0]}" gives none')
    maps, points = predicted.heatmaps[0].float().cpu().numpy(), view.points(predicted)
    (left, top), (right, bottom) = coordinates.transform(
        np.array([(-0.5, -0.5), (view.size[1] - 0.5, view.size[0] - 0.5)]), view.inverse
    )
    columns = min(len(maps), 5)
    rows = math.ceil(len(maps) / columns)
    tall = 2 * min(max(view.pixels.shape[0] / view.pixels.shape[1], 0.1), 10) + 0.25
    figure = Figure(figsize=(2 * columns, tall * rows), dpi=130)
    # By hand: the constrained layout takes seconds for many points.
    grid = figure.add_gridspec(
        rows, columns, left=0.01, right=0.99, bottom=0.01, top=1 - 0.25 / (tall * rows), wspace=0.04, hspace=0.25 / tall
    )
    for k, (name, each) in enumerate(zip(model.skeleton.names, maps, strict=True)):
        axes = figure.add_subplot(grid[k // columns, k % columns])
        view.show(axes)
        veil = 0.8 * np.sqrt(each / (each.max() or 1.0))  # a flat map does not hide the image
        axes.imshow(each, cmap="inferno", extent=(left, right, bottom, top), alpha=veil, interpolation="none")
        axes.plot(*points[k], "+", color="#31e8ff", markersize=7, markeredgewidth=1.2)
        confidence = "" if predicted.confidence is None else f"  {float(predicted.confidence[0, k]):.2f}"
        axes.set_title(figure_text(f"{display_name(name, 24)}{confidence}"), fontsize=7, pad=2)
    return figure


def draw_uncertainty(model: KeypointModel, image: Image, level: float = LEVEL) -> Figure:
    """Draw the predicted points on an image, each with the ellipse that holds the truth with probability `level`.

    The ellipses are those of the predicted covariance; without one, only the points are drawn. Of a model with a
    guarantee, the circles of the guaranteed radii are drawn too.

    Args:
        model: The model.
        image: A tensor (C, H, W) in [0, 1] of the model's input size, a file, or uint8 (H, W) or RGB (H, W, 3).
        level: Probability that an ellipse holds the true point.

    Returns:
        The image with points, ellipses and circles.

    Example:
        ```python
        kpnet.plot.save_figure(kpnet.plot.draw_uncertainty(model, "photo.jpg"), "uncertainty.png")
        ```
    """
    view = _view(model, image)
    predicted = model.infer(view.images)
    points = view.points(predicted)
    height, width = view.pixels.shape[:2]
    scale = 6 / max(height, width)
    figure = Figure(figsize=(max(4.2, scale * width), max(1, scale * height) + 0.3), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    view.show(axes)
    title = "no uncertainty: the head has no covariance, and the model is not calibrated"
    if predicted.covariance is not None:
        scales = coordinates.normalized_distance_to_pixel(torch.ones(2, dtype=torch.float64), view.size).numpy()
        linear = view.inverse[:, :2] * scales
        covariances = linear @ predicted.covariance[0].cpu().double().numpy() @ linear.T
        for xy, covariance in zip(points, covariances, strict=True):
            axes.add_patch(_ellipse(xy, covariance, ellipse_radius(level, predicted.dof)))
        source = "as calibrated" if model.calibration is not None else "by the head's own covariance, not calibrated"
        title = f"ellipses that hold the point with {100 * level:g} %, {source}"
    if predicted.radius is not None and model.guarantee is not None:
        grown = max(view.size) * np.linalg.norm(view.inverse[:, :2], 2)
        for xy, radius in zip(points, predicted.radius[0].cpu().double().numpy() * grown, strict=True):
            axes.add_patch(Circle((xy[0], xy[1]), radius, fill=False, edgecolor=GUARANTEE, linewidth=0.9))
        title += f"\ncircles: guaranteed radii at {100 * model.guarantee.at:g} %"
    axes.plot(*points.T, "o", color=PREDICTION, markersize=3, markeredgewidth=0)
    axes.set_title(title, fontsize=8)
    return figure


def _view(model: KeypointModel, image: Image) -> _View:
    device = next(model.parameters()).device
    if isinstance(image, Tensor):
        images = image[None] if image.ndim == 3 else image
        if images.ndim != 4 or len(images) != 1:
            raise KpnetError(f"expected one image (C, H, W), got {tuple(image.shape)}")
        pixels = images[0].detach().float().cpu().clamp(0, 1).numpy()
        return _View(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels.mean(0), images.to(device), np.eye(2, 3))
    original = image if isinstance(image, np.ndarray) else read_image(image)
    ((taken, matrix),) = model_inputs(original, None, model.config)
    planes = torch.from_numpy(taken if taken.ndim == 3 else taken[..., None]).permute(2, 0, 1)
    shown = original[..., 0] if original.shape[2:] == (1,) else original
    return _View(shown / 255, planes[None].to(device).float() / 255, coordinates.invert(matrix))


def _first_filters(model: KeypointModel) -> tuple[str, np.ndarray]:
    """Return the name and the weights (N, C, h, w) of the backbone's layer that a blank image reaches first."""
    reached: list[tuple[str, nn.Module]] = []

    def note(name: str, module: nn.Module) -> None:
        reached.append((name, module))

    layers = {n: m for n, m in model.backbone.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    hooks = [m.register_forward_pre_hook(lambda module, _, name=n: note(name, module)) for n, m in layers.items()]
    blank = next(model.parameters()).new_zeros(1, model.backbone.in_channels, *model.config.input_size)
    try:
        with torch.no_grad(), evaluation_mode(model):
            model.backbone(blank)
    finally:
        for hook in hooks:
            hook.remove()
    if not reached:
        raise NothingToDraw("no filters: the backbone has neither a convolution nor a linear layer")
    name, layer = reached[0]
    weights: Tensor = layer.weight.detach().float().cpu()  # type: ignore[operator]
    if isinstance(layer, nn.Linear):
        if layer.in_features != blank.numel():
            raise NothingToDraw(f"no filters: the first layer, {name}, is linear and does not see the whole image")
        weights = weights.unflatten(1, blank.shape[1:])
    return name, weights.numpy()


def _draw_tiles(
    axes: Axes, tiles: Sequence[np.ndarray], labels: Sequence[str], cmap: str, limits: tuple[float, float], bar: bool
) -> None:
    """Draw arrays (h, w) or (h, w, 3) side by side, eight in a row; `bar` adds their colour scale."""
    across, aspect = min(COLUMNS, len(tiles)), tiles[0].shape[0] / tiles[0].shape[1]
    gap, line = 0.05, 0.16 if labels else 0.05  # fractions of a tile's width; a line has room for its labels
    for i, tile in enumerate(tiles):
        x, y = (i % across) * (1 + gap), (i // across) * (aspect + line)
        axes.imshow(tile, cmap=cmap, vmin=limits[0], vmax=limits[1], extent=(x, x + 1, y + aspect, y))
        if labels:
            axes.text(x, y - 0.02, labels[i], fontsize=5.5, va="bottom")
    rows = math.ceil(len(tiles) / across)
    axes.set(xlim=(0, COLUMNS * (1 + gap)), ylim=(rows * (aspect + line), -line))
    axes.set_aspect("equal")
    axes.set_axis_off()
    if bar:
        scale = ScalarMappable(Normalize(*limits), cmap)
        axes.figure.colorbar(scale, ax=axes, fraction=0.03, pad=0.01).ax.tick_params(labelsize=6)


def _ellipse(xy: np.ndarray, covariance: np.ndarray, radius: float) -> Ellipse:
    """Return the ellipse of `radius` standard deviations around a point."""
    variances, directions = np.linalg.eigh(covariance)
    width, height = 2 * radius * np.sqrt(np.maximum(variances, 0))
    angle = math.degrees(math.atan2(directions[1, 0], directions[0, 0]))
    return Ellipse((xy[0], xy[1]), width, height, angle=angle, fill=False, edgecolor="#ffd21f", linewidth=1.2)
