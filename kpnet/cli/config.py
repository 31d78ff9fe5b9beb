"""`kpnet config`."""

from __future__ import annotations

from typing import Annotated

import typer


def config(
    name: Annotated[str | None, typer.Argument(help="A recipe; without it, their names.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="The JSON schema of the YAML for `train`, or NAME: pretrain, sweep.")
    ] = False,
) -> None:
    """Print a recipe's YAML, to start your own from; or what a YAML may hold, for editors."""
    from kpnet.config.loading import config_text, list_configs

    if schema:
        from kpnet.cli.json_schema import schema_text

        return print(schema_text(name or "train"), end="")
    print(config_text(name) if name else "\n".join(list_configs()), end="" if name else "\n")
