"""The `kpnet compare` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kpnet.cli.errors import exit_with_failures
from kpnet.core.console import echo
from kpnet.core.errors import KpnetError


def compare(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG|KEY=VALUE",
            help="YAML files or recipes (CONFIG:5 for five seeds), and overrides that apply to all of them.",
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings per config, counted up from its seed.")] = 3,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Cross-validate on the training data with this many folds; no validation data used."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings to run at the same time.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the runs and the table, continued if it exists; by default runs/compare_CONFIG_…."
        ),
    ] = None,
) -> None:
    """Train several configs with several seeds, and compare them in a table and an HTML page.

    The exit code is 1 if a training failed or diverged; the same command tries it again.
    """
    from kpnet.experiments import comparison

    sources = [text for text in configs if "=" not in text]
    if not sources:
        raise KpnetError("nothing to compare: give configs")
    out = out or comparison.default_folder(sources)
    overrides = [text for text in configs if "=" in text]
    records = comparison.compare(sources, overrides, seeds=seeds, folds=folds, workers=workers, out=out)
    echo(f"{out / 'report.html'}; the table: comparison.md, comparison.csv, comparison.json; the runs: runs/")
    exit_with_failures([f"{each['row']}: {each['note']}" for each in records if each["failed"]])
