"""The `kpnet push` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kpnet.cli.options import RunArg
from kpnet.core.console import echo
from kpnet.core.errors import KpnetError

STATED = {  # what a card says only if it is given, by option
    "licence": ("--licence", "licence of the weights"),
    "data": ("--data", "data that it was trained on"),
    "data_licence": ("--data-licence", "licence of the data"),
    "intended_use": ("--intended-use", "intended use"),
}


def push(
    run: RunArg,
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; created if need be.")],
    licence: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Licence of the weights, e.g. mit or cc-by-4.0.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="TEXT", help="What the model was trained on.")] = None,
    data_licence: Annotated[str | None, typer.Option(metavar="TEXT", help="Licence of that data.")] = None,
    intended_use: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is meant for, and what not.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Exported model to add; by default one in the run folder.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    branch: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch to write to, created if need be; by default main.")
    ] = None,
) -> None:
    """Upload a model to the Hugging Face hub, with a model card made from the run."""
    from kpnet.core.hub_address import format_path
    from kpnet.core.runtime import best_device
    from kpnet.evaluation.measurement import predict_and_measure
    from kpnet.evaluation.run_data import validation_dataset
    from kpnet.models.build import load_model
    from kpnet.models.record import read_record

    model = load_model(run)
    stated: dict[str, Any] = {"licence": licence, "data": data, "data_licence": data_licence}
    stated["intended_use"] = intended_use
    measures, record = None, read_record(model.folder, model)
    if record is None or record["outdated"]:  # not recorded, or calibrated since
        try:
            device = best_device()
            measures = predict_and_measure(model.to(device), validation_dataset(run, model))[1]
        except KpnetError as error:
            fix = f"model.push_to_hub({repo!r}, measures=kpnet.evaluate({format_path(run)!r}, DATA))"
            echo(f"kpnet: not measured again for the card: {error}; measure it in Python: {fix}", error=True)
    commit = model.to("cpu").push_to_hub(
        repo, **stated, measures=measures, onnx=onnx, private=private or None, branch=branch
    )
    missing = [f"the {what} ({option})" for key, (option, what) in STATED.items() if stated[key] is None]
    if missing:
        echo(f"kpnet: not stated, and left open in the card: {', '.join(missing)}", error=True)
    echo(commit)
