"""A contact sheet: samples of a dataset with their points and names, to check before training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

from kpnet.core.display import display_name, figure_text
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.plot.figure import Figure

LEFT, RIGHT, MIDDLE, EDGE = "#ff8c1a", "#3fa7ff", "#f2f2f2", "#ffe15a"
PREDICTION = "#ff2b2b"
TILE, TITLE, GAP = 2.7, 0.125, 0.02  # inches a tile; its title and the edge around it, in tiles
_NAMED = 20  # more points than this are numbered instead of named
_NUMBERED = 500  # more points than this are not numbered


def draw_contact_sheet(
    dataset: KeypointDataset,
    indices: Sequence[int],
    notes: dict[int, str] | None = None,
    predicted: np.ndarray | None = None,
) -> Figure:
    """Draw samples of a dataset with their points, edges and boxes.

    Left points are orange, right ones blue, hidden ones hollow. A sample that fills a small part of its image is shown
    with its surroundings only. Samples whose image cannot be read are skipped.

    Args:
        dataset: The samples.
        indices: Indices of the samples to draw.
        notes: Index of a sample to a line of text, drawn above it in red.
        predicted: A model's points (N, K, 2) in pixels of the images, NaN where there is none: a red cross for each,
            with a line to its label.

    Returns:
        A grid with an image for each sample, titled with the image's name.

    Raises:
        KpnetError: No image can be drawn.

    Example:
        ```python
        kpnet.plot.draw_contact_sheet(kpnet.data.SyntheticFaces(12), range(12))
        ```
    """
    samples = [index for index in indices if _readable(dataset, index)]
    if not samples:
        raise KpnetError("no images to draw")
    columns = min(6, math.ceil(math.sqrt(1.4 * len(samples))))
    rows = math.ceil(len(samples) / columns)
    # All in one Axes: 24 of them and a layout engine take longer than what they show.
    figure = Figure(figsize=(TILE * columns, TILE * (1 + TITLE) * rows), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1))
    places = np.full((len(samples), len(dataset.skeleton), 2), np.nan)
    for i, index in enumerate(samples):
        row, column = divmod(i, columns)
        corner = column + GAP, (row + 1) * (1 + TITLE) - 1 + GAP
        theirs = None if predicted is None else predicted[index]
        places[i] = _draw(axes, dataset, index, corner, (notes or {}).get(index), theirs)
    _draw_names(axes, places, dataset.skeleton)
    axes.set(xlim=(0, columns), ylim=(rows * (1 + TITLE), 0))
    axes.set_axis_off()
    return figure


def _readable(dataset: KeypointDataset, index: int) -> bool:
    try:
        dataset.read(index)
    except KpnetError:
        return False
    return True


def _draw(
    axes: Axes,
    dataset: KeypointDataset,
    index: int,
    corner: tuple[float, float],
    note: str | None,
    predicted: np.ndarray | None,
) -> np.ndarray:
    """Draw a sample into the tile with this upper left corner, in tiles. Returns where its points (K, 2) are."""
    image, xy = dataset.read(index)
    box, labelled = dataset.box(index), np.isfinite(xy).all(-1)
    view = np.reshape(_view(xy[labelled], box, (image.shape[0], image.shape[1])), (2, 2))
    scale = (1 - 2 * GAP) / (view[1] - view[0]).max()
    shift = corner + (1 - 2 * GAP - scale * (view[1] - view[0])) / 2 - scale * view[0]
    edges = scale * np.array([(-0.5, -0.5), (image.shape[1] - 0.5, image.shape[0] - 0.5)]) + shift
    shown = axes.imshow(
        image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image,  # a single pixel keeps its axes
        cmap="gray" if image.ndim == 2 or image.shape[2] == 1 else None,
        vmin=0,
        vmax=255,
        interpolation="bilinear",
        extent=(edges[0, 0], edges[1, 0], edges[1, 1], edges[0, 1]),
    )
    shown.set_clip_path(_rectangle(scale * view + shift, transform=axes.transData))
    if box is not None:
        corners = scale * box.reshape(2, 2) + shift
        axes.add_patch(_rectangle(corners, fill=False, edgecolor="#7dff7d", linewidth=0.8))
    points = scale * xy + shift
    if predicted is not None:
        _draw_predicted(axes, points, scale * predicted + shift)
    _draw_points(axes, points, dataset.visibility(index) == 1, dataset.skeleton)
    name, instance = dataset.image_name(index), dataset.instance(index)
    title = ("…" + name[-34:] if len(name) > 35 else name) + f" #{instance}" * bool(instance)
    text, colour = (figure_text(f"{title}\n{note}"), "red") if note else (figure_text(title), "black")
    axes.text(corner[0] + 0.5 - GAP, corner[1] - GAP, text, ha="center", va="bottom", fontsize=7, color=colour)
    return points


def _rectangle(corners: np.ndarray, **options: Any) -> Rectangle:
    (left, top), (right, bottom) = corners
    return Rectangle((left, top), right - left, bottom - top, **options)


def _draw_points(axes: Axes, points: np.ndarray, hidden: np.ndarray, skeleton: Skeleton) -> None:
    labelled, colours = np.isfinite(points).all(-1), _colours(skeleton)
    ends = [points[list(pair)] for pair in skeleton.edge_indices if labelled[list(pair)].all()]
    axes.add_collection(LineCollection(ends, colors=EDGE, linewidths=0.7, alpha=0.8), autolim=False)
    there = np.flatnonzero(labelled)
    axes.scatter(
        points[there, 0],
        points[there, 1],
        s=(3.4 if len(skeleton) <= _NAMED else 2.0) ** 2,
        facecolors=["none" if hidden[k] else colours[k] for k in there],
        edgecolors=[colours[k] for k in there],
        linewidths=1.0,
    )


def _draw_predicted(axes: Axes, points: np.ndarray, predicted: np.ndarray) -> None:
    ends = [np.stack(pair) for pair in zip(points, predicted, strict=True) if np.isfinite(pair).all()]
    axes.add_collection(LineCollection(ends, colors=PREDICTION, linewidths=0.6), autolim=False)
    axes.plot(*predicted.T, "x", color=PREDICTION, markersize=3.2, markeredgewidth=0.9)


def _draw_names(axes: Axes, places: np.ndarray, skeleton: Skeleton) -> None:
    """Write the names beside their points (N, K, 2), as markers: the glyphs are drawn once and not N times."""
    few = len(skeleton) <= _NAMED
    if len(skeleton) > _NUMBERED:
        return
    for k, (name, colour) in enumerate(zip(skeleton.names, _colours(skeleton), strict=True)):
        if few and not name.strip():
            continue  # a name without glyphs has no path
        label = figure_text(display_name(name, 40)) if few else str(k)
        text = TextPath((2, 2) if few else (1, 1), label, size=4.5)
        size = 2 * np.abs(text.vertices).max()  # matplotlib scales a marker's path to this
        axes.plot(*places[:, k].T, marker=text, markersize=size, linestyle="none", color=colour, markeredgewidth=0)


def _view(xy: np.ndarray, box: np.ndarray | None, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the edges of the view: the whole image, or a square around a sample that fills less than half of it."""
    height, width = size
    whole = (-0.5, -0.5, width - 0.5, height - 0.5)
    corners = np.concatenate([xy, box.reshape(2, 2)] if box is not None else [xy])
    if not len(corners):
        return whole
    low, high = corners.min(0), corners.max(0)
    side = 1.5 * max(*(high - low), 16)
    if side > 0.5 * max(size):
        # The whole image, and the points beyond it.
        return (
            (*np.minimum(low - 5, whole[:2]), *np.maximum(high + 5, whole[2:])) if _beyond(low, high, size) else whole
        )
    middle = (low + high) / 2
    return (*(middle - side / 2), *(middle + side / 2))


def _beyond(low: np.ndarray, high: np.ndarray, size: tuple[int, int]) -> bool:
    return bool((low < -0.5).any() or (high > (size[1] - 0.5, size[0] - 0.5)).any())


def _colours(skeleton: Skeleton) -> list[str]:
    sides = {name: colour for pair in skeleton.pairs for name, colour in zip(pair, (LEFT, RIGHT), strict=True)}
    return [sides.get(name, MIDDLE) for name in skeleton.names]
