"""The `kpnet info` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kpnet.cli.options import OverridesArg
from kpnet.core.console import PlainConsole
from kpnet.core.errors import KpnetError


def info(
    source: Annotated[
        str,
        typer.Argument(metavar="CONFIG|RUN", help="A YAML file, a recipe's name, a run folder, or hf://OWNER/NAME."),
    ],
    overrides: OverridesArg = None,
) -> None:
    """Summarise a network layer by layer: shapes, parameters, MACs, memory, receptive field, learning rates."""
    from kpnet.cli.printing import render_parameter_groups
    from kpnet.config.loading import load_config, run_config
    from kpnet.core.hub_address import is_hub
    from kpnet.core.model_folder import is_exported
    from kpnet.models.build import build_model, load_model
    from kpnet.models.summary import render, summarize
    from kpnet.training.freezing import check_freeze, frozen_stages

    if is_hub(source) or Path(source).is_dir() or is_exported(source):
        if overrides:
            raise KpnetError("overrides apply to a config; the model of a run cannot be changed")
        model, config = load_model(source), run_config(Path(source))
    else:
        config = load_config(source, overrides or ())
        model = build_model(config)
    console = PlainConsole()
    console = (
        console if console.is_terminal else PlainConsole(width=200)
    )  # a piped table is not cut to the terminal's width
    if config is not None:
        warning = check_freeze(model, config.train)
        if warning:
            console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
        model.freeze_backbone(frozen_stages(config.train.freeze, len(model.backbone.strides), 0))
    console.print(render(summarize(model, (model.config.in_channels, *model.config.input_size))))
    if config is not None:
        console.print(render_parameter_groups(model, config.train))
