"""The report's charts: matplotlib figures as SVG in the page's text colour, whether light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from kpnet import plot
from kpnet.config.schema import Config
from kpnet.coordinates import normalized_to_pixel
from kpnet.core.display import figure_text
from kpnet.experiments.result import Result

INK = "#010203"  # replaced by the page's text colour
TAB20 = [mpl.colors.to_hex(colour) for colour in mpl.color_sequences["tab20"]]
COLOURS = TAB20[::2] + TAB20[1::2]  # dark ones first


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


def draw_all(rows: Sequence[ReportRow]) -> dict[str, str]:
    """Draw all charts of rows that have their colours; return their SVG by title."""
    drawn = {
        "Learning curves (mean and range over the seeds)": _learning(rows),
        "Cumulative error": _cumulative(rows),
        "Accuracy against cost": _cost(rows),
        "Error of each point, on the mean shape": _shapes(rows),
    }
    for row in rows:
        reliability = row.results[0].measures.get("reliability")
        if reliability is not None:
            drawn[f"Reliability of {row.name}"] = plot.draw_reliability(reliability)
    return {title: to_svg(figure, str(number)) for number, (title, figure) in enumerate(drawn.items())}


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


def _learning(rows: Sequence[ReportRow]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    shown = (("val_score", "validation score"), ("train_loss", "training loss"))
    panels = figure.subplots(1, 2)
    for axes, (name, label) in zip(panels, shown, strict=True):
        for row in rows:
            curves = [c.set_index("epoch")[name] for c in row.curves if name in c]
            if not curves:
                continue
            table = pd.concat(curves, axis=1).dropna(how="all")
            axes.plot(table.index + 1, table.mean(axis=1), color=row.colour, label=figure_text(row.name))
            axes.fill_between(table.index + 1, table.min(axis=1), table.max(axis=1), color=row.colour, alpha=0.2, lw=0)
        positive = all((line.get_ydata() > 0).all() for line in axes.lines)  # a negative log-likelihood may be below 0
        axes.set(xlabel="epoch", ylabel=label, yscale="log" if positive else "linear")
        axes.grid(alpha=0.2)
    panels[0].legend(fontsize="small")
    return figure


def _cumulative(rows: Sequence[ReportRow]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    of_images, of_points = figure.subplots(1, 2)
    for row in rows:
        for axes, key in ((of_images, "ced_curve"), (of_points, "pck_curve")):
            curves = [r.measures[key] for r in row.results]
            shares = np.array([c["share"] for c in curves], dtype=float)
            axes.plot(
                100 * np.array(curves[0]["threshold"]),
                100 * shares.mean(0),
                color=row.colour,
                label=figure_text(row.name),
            )
    by = rows[0].results[0].measures["nme_by"]
    of_images.set(xlabel=f"error, % of the {figure_text(by)}", ylabel="images, %")
    of_points.set(xlabel="error, % of the image's side", ylabel="points, %")
    for axes in (of_images, of_points):
        axes.grid(alpha=0.2)
    of_points.legend(fontsize="small", loc="lower right")
    return figure


def _cost(rows: Sequence[ReportRow]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    costs = (("parameters", 1e-6, "parameters, M"), ("latency_1", 1000, "latency of one image, ms"))
    for axes, (name, scale, label) in zip(figure.subplots(1, 2), costs, strict=True):
        for row in rows:
            scores = [r.measures["score"] for r in row.results if r.measures["score"] is not None]
            if not scores:
                continue
            cost = scale * float(np.mean([r.cost[name] for r in row.results]))
            deviation = np.std(scores, ddof=1) if len(scores) > 1 else 0
            axes.errorbar(
                cost, float(np.mean(scores)), deviation, fmt="o", color=row.colour, label=figure_text(row.name)
            )
        axes.set(xlabel=label, ylabel="score", xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.2)
        axes.margins(x=0.1, y=0.1)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _shapes(rows: Sequence[ReportRow]) -> Figure:
    """Draw the mean of the true points, each in a circle whose radius is the point's RMSE in pixels."""
    across = min(3, len(rows))
    down = -(-len(rows) // across)
    figure = Figure(figsize=(3.6 * across, 3.4 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    for row, axes in zip(rows, panels, strict=False):
        _draw_shape(axes, row)
    return figure


def _draw_shape(axes: Axes, row: ReportRow) -> None:
    result = row.results[0]
    truth = np.where(result.visible[..., None], result.target, np.nan)
    shape = np.nanmean(normalized_to_pixel(truth, result.input_size), 0)
    errors = np.mean([[r.measures["per_point"][n]["rmse_px"] or np.nan for n in r.names] for r in row.results], 0)
    for (x, y), error in zip(shape, errors, strict=True):
        axes.add_patch(mpl.patches.Circle((x, y), error, color=row.colour, alpha=0.35, lw=0))
        axes.annotate(f"{error:.2f}", (x, y), ha="center", va="center", fontsize="x-small")
    low, high = np.nanmin(shape, 0), np.nanmax(shape, 0)
    edge = 0.15 * float(np.nanmax(high - low)) + 1
    axes.set(xlim=(low[0] - edge, high[0] + edge), ylim=(high[1] + edge, low[1] - edge), aspect="equal")
    axes.set_title(figure_text(row.name), fontsize="small", wrap=True)
    axes.set_xticks([])
    axes.set_yticks([])
