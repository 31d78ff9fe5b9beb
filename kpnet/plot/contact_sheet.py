"""A contact sheet: samples of a dataset with their points and names, to look at before training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.plot.figure import Figure

LEFT, RIGHT, MIDDLE, EDGE = "#ff8c1a", "#3fa7ff", "#f2f2f2", "#ffe15a"
TILE, TITLE, GAP = 3.1, 0.11, 0.02  # inches a tile; its title and the edge around it, in tiles
_NAMED = 20  # more points have numbers in place of names


def draw_contact_sheet(dataset: KeypointDataset, indices: Sequence[int], notes: dict[int, str] | None = None) -> Figure:
    """Samples with their points: left ones orange, right ones blue, hidden ones hollow; the box, where there is one.

    A sample that fills a small part of its image is shown with its surroundings alone. notes: index to a line in red.
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
        places[i] = _draw(axes, dataset, index, corner, (notes or {}).get(index))
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
    axes: Axes, dataset: KeypointDataset, index: int, corner: tuple[float, float], note: str | None
) -> np.ndarray:
    """A sample in the tile whose upper left corner is given; the unit is a tile's side. Where its points are (K, 2)."""
    image, xy = dataset.read(index)
    box, labelled = dataset.box(index), np.isfinite(xy).all(-1)
    x0, y0, x1, y1 = _view(xy[labelled], box, (image.shape[0], image.shape[1]))
    scale = (1 - 2 * GAP) / max(x1 - x0, y1 - y0)
    shift = np.add(corner, (1 - 2 * GAP - scale * np.array([x1 - x0, y1 - y0])) / 2) - scale * np.array([x0, y0])

    def place(points: np.ndarray) -> np.ndarray:
        return scale * points + shift

    (left, top), (right, bottom) = place(np.array([(-0.5, -0.5), (image.shape[1] - 0.5, image.shape[0] - 0.5)]))
    shown = axes.imshow(
        image.squeeze(),
        cmap="gray" if image.ndim == 2 or image.shape[2] == 1 else None,
        vmin=0,
        vmax=255,
        interpolation="bilinear",
        extent=(left, right, bottom, top),
    )
    shown.set_clip_path(
        Rectangle(place(np.array([x0, y0])), scale * (x1 - x0), scale * (y1 - y0), transform=axes.transData)
    )
    if box is not None:
        low, high = place(box.reshape(2, 2))
        axes.add_patch(Rectangle(low, *(high - low), fill=False, edgecolor="#7dff7d", linewidth=0.8))
    points, names = place(xy), dataset.skeleton.names
    ends = [points[list(pair)] for pair in dataset.skeleton.edge_indices if labelled[list(pair)].all()]
    axes.add_collection(LineCollection(ends, colors=EDGE, linewidths=0.7, alpha=0.8), autolim=False)
    hidden, colours, few = dataset.visibility(index) == 1, _colours(dataset.skeleton), len(names) <= _NAMED
    there = np.flatnonzero(labelled)
    faces = ["none" if hidden[k] else colours[k] for k in there]
    edges = [colours[k] for k in there]
    axes.scatter(*points[there].T, (3.4 if few else 2.0) ** 2, facecolors=faces, edgecolors=edges, linewidths=0.7)
    name = dataset.image_name(index)
    title = ("…" + name[-34:] if len(name) > 35 else name) + f" #{dataset.instance(index)}" * bool(
        dataset.instance(index)
    )
    text = f"{title}\n{note}" if note else title
    middle = corner[0] + 0.5 - GAP
    axes.text(middle, corner[1] - GAP, text, ha="center", va="bottom", fontsize=7, color="red" if note else "black")
    return points


def _draw_names(axes: Axes, places: np.ndarray, skeleton: Skeleton) -> None:
    """Each name beside its points (N, K, 2): a marker, whose glyphs are drawn once and not N times."""
    few = len(skeleton) <= _NAMED
    for k, (name, colour) in enumerate(zip(skeleton.names, _colours(skeleton), strict=True)):
        text = TextPath((2, 2) if few else (1, 1), name if few else str(k), size=4.5)
        size = 2 * np.abs(text.vertices).max()  # matplotlib scales a marker's path to this
        axes.plot(*places[:, k].T, marker=text, markersize=size, linestyle="none", color=colour, markeredgewidth=0)


def _view(xy: np.ndarray, box: np.ndarray | None, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Edges of what is shown: the whole image, or a square about a sample that fills less than half of it."""
    height, width = size
    whole = (-0.5, -0.5, width - 0.5, height - 0.5)
    corners = np.concatenate([xy, box.reshape(2, 2)] if box is not None else [xy])
    if not len(corners):
        return whole
    low, high = corners.min(0), corners.max(0)
    side = 1.5 * max(*(high - low), 16)
    if side > 0.5 * max(size):
        # All of the image, and what lies beyond it.
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
