"""Curves of a training, of a range test, and of a model's reliability."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from kpnet.plot.figure import Figure


def draw_curves(metrics: pd.DataFrame, pass_mark: float | None = None) -> Figure:
    """Draw the losses and the validation score of a training over its epochs, and the learning rate below.

    Args:
        metrics: The rows of a run's `metrics.csv`, one an epoch. Drawn are the columns `train_loss`, `val_loss`,
            `val_score` and `lr`, as far as there are; `epoch` is the horizontal axis.
        pass_mark: Score at which a dashed line is drawn, if it is in range. None: no line.

    Returns:
        Losses on the left axis (logarithmic where all are positive and fall to a third), the score on the right axis.

    Example:
        ```python
        kpnet.plot.draw_curves(pandas.read_csv("runs/facial_heatmap/metrics.csv"))
        ```
    """
    with_rate = "lr" in metrics and metrics["lr"].notna().any()
    figure = Figure(figsize=(8, 5), dpi=130, layout="constrained")
    ratios = [4, 1] if with_rate else [1]
    panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    left: Axes = panels[0]
    losses = [name for name in ("train_loss", "val_loss") if name in metrics and metrics[name].notna().any()]
    for name, colour in zip(losses, ("#1f77b4", "#ff7f0e"), strict=False):
        _line(left, metrics, name, colour)
    set_loss_scale(left)
    left.set_ylabel("loss")
    left.grid(alpha=0.25, which="both", linewidth=0.5)
    handles = left.get_lines()
    if "val_score" in metrics and metrics["val_score"].notna().any():
        handles = [*handles, *_draw_score(left.twinx(), metrics, pass_mark)]
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


def draw_lr_curve(rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray, suggestion: float) -> Figure:
    """Draw the loss of a learning-rate range test over the rate, with the suggested rate.

    Args:
        rates: Learning rates (N,).
        losses: Loss at each rate (N,).
        smoothed: Smoothed loss at each rate (N,).
        suggestion: The suggested rate.

    Returns:
        Both losses over the rate, which is on a logarithmic axis.
    """
    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.semilogx(rates, losses, color="#b0b0b0", linewidth=0.8, label="loss of each step")
    axes.semilogx(rates, smoothed, color="#1f77b4", linewidth=1.8, label="smoothed")
    axes.axvline(suggestion, color="#d62728", linewidth=0.8, linestyle="--")
    level = float(np.interp(np.log(suggestion), np.log(rates), smoothed))
    axes.plot(suggestion, level, "o", color="#d62728", label=f"steepest fall: {suggestion:.1e}")
    low, start = float(losses.min()), float(smoothed[0])
    axes.set_ylim(low - 0.1 * (start - low), start + 0.6 * (start - low))  # diverged losses leave the figure
    axes.set(xlabel="learning rate", ylabel="loss")
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.legend(frameon=False, fontsize=9)
    return figure


def draw_reliability(measured: dict[str, Any] | None, instances: dict[str, Any] | None = None) -> Figure:
    """Draw the reliability of a model's confidence.

    Args:
        measured: The measures of `kpnet.evaluation.reliability.measure_reliability`; None for a model without
            confidence.
        instances: Those of `kpnet.evaluation.instances.score_reliability`, for a model that finds instances.

    Returns:
        Three panels of the points: confidence against the fraction of points that are right, nominal against actual
        coverage of the confidence ellipses, and predicted against actual error in pixels. With `instances` also one of
        their scores against the fraction that is right.

    Example:
        ```python
        kpnet.plot.draw_reliability(kpnet.evaluate(run, "val.csv")["reliability"])
        ```
    """
    panels = [] if measured is None else [(draw, measured) for draw in (draw_diagram, draw_coverage, draw_deciles)]
    panels += [(draw_scores, instances)] if instances else []
    figure = Figure(figsize=(13 / 3 * len(panels), 4.2), layout="constrained")
    for axes, (draw, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes, values)
    return figure


def draw_diagram(axes: Axes, measured: dict[str, Any]) -> None:
    """Draw confidence against the fraction of points that are right."""
    for name, rows in measured["diagram"].items():
        x, y = [row["confidence"] for row in rows], [row["right"] for row in rows]
        axes.plot(x, y, "o-", label=f"within {name} of the side")
    ece = ", ".join(f"{key.upper()} {measured[key]:.3f}" for key in ("ece", "ece@1%") if key in measured)
    axes.set(xlabel="confidence", ylabel="fraction that is right", title=ece)
    axes.plot([0, 1], [0, 1], "--", color="grey", zorder=0)
    axes.legend()


def draw_scores(axes: Axes, measured: dict[str, Any]) -> None:
    """Draw scores of instances against the fraction that is right, and their expected against their actual OKS."""
    rows = measured["diagram"]
    axes.plot([row["score"] for row in rows], [row["right"] for row in rows], "o-", label="score: fraction right")
    if "oks_diagram" in measured:
        rows = measured["oks_diagram"]
        axes.plot([row["expected"] for row in rows], [row["oks"] for row in rows], "s-", label="expected OKS: OKS")
    axes.set(xlabel="score, or expected OKS", ylabel="what it is", title=f"instances, ECE {measured['ece']:.3f}")
    axes.plot([0, 1], [0, 1], "--", color="grey", zorder=0)
    axes.legend()


def draw_coverage(axes: Axes, measured: dict[str, Any]) -> None:
    """Draw nominal against actual coverage of the confidence ellipses."""
    levels = [int(key[:-1]) / 100 for key in measured["coverage"]]
    shares = list(measured["coverage"].values())
    spans = [[s["measured"] - s["low"] for s in shares], [s["high"] - s["measured"] for s in shares]]
    axes.errorbar(levels, [s["measured"] for s in shares], np.maximum(spans, 0), fmt="o", capsize=4)
    axes.set(xlabel="ellipse", ylabel="fraction of points inside", title="coverage (95 % interval over images)")
    axes.plot([0, 1], [0, 1], "--", color="grey", zorder=0)


def draw_deciles(axes: Axes, measured: dict[str, Any]) -> None:
    """Draw predicted against actual error in pixels, of tenths of the points."""
    pairs = [(row["predicted_px"], row["px"]) for row in measured["deciles"]]
    drawn = np.array([pair for pair in pairs if min(pair) > 0])  # on logarithmic axes
    if len(drawn):
        axes.loglog(drawn[:, 0], drawn[:, 1], "o-")
        axes.loglog(drawn[:, 0], drawn[:, 0], "--", color="grey", zorder=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
            axis.set_major_formatter("{x:.3g}")
            axis.set_minor_formatter(NullFormatter())
    axes.set(
        xlabel="predicted RMS error, px",
        ylabel="actual RMS error, px",
        title="deciles of the points, most confident first",
    )


def _line(axes: Axes, metrics: pd.DataFrame, name: str, colour: str) -> list[Line2D]:
    rows = metrics[metrics[name].notna()]
    epochs = rows.get("epoch", rows.index)
    dot = "o" if len(rows) < 3 else None  # a line of one point is invisible
    return axes.plot(epochs, rows[name], color=colour, label=name.replace("_", " "), linewidth=1.5, marker=dot)


def set_loss_scale(axes: Axes) -> None:
    """Label the vertical axis in plain numbers, and make it logarithmic where all lines are positive and fall far."""
    values = np.concatenate([np.empty(0), *(np.asarray(line.get_ydata(), float) for line in axes.lines)])
    if not len(values) or not values.min() > 0 or values.max() < 3 * values.min():  # a likelihood may be negative
        axes.ticklabel_format(axis="y", useOffset=False)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(_minor_label)


def _minor_label(loss: float, _: float) -> str:
    """Label 2 and 5 between powers of ten."""
    digit = round(loss / 10 ** math.floor(math.log10(loss)))
    return f"{loss:.3g}" if digit in (2, 5) else ""


def _draw_score(axes: Axes, metrics: pd.DataFrame, pass_mark: float | None) -> list[Line2D]:
    lines = _line(axes, metrics, "val_score", "#2ca02c")
    axes.set_ylabel("val score", color="#2ca02c")
    axes.tick_params(axis="y", colors="#2ca02c")
    axes.set_ylim(0, 1.05 * max(metrics["val_score"].max(), 1))
    if pass_mark is not None and axes.get_ylim()[1] > pass_mark:
        label = f"pass mark {pass_mark:g}"
        mark = axes.axhline(pass_mark, color="#2ca02c", linewidth=0.8, linestyle="--", label=label)
        lines = [*lines, mark]
    return lines
