"""The arguments and options that commands of `kpnet.cli` share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpnet.core.errors import KpnetError

if TYPE_CHECKING:
    from kpnet.models.test_time import TestTime


@contextmanager
def one_line_errors(folder: Path) -> Iterator[None]:
    """An interrupted training, and one that cannot write its run, as one line each."""
    try:
        yield
    except KeyboardInterrupt:
        raise KpnetError("interrupted; the same command with --resume goes on after the last whole epoch") from None
    except OSError as error:  # a full disk does not say where, inside a checkpoint
        raise OSError(error.errno, error.strerror or str(error), str(error.filename or folder)) from None


def parse_test_time(flip: bool, scales: str, shift: float) -> TestTime | None:
    """The settings of --flip-test, --scales and --shift; None where they ask for nothing."""
    from kpnet.models.test_time import TestTime

    try:
        numbers = tuple(float(scale) for scale in scales.split(","))
    except ValueError:
        raise KpnetError(f'--scales: expected numbers, e.g. 0.95,1,1.05, found "{scales}"') from None
    settings = TestTime(flip, numbers, shift)
    return None if settings == TestTime() else settings


ConfigArg = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a recipe's name (kpnet config).")]


OverridesArg = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="e.g. data.root=faces train.epochs=10")
]


RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a folder that model.save wrote.")]


DataArg = Annotated[Path | None, typer.Argument(metavar="[DATA]", help="Labelled data; else the run's own val data.")]


InputsArg = Annotated[
    list[Path],
    typer.Argument(metavar="INPUT…", help="Pictures, videos, folders of them, or data: CSV, COCO JSON, npz."),
]


OutOption = Annotated[Path | None, typer.Option(help="The run folder; runs/NAME where it is not given.")]


ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on after the last whole epoch of the run.")]


ForceOption = Annotated[bool, typer.Option("--force", help="Delete the run of that name and start anew.")]


BatchOption = Annotated[int, typer.Option(min=1, help="Images at once.")]


WithOption = Annotated[
    list[Path] | None, typer.Option("--with", metavar="RUN", help="Average with this run too; may be repeated.")
]


FlipOption = Annotated[bool, typer.Option("--flip-test", help="Average with the mirrored image's answer.")]


ScalesOption = Annotated[str, typer.Option(help="Average over these scales of the image, e.g. 0.95,1,1.05.")]


ShiftOption = Annotated[float, typer.Option(help="Average over shifts of so many input pixels.")]


DecodingOption = Annotated[
    str | None, typer.Option(help="Of a heatmap or offset head, instead of the one it was trained with.")
]
