"""The report's charts: matplotlib figures as SVG in the page's text colour, whether light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from kpnet.config.schema import Config
from kpnet.coordinates import normalized_to_pixel
from kpnet.core.display import display_name, figure_text
from kpnet.experiments.result import Result
from kpnet.plot.curves import draw_coverage, draw_deciles, draw_diagram, draw_scores, set_loss_scale
from kpnet.plot.shape import mean_shape

INK = "#010203"  # replaced by the page's text colour
TAB20 = [mpl.colors.to_hex(colour) for colour in mpl.color_sequences["tab20"]]
COLOURS = TAB20[::2] + TAB20[1::2]  # dark ones first
_DOTTED = 20  # a curve of more epochs has no dots
_SHAPE = 4.2, 3.6  # inches of the panel of a mean shape
_NAMED = 8  # more points than this are numbered instead of named


@dataclass
class ReportRow:
    """A row of the report: the finished runs of a config.

    Attributes:
        name: Name of the row.
        configs: Config of each run.
        runs: Folder of each run.
        results: Result of each run.
        colour: Colour of the row in all charts, see `assign_colours`.
    """

    name: str
    configs: list[Config]
    runs: list[Path]
    results: list[Result]
    colour: str = ""

    @property
    def curves(self) -> list[pd.DataFrame]:
        """Metrics by epoch, for each run."""
        return [pd.read_csv(run / "metrics.csv") for run in self.runs]


def assign_colours(rows: Sequence[ReportRow]) -> None:
    """Give each row its colour."""
    for number, row in enumerate(rows):
        row.colour = COLOURS[number % len(COLOURS)]


def draw_charts(rows: Sequence[ReportRow]) -> dict[str, list[str]]:
    """Draw the charts of all rows, which have their colours; return the SVG of the panels by title."""
    drawn = {
        "Learning curves (mean and range over the seeds)": _learning(rows),
        "Cumulative error": _cumulative(rows),
        "Accuracy against cost": _cost(rows),
    }
    return {title: _to_svgs(figures, title) for title, figures in drawn.items()}


def draw_shapes(rows: Sequence[ReportRow]) -> list[str]:
    """Draw the errors of the points on the mean shape; return the SVG of a panel for each row."""
    return _to_svgs(_shapes(rows), "shapes")


def draw_reliability(rows: Sequence[ReportRow]) -> dict[str, list[str]]:
    """Draw the reliability of each row that has a confidence; return the SVG of the panels by the row's name."""
    drawn = {row.name: _reliability(row.results[0].measures) for row in rows}
    return {name: _to_svgs(figures, name) for name, figures in drawn.items() if figures}


def _to_svgs(figures: Sequence[Figure], salt: str) -> list[str]:
    return [to_svg(figure, f"{salt} {number}") for number, figure in enumerate(figures)]


def point_errors(rows: Sequence[ReportRow]) -> dict[str, list[float | None]]:
    """Return the RMSE in pixels of each point that a row has, for each row; None where it is not measured."""
    names = dict.fromkeys(name for row in rows for name in row.results[0].names)
    return {name: [_point_error(row, name) for row in rows] for name in names}


def _point_error(row: ReportRow, name: str) -> float | None:
    found = [r.measures["per_point"].get(name, {}).get("rmse_px") for r in row.results]
    return None if None in found else float(np.mean(found))


def to_svg(figure: Figure, salt: str) -> str:
    """Return a figure as SVG for embedding in HTML, scaled by the page; `salt` makes its ids unique."""
    for axes in figure.axes:
        axes.set_facecolor("none")
        _ink(axes)
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)


def _ink(axes: Axes) -> None:
    """Give all text and lines of the axes the page's text colour."""
    axes.tick_params(colors=INK, which="both")
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title, *axes.texts):
        text.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    legend = axes.get_legend()
    if legend is not None:
        legend.get_frame().set_alpha(0)
        for text in legend.get_texts():
            text.set_color(INK)


def _panel(width: float = 5.4, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _learning(rows: Sequence[ReportRow]) -> list[Figure]:
    return [_curve(rows, "val_score", "validation score"), _curve(rows, "train_loss", "training loss")]


def _curve(rows: Sequence[ReportRow], name: str, label: str) -> Figure:
    """Draw a column of the metrics over the epochs: the mean over a row's runs, and their range."""
    figure, axes = _panel()
    shown: set[int] = set()
    for row in rows:
        curves = [c.set_index("epoch")[name] for c in row.curves if name in c]
        table = pd.concat(curves, axis=1).dropna(how="all") if curves else pd.DataFrame()
        if table.empty:
            continue
        epochs, low, high = table.index.to_numpy() + 1, table.min(axis=1), table.max(axis=1)
        shown.update(epochs.tolist())
        dots = "o" if len(table) <= _DOTTED else None  # a line of one point is invisible
        axes.plot(epochs, table.mean(axis=1), color=row.colour, marker=dots, markersize=4)
        if len(table) == 1:
            axes.vlines(epochs, low, high, color=row.colour)
        else:
            axes.fill_between(epochs, low, high, color=row.colour, alpha=0.2, lw=0)
    set_loss_scale(axes)
    if len(shown) == 1:
        axes.set_xlim(min(shown) - 0.5, max(shown) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="epoch", ylabel=label)
    axes.grid(alpha=0.2)
    return figure


def _cumulative(rows: Sequence[ReportRow]) -> list[Figure]:
    by = rows[0].results[0].measures["nme_by"]
    figures = []
    for key, xlabel, ylabel in (
        ("ced_curve", f"error, % of the {figure_text(by)}", "images, %"),
        ("pck_curve", "error, % of the image's side", "points, %"),
    ):
        figure, axes = _panel()
        for row in rows:
            curves = [r.measures[key] for r in row.results]
            shares = np.array([c["share"] for c in curves], dtype=float)
            axes.plot(100 * np.array(curves[0]["threshold"]), 100 * shares.mean(0), color=row.colour)
        top = max(1, axes.get_ylim()[1])
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.02 * top, top))
        axes.grid(alpha=0.2)
        figures.append(figure)
    return figures


def _cost(rows: Sequence[ReportRow]) -> list[Figure]:
    figures = []
    for name, scale, label in (("parameters", 1e-6, "parameters, M"), ("latency_1", 1000, "latency of one image, ms")):
        figure, axes = _panel()
        axes.set(xscale="log", autoscalex_on=False)
        costs: list[float] = []
        for row in rows:
            scores = [r.measures["score"] for r in row.results if r.measures["score"] is not None]
            if not scores:
                continue
            cost = scale * float(np.mean([r.cost[name] for r in row.results]))
            deviation = np.std(scores, ddof=1) if len(scores) > 1 else 0
            costs.append(cost)
            axes.errorbar(cost, float(np.mean(scores)), deviation, fmt="o", color=row.colour)
        axes.set(xlabel=label, ylabel="score")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.2)
        axes.margins(y=0.1)
        if costs:
            axes.set_xlim(min(costs) / 1.3, 1.3 * max(costs))
        figures.append(figure)
    return figures


def _reliability(measures: dict[str, Any]) -> list[Figure]:
    """Draw the reliability of the points and that of the instances that a model finds, as far as it has them."""
    of_points, of_instances = measures.get("reliability"), measures.get("instances", {}).get("reliability")
    panels = [(draw, of_points) for draw in (draw_diagram, draw_coverage, draw_deciles)] if of_points else []
    panels += [(draw_scores, of_instances)] if of_instances else []
    figures = []
    for draw, values in panels:
        figure, axes = _panel(4.4, 4.2)
        draw(axes, values)
        figures.append(figure)
    return figures


def _shapes(rows: Sequence[ReportRow]) -> list[Figure]:
    errors = point_errors(rows)
    figures = []
    for i, row in enumerate(rows):
        figure, axes = _panel(*_SHAPE)
        _draw_shape(axes, row, {name: of_rows[i] for name, of_rows in errors.items()})
        figures.append(figure)
    return figures


def _span(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the middle (2,) of points and the longer side of the box around them."""
    if not len(points):
        return np.zeros(2), 0
    low, high = points.min(0), points.max(0)
    return (low + high) / 2, float((high - low).max())


def _draw_shape(axes: Axes, row: ReportRow, errors: dict[str, float | None]) -> None:
    """Draw the mean of the true points, each in a circle whose radius is the point's RMSE in pixels.

    Few points are named, many have their number among all points of the page.
    """
    result = row.results[0]
    truth = np.where(result.visible[..., None], normalized_to_pixel(result.target, result.input_size), np.nan)
    shape = mean_shape(truth)
    there = np.isfinite(shape).all(-1)
    numbers = {name: str(number) for number, name in enumerate(errors, 1)}
    middle, extent = _span(shape[there])
    fill = min(0.3, 2 / len(result.names))  # the numbers are seen through many circles
    for name, (x, y), seen in zip(result.names, shape, there, strict=True):
        if not seen:
            continue
        error = errors[name] or 0
        axes.add_patch(Circle((x, y), error, facecolor=to_rgba(row.colour, fill), edgecolor=row.colour, lw=0.5))
        extent = max(extent, 2.4 * error) if len(result.names) == 1 else extent
        if len(result.names) > _NAMED:
            axes.annotate(numbers[name], (x, y), ha="center", va="center", fontsize="x-small")
            continue
        axes.plot(x, y, ".", color=row.colour)
        text, side = f"{figure_text(display_name(name, 24))} {error:.2f}", "left" if x <= middle[0] else "right"
        axes.annotate(text, (x, y), (0, 4), textcoords="offset points", ha=side, fontsize="small")
    half = np.array([_SHAPE[0] / _SHAPE[1], 1]) * 0.65 * max(extent, 1)  # large circles are cut off
    (left, top), (right, bottom) = middle - half, middle + half
    axes.set(aspect="equal", xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, top))
    axes.set_title(figure_text(display_name(row.name, 48)), fontsize="medium")
