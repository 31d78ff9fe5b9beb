"""The `kpnet config` command."""

from __future__ import annotations

from typing import Annotated

import typer


def config(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of a recipe; by default, list all.")] = None,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema", help="Print the JSON schema of the YAML for kpnet train, or for NAME: pretrain, sweep."
        ),
    ] = False,
) -> None:
    """Print a recipe's YAML, or the JSON schema for editors."""
    from kpnet.config.loading import config_text, list_configs

    if schema:
        from kpnet.cli.json_schema import schema_text

        print(schema_text(name or "train"), end="")
    elif name:
        print(config_text(name), end="")
    else:
        print("\n".join(list_configs()))
