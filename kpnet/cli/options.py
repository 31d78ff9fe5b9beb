"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpnet.core.errors import KpnetError, shorten

if TYPE_CHECKING:
    from kpnet.models.test_time import TestTime

# Arguments

ConfigArg = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a recipe's name (see kpnet config).")]
OverridesArg = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Config values to override, e.g. data.root=faces train.epochs=10."),
]
RunArg = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, a folder written by model.save, or hf://OWNER/NAME.")
]
DataArg = Annotated[
    Path | None, typer.Argument(metavar="DATA", help="Labelled data; by default the run's validation data.")
]
InputsArg = Annotated[
    list[Path],
    typer.Argument(metavar="INPUT", help="Images, videos, folders of them, or data files (CSV, COCO JSON, npz)."),
]

# Options of data

FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Data format, e.g. coco or '{name: pts, index_base: 0}'; detected by default.",
    ),
]

# Options of a training

OutOption = Annotated[Path | None, typer.Option(help="Run folder; by default runs/NAME.")]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue the run after its last full epoch, or start it if there is none.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Delete an existing run and start again.")]

# Options of a trained model

BatchOption = Annotated[int, typer.Option(min=1, help="Images per batch.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=0, max=1024, help="Processes that load images; by default as in the run's training.")
]
WithOption = Annotated[
    list[Path] | None, typer.Option("--with", metavar="RUN", help="Average with this run too; may be repeated.")
]
FlipOption = Annotated[bool, typer.Option("--flip-test", help="Average with the prediction for the mirrored image.")]
ScalesOption = Annotated[str, typer.Option(help="Average over these scales of the image, e.g. 0.95,1,1.05.")]
ShiftOption = Annotated[float, typer.Option(help="Average over shifts of the image by this many input pixels.")]
DecodingOption = Annotated[
    str | None, typer.Option(help="Decoding to use instead of the trained one (heatmap and offset heads).")
]


def parse_format(text: str | None, option: str) -> str | dict[str, Any] | None:
    """Parse a format's name, or a mapping with its options, given as YAML to `option`; None if none is given."""
    from kpnet.core.registry import split_spec
    from kpnet.core.yaml import parse_yaml

    expected = "e.g. pts or '{name: pts, index_base: 0}'"
    if text is None:
        return None
    form = parse_yaml(text, option, expected)
    if not isinstance(form, (str, dict)):
        raise KpnetError(f'{option}: expected {expected}, found "{shorten(text)}"')
    split_spec(form, option)
    return form


def folder_to_save(run: Path, what: str) -> Path:
    """Return the folder of a run's model, into which a command saves something.

    Args:
        run: What the command was given.
        what: What it saves, for the message.

    Raises:
        KpnetError: It is an address on the hub, there is no model, or its folder cannot be written.
    """
    from kpnet.core.hub_address import is_hub, parse_address
    from kpnet.core.model_folder import model_folder
    from kpnet.core.outputs import check_writable

    if is_hub(run):
        raise KpnetError(
            f"{parse_address(run)}: {what} is saved with the model: save a copy, and give the folder of that: "
            'python -c "import kpnet; kpnet.load_model(ADDRESS).save(FOLDER)"'
        )
    folder = model_folder(run)
    check_writable(folder)
    return folder


def parse_test_time(flip: bool, scales: str, shift: float) -> TestTime | None:
    """Return the settings of --flip-test, --scales and --shift; None if all of them are at their defaults."""
    from kpnet.models.test_time import TestTime

    try:
        numbers = tuple(float(scale) for scale in scales.split(","))
    except ValueError:
        raise KpnetError(f'--scales: expected numbers, e.g. 0.95,1,1.05, found "{scales}"') from None
    settings = TestTime(flip, numbers, shift)
    return None if settings == TestTime() else settings
