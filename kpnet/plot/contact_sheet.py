"""A contact sheet: samples of a dataset with their points and names, to check before training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.plot.figure import Figure

LEFT, RIGHT, MIDDLE, EDGE = "#ff8c1a", "#3fa7ff", "#f2f2f2", "#ffe15a"
_NAMED = 20  # more points than this are numbered instead of named


def draw_contact_sheet(dataset: KeypointDataset, indices: Sequence[int], notes: dict[int, str] | None = None) -> Figure:
    """Draw samples of a dataset with their points, edges and boxes.

    Left points are orange, right ones blue, hidden ones hollow. A sample that fills a small part of its image is shown
    with its surroundings only. Samples whose image cannot be read are skipped.

    Args:
        dataset: The samples.
        indices: Indices of the samples to draw.
        notes: Index of a sample to a line of text, drawn above it in red.

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
    figure = Figure(figsize=(3.1 * columns, 3.3 * rows), dpi=120, layout="constrained")
    for place, index in enumerate(samples, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _draw(axes, dataset, index)
        note = (notes or {}).get(index)
        name = dataset.image_name(index)
        number = f" #{dataset.instance(index)}" if dataset.instance(index) else ""
        title = f"{'…' + name[-34:] if len(name) > 35 else name}{number}"
        axes.set_title(f"{title}\n{note}" if note else title, fontsize=7, color="red" if note else "black")
    return figure


def _readable(dataset: KeypointDataset, index: int) -> bool:
    try:
        dataset.read(index)
    except KpnetError:
        return False
    return True


def _draw(axes: Axes, dataset: KeypointDataset, index: int) -> None:
    image, xy = dataset.read(index)
    grey = image.ndim == 2 or image.shape[2] == 1
    axes.imshow(image.squeeze(), cmap="gray" if grey else None, vmin=0, vmax=255, interpolation="bilinear")
    axes.set_axis_off()
    box = dataset.box(index)
    if box is not None:
        axes.add_patch(
            Rectangle((box[0], box[1]), *(box[2:] - box[:2]), fill=False, edgecolor="#7dff7d", linewidth=0.8)
        )
    labelled = np.isfinite(xy).all(-1)
    names = dataset.skeleton.names
    for a, b in dataset.skeleton.edges:
        ends = xy[[names.index(a), names.index(b)]]
        axes.plot(*ends.T, color=EDGE, linewidth=0.7, alpha=0.8)  # NaN: no line
    hidden = dataset.visibility(index) == 1
    colours = _colours(dataset.skeleton)
    size = 3.4 if len(names) <= _NAMED else 2.0
    for k in np.flatnonzero(labelled):
        face = "none" if hidden[k] else colours[k]
        axes.plot(*xy[k], "o", markersize=size, markerfacecolor=face, markeredgecolor=colours[k], markeredgewidth=0.7)
        text = names[k] if len(names) <= _NAMED else str(k)
        offset = (2, 2) if len(names) <= _NAMED else (1, 1)
        axes.annotate(text, xy[k], xytext=offset, textcoords="offset points", fontsize=4.5, color=colours[k])
    x0, y0, x1, y1 = _view(xy[labelled], box, (image.shape[0], image.shape[1]))
    axes.set_xlim(x0, x1)
    axes.set_ylim(y1, y0)


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
