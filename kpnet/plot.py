"""Pictures: points on images, training curves."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib import figure as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from kpnet.coordinates import normalized_to_pixel
from kpnet.errors import KpnetError
from kpnet.files import write_atomic
from kpnet.metrics import PASS_MARK
from kpnet.modes import evaluation_mode

TRUTH, PREDICTION = "#18e05a", "#ff2b2b"
SMALL = 256  # a smaller picture is enlarged before points are drawn on it


class Figure(mpl.Figure):
    """A matplotlib figure that needs no display and no pyplot; a notebook shows it by itself."""

    def _repr_png_(self) -> bytes:
        return _png(self)


def show_keypoint_predictions(dataset: Any, model: nn.Module, num_samples: int = 3) -> Figure:
    """The first samples with their true points and what the model says (I2DL, exercise 9).

    dataset: items with `image` (C, H, W) and `keypoints` (K, 2) in [-1, 1]; `visible` (K,) if it has one.
    model: gives K points in [-1, 1] for images (1, C, H, W), of any shape. The order (model, dataset) works too.
    """
    if isinstance(dataset, nn.Module):
        dataset, model = model, dataset
    count = min(num_samples, len(dataset))
    if count < 1:
        raise KpnetError(f"nothing to show: {num_samples} samples of a dataset of {len(dataset)}")
    items = [dataset[i] for i in range(count)]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.no_grad(), evaluation_mode(model):
        predicted = [model(item["image"][None].to(device)).reshape(-1, 2) for item in items]
    return draw_predictions(
        [item["image"] for item in items],
        [item["keypoints"] for item in items],
        predicted,
        [item["visible"] for item in items] if "visible" in items[0] else None,
    )


def draw_predictions(
    images: Tensor | Sequence[Tensor],
    truth: Tensor | Sequence[Tensor] | None,
    predicted: Tensor | Sequence[Tensor],
    visible: Tensor | Sequence[Tensor] | None = None,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
) -> Figure:
    """A grid of images with true points as green crosses and predictions as red dots.

    images (B, C, H, W) float in [0, 1] or uint8, truth and predicted (B, K, 2) in [-1, 1], visible (B, K):
    which true points there are; each may be a list, then with sizes of its own. The default title is the
    mean distance of the two in pixels. columns: at most that many side by side (None: about a square).
    """
    count = len(images)
    if not count:
        raise KpnetError("no images to draw")
    columns = min(count, columns or (count if count <= 4 else math.ceil(math.sqrt(1.3 * count))))
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(2.4 * columns, 2.62 * rows + 0.3), dpi=150, layout="constrained")
    for i in range(count):
        axes = figure.add_subplot(rows, columns, i + 1)
        there = None if visible is None else _numpy(visible[i]).astype(bool)
        true = None if truth is None else _numpy(truth[i])
        distance = _draw_sample(axes, images[i], true, _numpy(predicted[i]), there)
        axes.set_title(titles[i] if titles is not None else distance, fontsize=9)
    handles = [_marker("o", PREDICTION, "predicted")]
    if truth is not None:
        handles.insert(0, _marker("+", TRUTH, "true"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def draw_points(
    image: np.ndarray,
    xy: np.ndarray,
    confidence: np.ndarray | None = None,
    edges: Sequence[tuple[int, int]] = (),
) -> np.ndarray:
    """The picture as RGB uint8 with a dot at every point, red where unsure to green where sure.

    image (H, W) or (H, W, 3) uint8, xy (K, 2) in its pixels (not finite: not drawn), confidence (K,) in
    [0, 1], edges: pairs of indices to join. A picture under 256 px is enlarged by a whole factor f;
    pixel (x, y) is then at ((x + 0.5) f - 0.5, …), as everywhere in kpnet.
    """
    height, width = image.shape[:2]
    factor = math.ceil(1.5 * SMALL / max(height, width)) if max(height, width) < SMALL else 1
    canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 or image.shape[2] == 1 else image.copy()
    if factor > 1:
        canvas = cv2.resize(canvas, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    points = (np.asarray(xy, np.float64) + 0.5) * factor - 0.5
    # Neither NaN nor so far outside that fixed-point coordinates overflow.
    drawn = (np.abs(points) < 10 * max(canvas.shape)).all(-1)
    unit = max(canvas.shape[:2]) / 400
    for a, b in edges:
        if drawn[a] and drawn[b]:
            ends = (_fixed(points[a]), _fixed(points[b]))
            cv2.line(canvas, *ends, (255, 225, 90), max(1, round(unit)), cv2.LINE_AA, _SHIFT)
    for k in np.flatnonzero(drawn):
        sure = 0.0 if confidence is None else float(np.clip(np.nan_to_num(confidence[k]), 0, 1))
        colour = (round(255 * min(1, 2 - 2 * sure)), round(230 * min(1, 2 * sure)), 40)
        for radius, paint in ((4.4 * unit, (20, 20, 20)), (3.2 * unit, colour)):
            cv2.circle(canvas, _fixed(points[k]), round(radius * 2**_SHIFT), paint, -1, cv2.LINE_AA, _SHIFT)
    return canvas


def draw_curves(metrics: pd.DataFrame) -> Figure:
    """Losses (left, logarithmic), validation score (right, with the pass mark if in range), learning rate below.

    metrics: a row an epoch; the columns epoch, train_loss, val_loss, val_score, lr as far as there are.
    """
    with_rate = "lr" in metrics and metrics["lr"].notna().any()
    figure = Figure(figsize=(8, 5), dpi=130, layout="constrained")
    ratios = [4, 1] if with_rate else [1]
    panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    left: Axes = panels[0]
    losses = [name for name in ("train_loss", "val_loss") if name in metrics and metrics[name].notna().any()]
    for name, colour in zip(losses, ("#1f77b4", "#ff7f0e"), strict=False):
        _line(left, metrics, name, colour)
    if losses and (metrics[losses].stack() > 0).all():  # a likelihood may be negative
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:g}")
        decades = math.log10(left.get_ylim()[1] / left.get_ylim()[0])
        left.yaxis.set_minor_formatter(lambda loss, _: _minor_label(loss, decades))
    left.set_ylabel("loss")
    left.grid(alpha=0.25, which="both", linewidth=0.5)
    handles = left.get_lines()
    if "val_score" in metrics and metrics["val_score"].notna().any():
        handles = [*handles, *_draw_score(left.twinx(), metrics)]
    left.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=4, frameon=False, fontsize=9)
    if with_rate:
        _line(panels[1], metrics, "lr", "#7f7f7f")
        panels[1].set_ylabel("lr")
        panels[1].grid(alpha=0.25, linewidth=0.5)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(metrics) == 1:
        panels[-1].margins(x=10)
    return figure


def draw_reliability(measured: dict[str, Any]) -> Figure:
    """Of `reliability.measure_reliability`: confidence against the share that is right, the ellipses' coverage, and
    predicted against actual error."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    right, ellipses, errors = figure.subplots(1, 3)
    for name, rows in measured["diagram"].items():
        x, y = [row["confidence"] for row in rows], [row["right"] for row in rows]
        right.plot(x, y, "o-", label=f"within {name} of the side")
    ece = ", ".join(f"{key.upper()} {measured[key]:.3f}" for key in ("ece", "ece@1%") if key in measured)
    right.set(xlabel="confidence", ylabel="share that is right", title=ece)
    levels = [int(key[:-1]) / 100 for key in measured["coverage"]]
    shares = list(measured["coverage"].values())
    spans = [[s["measured"] - s["low"] for s in shares], [s["high"] - s["measured"] for s in shares]]
    ellipses.errorbar(levels, [s["measured"] for s in shares], np.maximum(spans, 0), fmt="o", capsize=4)
    ellipses.set(xlabel="ellipse", ylabel="share of points inside", title="coverage (95 % interval over images)")
    for axes in (right, ellipses):
        axes.plot([0, 1], [0, 1], "--", color="grey", zorder=0)
    right.legend()
    predicted, actual = ([row[key] for row in measured["deciles"]] for key in ("predicted_px", "px"))
    errors.loglog(predicted, actual, "o-")
    errors.loglog(predicted, predicted, "--", color="grey", zorder=0)
    errors.set(
        xlabel="predicted RMS error, px", ylabel="actual RMS error, px", title="tenths of the points, surest first"
    )
    return figure


def draw_mosaic(images: Tensor, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> Figure:
    """Images (R, N, C, H, W) in [0, 1], clipped, as R rows of N; `rows` and `columns` are their names, if any."""
    count, across, channels, height, width = images.shape
    images = images.detach().cpu().float().clamp(0, 1)
    tiles = torch.ones(count, across, 3, height + 2, width + 2)  # with a white edge
    tiles[..., 1:-1, 1:-1] = images if channels == 3 else images.mean(2, keepdim=True)
    canvas = tiles.permute(0, 3, 1, 4, 2).reshape(count * (height + 2), across * (width + 2), 3)
    size = (1.3 * bool(rows) + 1.1 * across, 0.3 * bool(columns) + 1.1 * count * height / width)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(canvas.numpy(), interpolation="bicubic")
    axes.set_yticks([(i + 0.5) * (height + 2) for i in range(len(rows))], rows)
    axes.set_xticks([(i + 0.5) * (width + 2) for i in range(len(columns))], columns)
    axes.tick_params(length=0, labelsize=9, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure


def save_figure(figure: mpl.Figure, path: str | Path) -> None:
    """Write beside, then rename: a crash leaves no half picture. The figure is closed."""
    path = Path(path)
    data = _png(figure, path.suffix[1:] or "png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)
    if "matplotlib.pyplot" in sys.modules:  # a pyplot figure would be kept for ever
        sys.modules["matplotlib.pyplot"].close(figure)
    figure.clear()


_SHIFT = 6  # cv2 draws at 1 / 2^6 of a pixel


def _fixed(point: np.ndarray) -> tuple[int, int]:
    x, y = np.rint(point * 2**_SHIFT).astype(int)
    return int(x), int(y)


def _png(figure: mpl.Figure, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _draw_sample(
    axes: Axes, image: Tensor, truth: np.ndarray | None, predicted: np.ndarray, visible: np.ndarray | None
) -> str:
    """Draw one sample; the mean distance in pixels as a title."""
    pixels = _numpy(image)
    size = (pixels.shape[-2], pixels.shape[-1])
    pixels = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels.mean(0)
    top = 255 if image.dtype == torch.uint8 else 1
    axes.imshow(np.clip(pixels / top, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
    axes.set_axis_off()
    axes.autoscale(False)  # a point far outside does not shrink the picture
    dots = normalized_to_pixel(predicted.astype(np.float64), size)
    title = ""
    if truth is not None:
        visible = np.isfinite(truth).all(-1) if visible is None else visible
        crosses = normalized_to_pixel(truth.astype(np.float64), size)[visible]
        axes.plot(*crosses.T, "+", color=TRUTH, markersize=8, markeredgewidth=1.4)
        if len(crosses):
            title = f"{np.hypot(*(dots[visible] - crosses).T).mean():.2f} px off"
    axes.plot(*dots.T, "o", color=PREDICTION, markersize=3.2, markeredgewidth=0)
    return title


def _marker(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=colour, label=label, markeredgewidth=1.4 * (marker == "+"))


def _line(axes: Axes, metrics: pd.DataFrame, name: str, colour: str) -> list[Line2D]:
    rows = metrics[metrics[name].notna()]
    epochs = rows.get("epoch", rows.index)
    dot = "o" if len(rows) < 3 else None  # a line of one point is invisible
    return axes.plot(epochs, rows[name], color=colour, label=name.replace("_", " "), linewidth=1.5, marker=dot)


def _minor_label(loss: float, decades: float) -> str:
    """Between powers of ten: 2 and 5, or everything on a short axis."""
    digit = round(loss / 10 ** math.floor(math.log10(loss)))
    return f"{loss:.3g}" if decades < 0.5 or digit in (2, 5) else ""


def _draw_score(axes: Axes, metrics: pd.DataFrame) -> list[Line2D]:
    lines = _line(axes, metrics, "val_score", "#2ca02c")
    axes.set_ylabel("val score", color="#2ca02c")
    axes.tick_params(axis="y", colors="#2ca02c")
    axes.set_ylim(0, 1.05 * max(metrics["val_score"].max(), 1))
    if axes.get_ylim()[1] > PASS_MARK:
        mark = axes.axhline(
            PASS_MARK, color="#2ca02c", linewidth=0.8, linestyle="--", label=f"pass mark {PASS_MARK:.0f}"
        )
        lines = [*lines, mark]
    return lines
