"""Commands of `kpnet.cli` that compare many trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kpnet.errors import KpnetError
from kpnet.options import OverridesArg


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
    from kpnet.comparison.compare import compare as run_comparison
    from kpnet.comparison.compare import default_folder

    sources = [text for text in configs if "=" not in text]
    if not sources:
        raise KpnetError("nothing to compare: give configs")
    out = out or default_folder(sources)
    overrides = [text for text in configs if "=" in text]
    run_comparison(sources, overrides, seeds=seeds, folds=folds, workers=workers, out=out)
    print(f"{out / 'report.html'}; the table: comparison.md, comparison.csv, comparison.json; the runs: runs/")


def sweep(
    source: Annotated[str, typer.Argument(metavar="SWEEP", help="A YAML, or the name of a shipped sweep.")],
    overrides: OverridesArg = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at once.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder of the study; runs/NAME where it is not given.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="URL of a database that several machines share; else a file in the folder.")
    ] = None,
) -> None:
    """Try many values of some keys of a config: a grid, at random, or Bayesian."""
    from kpnet.comparison.sweep import sweep as run_sweep
    from kpnet.comparison.sweep_config import load_sweep

    settings, config = load_sweep(source, overrides or ())
    out = out or Path("runs") / settings.name
    run_sweep(settings, config, out=out, storage=storage, workers=workers)
    print((out / "sweep.md").read_text(encoding="utf-8"))
    print(f"{out}: sweep.md, sweep.csv, the study, and the runs in runs/")


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders; seeds of one config are one row.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """The page of a comparison, of runs that exist."""
    from kpnet.comparison.report import report_runs

    print(report_runs(runs, out))
