"""The `kpnet train` and `kpnet demo` commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpnet.cli.errors import training_errors
from kpnet.cli.options import ConfigArg, ForceOption, OutOption, OverridesArg, ResumeOption
from kpnet.core.console import PlainConsole, echo
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
        int | None,
        typer.Option(metavar="N", min=1, help="Sanity check: overfit N training samples; nothing is written."),
    ] = None,
    self_train: Annotated[
        bool,
        typer.Option(
            "--self-train",
            help="Train twice: the second time also on what the first model finds in `data.unlabelled`.",
        ),
    ] = False,
) -> None:
    """Train a model from a config."""
    from kpnet.config.loading import load_config

    if resume and force:
        raise KpnetError("--resume continues a run, --force deletes it: give one of them")
    loaded = load_config(config, overrides or ())
    if self_train and loaded.train.self_train is None:
        loaded = load_config(config, [*(overrides or ()), "train.self_train=true"])
    if not overfit:
        run_training(loaded, out, resume, force)
    elif out or resume or force or self_train:
        raise KpnetError("--overfit writes no run: leave out --out, --resume, --force and --self-train")
    else:
        run_overfitting(loaded, overfit)


def demo(
    out: Annotated[Path, typer.Option(help="Run folder; an earlier demo in it is replaced.")] = Path("runs/demo"),
    overrides: OverridesArg = None,
) -> None:
    """Train and evaluate a small model on synthetic faces; needs no data."""
    from kpnet.config.loading import load_config
    from kpnet.core.outputs import is_occupied
    from kpnet.training.run_folder import is_demo

    config = load_config("demo", overrides or ())
    earlier = is_occupied(out)
    if earlier and not is_demo(out, config):
        raise KpnetError(f"{out}: exists, and is no earlier demo; give another --out")
    folder = run_training(config, out, resume=False, force=earlier)
    echo(f"images: {folder / 'predictions.png'} and {folder / 'curves.png'}\nmodel:  {folder / 'final'}")
    echo(f"next:   kpnet predict {folder} photo.jpg --draw   |   kpnet config facial_heatmap > my.yaml")


def run_training(config: Config, out: Path | None, resume: bool, force: bool) -> Path:
    """Train, print the measures and the files that were written, and return the run folder."""
    from kpnet.cli.printing import print_instances, print_measures, print_presence, print_reliability
    from kpnet.training import supervised
    from kpnet.training.run_folder import is_main_process

    console = PlainConsole()
    with training_errors(out or Path("runs") / config.name):
        folder, model, measures = supervised.train(config, out=out, resume=resume, force=force, console=console)
    if measures:
        print_measures(console, measures, "final model on the validation data", skeleton=model.skeleton.name)
    if measures.get("reliability", {}).get("cross_fitted"):
        print_reliability(console, measures["reliability"])
        print_presence(console, measures.get("presence"))
    if "instances" in measures:
        print_instances(console, measures["instances"])
    if not is_main_process():
        return folder  # a further process of the same training
    files = "final/ and best/ (the models), predictions.png, curves.png, metrics.csv"
    console.print(f"the run is in {folder}: {files}", soft_wrap=True)
    return folder


def run_overfitting(config: Config, samples: int) -> None:
    """Overfit the first training samples, print whether that worked, and exit with code 1 if it did not."""
    from kpnet.training import overfitting

    error, steps = overfitting.overfit(config, samples, PlainConsole())
    passed = error < overfitting.TARGET_PX
    print(f"{'pass' if passed else 'FAIL'}: {error:.3f} px RMSE on {samples} sample(s) after {steps} steps", end="")
    expected = f"under {overfitting.TARGET_PX} px within {overfitting.STEPS}"
    print("" if passed else f"; expected {expected}: try train.overfit, or another lr")
    raise typer.Exit(0 if passed else 1)
