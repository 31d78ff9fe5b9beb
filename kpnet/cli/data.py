"""The commands of `kpnet data`: check, convert, next, doctor and agree."""

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


@app.command()
def doctor(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A file or folder of labels.")],
    form: FormatOption = None,
    skeleton: SkeletonOption = None,
    folds: Annotated[int, typer.Option(min=2, help="Number of short trainings, each of which leaves a part out.")] = 5,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="CONFIG", help="Recipe of the trainings; by default a small one that fits the data."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Use this run, trained on other data, instead of trainings.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the trainings, continued if it exists; by default runs/doctor_DATA.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings to run at the same time.")] = 1,
    sheet: Annotated[Path, typer.Option(metavar="PNG", help="Contact sheet of the worst to write.")] = Path(
        "doctor.png"
    ),
    table: Annotated[Path, typer.Option(metavar="CSV", help="Table of everything found to write.")] = Path(
        "doctor.csv"
    ),
    count: Annotated[int, typer.Option(min=1, help="Lines to print, and samples on the contact sheet.")] = 24,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write a copy of the data in which what is certain is mended: a new path."),
    ] = None,
) -> None:
    """Find wrong labels by models that did not see them: swapped sides, wrong order, points off, other instances."""
    from kpnet.cli.doctor_report import DoctorOptions, run_doctor

    for path, option, suffix in ((sheet, "--sheet", ".png"), (table, "--table", ".csv")):
        if path.suffix.lower() != suffix:
            raise KpnetError(f"{option}: {path}: expected a file that ends in {suffix}")
    if run is not None and (recipe is not None or out is not None):
        raise KpnetError("--run: that model is used as it is; leave out --recipe and --out, which are of trainings")
    run_doctor(
        DoctorOptions(data, parse_format(form, "--format"), skeleton, folds, recipe, run, out, workers),
        sheet,
        table,
        count,
        fix,
    )


@app.command()
def agree(
    first: Annotated[Path, typer.Argument(metavar="A", help="One person's labels.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another's labels of the same images.")],
    form: FormatOption = None,
    skeleton: SkeletonOption = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Also compare this model's errors with the people's distance.")
    ] = None,
    write_sigmas: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Write the skeleton with the OKS sigmas that follow.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measures as JSON.")] = False,
) -> None:
    """Measure how far two people's labels of the same images are apart, and a model's errors in that unit."""
    from kpnet.cli.agreement_report import run_agreement

    run_agreement(first, second, parse_format(form, "--format"), skeleton, run, write_sigmas, as_json)
