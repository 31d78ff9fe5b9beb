"""The `kpnet sweep` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kpnet.cli.errors import exit_with_failures
from kpnet.cli.options import OverridesArg
from kpnet.core.console import echo


def sweep(
    source: Annotated[str, typer.Argument(metavar="SWEEP", help="A YAML file, or the shipped sweep i2dl_grid.")],
    overrides: OverridesArg = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings to run at the same time.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for the study and the runs; by default runs/NAME.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Database server that several machines share; by default a file in the folder."
        ),
    ] = None,
) -> None:
    """Search for the best values of config keys: a grid, at random, or Bayesian.

    The exit code is 1 if a trial failed; the same command tries it again. One that diverges counts as the worst.
    """
    from kpnet.experiments import sweeping
    from kpnet.experiments.sweep_space import load_sweep
    from kpnet.experiments.sweep_table import failures

    settings, config = load_sweep(source, overrides or ())
    out = out or Path("runs") / settings.name
    trials = sweeping.sweep(settings, config, out=out, storage=storage, workers=workers)
    echo((out / "sweep.md").read_text(encoding="utf-8"))
    echo(f"{out}: the table in sweep.md and sweep.csv; the study; the runs in runs/")
    exit_with_failures(failures(trials))
