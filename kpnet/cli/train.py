"""`kpnet train` and `kpnet demo`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpnet.cli.options import ConfigArg, ForceOption, OutOption, OverridesArg, ResumeOption, one_line_errors
from kpnet.core.errors import KpnetError

if TYPE_CHECKING:
    from kpnet.config.schema import Config


def train(
    config: ConfigArg,
    overrides: OverridesArg = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    overfit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Sanity check: memorise N samples, write nothing.")
    ] = None,
) -> None:
    """Train from one YAML."""
    from kpnet.config.loading import load_config

    if resume and force:
        raise KpnetError("--resume goes on with a run, --force deletes it: give one of them")
    loaded = load_config(config, overrides or ())
    if overfit and (out or resume or force):
        raise KpnetError("--overfit writes no run: leave out --out, --resume and --force")
    if overfit:
        return _overfit(loaded, overfit)
    run_training(loaded, out, resume, force)


def _overfit(config: Config, samples: int) -> None:
    from rich.console import Console

    from kpnet.training.overfitting import STEPS, TARGET_PX
    from kpnet.training.overfitting import overfit as run_overfit

    error, steps = run_overfit(config, samples, Console())
    passed = error < TARGET_PX
    print(f"{'pass' if passed else 'FAIL'}: {error:.3f} px RMSE on {samples} sample(s) after {steps} steps", end="")
    print("" if passed else f"; expected under {TARGET_PX} px within {STEPS}: try train.overfit, or another lr")
    raise typer.Exit(0 if passed else 1)


def demo(
    out: Annotated[Path, typer.Option(help="The run folder; an earlier demo there is replaced.")] = Path("runs/demo"),
    overrides: OverridesArg = None,
) -> None:
    """Train and evaluate on built-in synthetic faces; no data needed."""
    from kpnet.config.loading import load_config

    config = load_config("demo", overrides or ())
    saved = out / "config.yaml"  # another run there is no demo's to delete
    folder = run_training(config, out, False, saved.is_file() and load_config(saved).name == config.name)
    print(f"pictures: {folder / 'predictions.png'} and {folder / 'curves.png'}\nmodel:    {folder / 'final'}")
    print(f"next:     kpnet predict {folder} photo.jpg --draw   |   kpnet config facial_heatmap > my.yaml")


def run_training(config: Config, out: Path | None, resume: bool, force: bool) -> Path:
    """The run's folder, once trained; measures and files go to the terminal."""
    from rich.console import Console

    from kpnet.cli.printing import print_measures
    from kpnet.training.supervised import train as run_training

    console = Console()
    with one_line_errors(out or Path("runs") / config.name):
        folder, _, measures = run_training(config, out=out, resume=resume, force=force, console=console)
    if measures:
        print_measures(console, measures, "final model on the validation data")
    if int(os.environ.get("LOCAL_RANK", "0")):
        return folder  # a further process of the same training
    files = "final/ and best/ (the models), predictions.png, curves.png, metrics.csv"
    console.print(f"the run is in {folder}: {files}", soft_wrap=True)
    return folder
