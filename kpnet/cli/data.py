"""The `kpnet data check`, `kpnet data convert` and `kpnet data next` commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kpnet.cli.options import FormatOption, RunArg, parse_format
from kpnet.core.console import echo
from kpnet.core.errors import KpnetError

app = typer.Typer(
    help="Check and convert labelled data, and find what to label next.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

SkeletonOption = Annotated[
    str | None, typer.Option(help="Skeleton of points without names: a shipped one, or a YAML file.")
]


@app.command()
def check(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A file or folder of labels, or a folder of images.")],
    form: FormatOption = None,
    skeleton: SkeletonOption = None,
    sheet: Annotated[Path, typer.Option(metavar="PNG", help="Contact sheet to write.")] = Path("contact_sheet.png"),
    count: Annotated[int, typer.Option(min=1, help="Samples on the contact sheet.")] = 24,
) -> None:
    """Check labelled data: counts, missing points, points outside, duplicates, swapped sides; draw a contact sheet.

    The exit code is 1 if a sample or an image cannot be used.
    """
    from kpnet.cli.data_report import run_data_check

    _check_png(sheet)
    if run_data_check(data, parse_format(form, "--format"), skeleton, sheet, count):
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A file or folder of labels.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A new folder, or a new file: .npz or .csv.")],
    form: Annotated[
        str | None,
        typer.Option("--from", metavar="FORMAT", help="Format of SOURCE; detected by default."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Format of TARGET, e.g. coco or '{name: pts, index_base: 0}'.")
    ] = None,
    skeleton: SkeletonOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on a sample that cannot be used, instead of skipping it.")
    ] = False,
) -> None:
    """Convert labels and images to another format. Nothing is overwritten."""
    from kpnet.data.build import open_dataset
    from kpnet.data.convert import convert as convert_dataset

    dataset = open_dataset(source, parse_format(form, "--from"), skeleton, strict=strict)
    done = convert_dataset(dataset, target, parse_format(to, "--to"))
    echo(f"{done.samples} samples: {target}")
    if done.lost:
        echo(f"not written, as that format cannot store it: {', '.join(done.lost)}", error=True)


@app.command("next")
def next_images(
    run: RunArg,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder of images, or labels that lack some images'.")],
    form: FormatOption = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 20,
    sheet: Annotated[Path, typer.Option(metavar="PNG", help="Contact sheet to write.")] = Path("next.png"),
) -> None:
    """List the images to label next: the model is least sure of them, and they differ from each other.

    The exit code is 1 if an image could not be read.
    """
    from kpnet.cli.data_next import run_data_next

    _check_png(sheet)
    if run_data_next(run, data, parse_format(form, "--format"), count, sheet):
        raise typer.Exit(1)


def _check_png(sheet: Path) -> None:
    if sheet.suffix.lower() != ".png":
        raise KpnetError(f"--sheet: {sheet}: expected a file that ends in .png")
