"""What of the pages is generated while the site is built: a line `<!-- generated: NAME -->` becomes the NAME here."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from kpnet.cli import app
from kpnet.config import load_config
from kpnet.config_reference import config_reference

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return re.sub(r"^<!-- generated: (\w+) -->$", lambda found: GENERATED[found[1]](), markdown, flags=re.MULTILINE)


def results() -> str:
    """The recipes as they are shipped, the best first."""
    table = pd.read_csv(BENCHMARKS / "results.csv")
    names = table.row.str.extract(r"^(?P<config>\w+)(?: seed (?P<seed>\d+))?$")
    table = table.join(names).dropna(subset="config").sort_values("score", ascending=False)
    lines = [
        "| recipe | head | seed | val score | with flip test | RMSE px | NME % | minutes |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in table.itertuples():
        head = load_config(row.config).model.head
        flipped = "" if pd.isna(row.score_flip) else f"{row.score_flip:.1f}"
        cells = [f"`{row.config}`", f"`{head if isinstance(head, str) else head['name']}`"]
        cells += ["0" if pd.isna(row.seed) else row.seed, f"{row.score:.1f}", flipped]
        cells += [f"{row.rmse_px:.2f}", f"{row.nme_percent:.1f}", f"{row.train_minutes:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ablations() -> str:
    """What `python benchmarks/faces15.py --table` prints."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import faces15
    finally:
        sys.path.remove(str(BENCHMARKS))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        faces15.ablations()
    return printed.getvalue()


def calibration() -> str:
    """Calibration error and coverage of the 90 % ellipse, before and after."""
    table = pd.read_csv(BENCHMARKS / "calibration.csv")
    lines = [
        "| recipe | val score | calibration error | after | in the 90 % ellipse | after | 95 % interval |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for config, rows in table.groupby("config"):
        before, after = (rows[rows.calibrated == when].iloc[0] for when in ("before", "after"))
        low, high = (100 * float(value) for value in after["90% interval"].split())
        cells = [f"`{config}`", f"{after.score:.1f}", f"{before.ece:.3f}", f"{after.ece:.3f}"]
        cells += [f"{100 * before['90%']:.1f} %", f"{100 * after['90%']:.1f} %", f"{low:.1f} to {high:.1f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def transfer() -> str:
    """The rows of transfer learning: the score of each seed, and the means of the other measures."""
    table = pd.read_csv(BENCHMARKS / "transfer.csv")
    lines = [
        "| row | labels | score, seeds 0 and 1 | mean | with flip test | RMSE px | minutes |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for name, rows in table.groupby("row", sort=False):
        scores, mean = rows.sort_values("seed").score, rows.mean(numeric_only=True)
        labels = "all" if pd.isna(mean.labels) else f"{mean.labels:.0f}"
        cells = [str(name).removesuffix(f" {labels}"), labels, " / ".join(f"{score:.0f}" for score in scores)]
        cells += [f"{mean.score:.0f}", f"{mean.score_flip:.0f}", f"{mean.rmse_px:.2f}", f"{mean.train_minutes:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def temporal() -> str:
    """Error and jitter on moving faces, of each seed."""
    table = pd.read_csv(BENCHMARKS / "temporal.csv")
    lines = ["| row | RMSE px, each seed | jitter px, each seed |", "| --- | --: | --: |"]
    for name, rows in table.groupby("row", sort=False):
        cells = [
            " / ".join(f"{value:.2f}" for value in rows.sort_values("seed")[key]) for key in ("rmse_px", "jitter_px")
        ]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def commands() -> str:
    """Every command with its arguments and options, from the command line itself."""
    group: Any = typer.main.get_command(app)
    lines: list[str] = []
    for name, command in sorted(group.commands.items()):
        shown = {parameter: _shown(parameter) for parameter in command.params if parameter.name != "help"}
        arguments = [text for parameter, text in shown.items() if parameter.param_type_name == "argument"]
        lines += [f"## `kpnet {' '.join([name, *arguments])}` {{ #{name} }}", "", command.help, ""]
        lines += ["| | what it is | default |", "| --- | --- | --- |"]
        for parameter, text in shown.items():
            given = not getattr(parameter, "is_flag", True) and isinstance(parameter.default, (str, Path, float, int))
            lines.append(f"| `{text}` | {parameter.help} | {f'`{parameter.default}`' if given else ''} |")
        lines.append("")
    return "\n".join(lines)


def _shown(parameter: Any) -> str:
    """An option's name, or an argument in the place where it stands."""
    if parameter.param_type_name == "option":
        return str(parameter.opts[0])
    return str(parameter.metavar or (parameter.name.upper() if parameter.required else f"[{parameter.name.upper()}]"))


GENERATED = {
    "results": results,
    "ablations": ablations,
    "calibration": calibration,
    "transfer": transfer,
    "temporal": temporal,
    "commands": commands,
    "config_reference": config_reference,
}
