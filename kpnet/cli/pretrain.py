"""The `kpnet pretrain` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kpnet.cli.errors import training_errors
from kpnet.cli.options import ConfigArg, ForceOption, OutOption, OverridesArg, ResumeOption
from kpnet.core.console import PlainConsole

if TYPE_CHECKING:
    from kpnet.config.pretraining import PretrainConfig

FIGURES = ("reconstructions.png", "interpolations.png", "curves.png")  # of which a run has those that can be drawn


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
    if config.model.method == "masked":
        what = "absolute error of the validation images' hidden patches"
    else:
        what = "squared error of the validation images"
    if measures:
        lines.append(f"mean {what} " + ", of their mean image ".join(f"{value:.5f}" for value in measures.values()))
    figures = [name for name in FIGURES if (folder / name).is_file()]
    lines.append(f"the run is in {folder}: {', '.join(figures)}, metrics.csv, final/")
    lines.append(f"to train on its encoder: kpnet train CONFIG model.pretrained={folder}")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
