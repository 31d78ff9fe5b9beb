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
    """Pretrain a backbone on unlabelled images, as the encoder of an autoencoder."""
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
    if measures:
        errors = (f"{measures[key]:.5f}" for key in ("mse", "mean_image_mse"))
        lines.append("mean squared error of the validation images {}, of their mean image {}".format(*errors))
    lines.append(f"the run is in {folder}: reconstructions.png, interpolations.png, curves.png, metrics.csv, final/")
    lines.append(f"to train on its encoder: kpnet train CONFIG model.pretrained={folder}")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
