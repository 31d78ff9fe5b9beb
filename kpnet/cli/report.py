"""The `kpnet report` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kpnet.core.console import echo


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Run folders; runs that differ only in train.seed, data.fold or data.root share a row.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
) -> None:
    """Build the comparison page from existing runs."""
    from kpnet.experiments.report.page import report_runs

    echo(str(report_runs(runs, out)))
