"""The `kpnet pretrain` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kpnet.cli.errors import training_errors
from kpnet.cli.options import ConfigArg, ForceOption, OutOption, OverridesArg, ResumeOption
from kpnet.core.console import PlainConsole

if TYPE_CHECKING:
    from kpnet.config.pretraining import PretrainConfig


def pretrain(
    config: ConfigArg,
    overrides: OverridesArg = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
) -> None:
    """Pretrain a backbone on unlabelled images, by an autoencoder or masked-image modelling."""
    from kpnet.config.pretraining import load_pretrain_config

    run_pretraining(load_pretrain_config(config, overrides or ()), out, resume, force)


def run_pretraining(config: PretrainConfig, out: Path | None, resume: bool, force: bool) -> None:
    """Pretrain, then print the reconstruction errors and where the encoder is."""
    from kpnet.training import pretraining
    from kpnet.training.run_folder import is_main_process

    console = PlainConsole()
    with training_errors(out or Path("runs") / config.name):
        folder, _, measures = pretraining.pretrain(config, out=out, resume=resume, force=force, console=console)
    if not is_main_process():
        return  # a further process of the same training
    lines = []
    errors = [f"{value:.5f}" for value in measures.values()]
    if config.model.method == "masked":
        what, figures = "absolute error of the validation images' hidden patches", "reconstructions.png"
    else:
        what, figures = "squared error of the validation images", "reconstructions.png, interpolations.png"
    if errors:
        lines.append(f"mean {what} {errors[0]}, of their mean image {errors[1]}")
    lines.append(f"the run is in {folder}: {figures}, curves.png, metrics.csv, final/")
    lines.append(f"to train on its encoder: kpnet train CONFIG model.pretrained={folder}")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
