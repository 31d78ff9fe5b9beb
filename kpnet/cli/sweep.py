"""`kpnet sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kpnet.cli.options import OverridesArg


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
    from kpnet.experiments.sweep_space import load_sweep
    from kpnet.experiments.sweeping import sweep as run_sweep

    settings, config = load_sweep(source, overrides or ())
    out = out or Path("runs") / settings.name
    run_sweep(settings, config, out=out, storage=storage, workers=workers)
    print((out / "sweep.md").read_text(encoding="utf-8"))
    print(f"{out}: sweep.md, sweep.csv, the study, and the runs in runs/")
