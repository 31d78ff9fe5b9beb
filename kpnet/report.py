"""Measures as text: for the terminal and as plain JSON."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from kpnet.metrics import PASS_MARK


def plain(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is None."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_measures(console: Console, measures: dict[str, Any], what: str) -> None:
    """The measures of `metrics.evaluate_points`, one a line."""
    verdict = "passes" if measures["score"] >= PASS_MARK else "below"
    size = "x".join(map(str, measures["input_size"]))
    five, ten = (100 * measures[f"pck@{percent}%"] for percent in (5, 10))
    console.print(
        f"{what}: {measures['images']} images, {measures['points']} points, px of the model's {size} input\n"
        f"  score   {measures['score']:.2f}   (1 / (2 MSE); {verdict} the course's {PASS_MARK:.0f})\n"
        f"  RMSE    {measures['rmse_px']:.4f} px per coordinate\n"
        f"  MRE     {measures['mre_px']:.4f} px mean radial error\n"
        f"  NME     {100 * measures['nme']:.3f} %\n"
        f"  PCK     {five:.2f} % within 5 % of the image's side, {ten:.2f} % within 10 %",
        highlight=False,
        soft_wrap=True,
    )


def print_points(console: Console, per_point: dict[str, dict[str, float]]) -> None:
    """A row per keypoint."""
    table = Table("point", "RMSE px", "MRE px", "PCK@5%", "points")
    for name, row in per_point.items():
        numbers = f"{row['rmse_px']:.3f}", f"{row['mre_px']:.3f}", f"{100 * row['pck@5%']:.1f}", str(row["points"])
        table.add_row(name, *numbers)
    console.print(table)
