"""`kpnet report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders; seeds of one config are one row.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """The page of a comparison, of runs that exist."""
    from kpnet.experiments.report.page import report_runs

    print(report_runs(runs, out))
