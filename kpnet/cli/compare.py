"""`kpnet compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kpnet.core.errors import KpnetError


def compare(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG… [KEY=VALUE]…",
            help="YAML files or recipes, CONFIG:5 for five seeds; overrides are for all.",
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each, from its own seed on.")] = 3,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validate on the training data, in place of the validation data.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at once.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of runs and table, taken up again; else runs/compare_CONFIG_…."),
    ] = None,
) -> None:
    """Train and measure several configs with several seeds: one table, and one page to look at."""
    from kpnet.experiments.comparison import compare as run_comparison
    from kpnet.experiments.comparison import default_folder

    sources = [text for text in configs if "=" not in text]
    if not sources:
        raise KpnetError("nothing to compare: give configs")
    out = out or default_folder(sources)
    overrides = [text for text in configs if "=" in text]
    run_comparison(sources, overrides, seeds=seeds, folds=folds, workers=workers, out=out)
    print(f"{out / 'report.html'}; the table: comparison.md, comparison.csv, comparison.json; the runs: runs/")
