"""The `kpnet guarantee` command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpnet.cli.options import (
    BatchOption,
    FlipOption,
    FormatOption,
    RunArg,
    folder_to_save,
    parse_format,
    parse_test_time,
)
from kpnet.core.console import PlainConsole

if TYPE_CHECKING:
    from kpnet.models.guarantee import Guarantee
    from kpnet.models.keypoint_model import KeypointModel


LITTLE = 0.9  # mean radius, relative to that of the guarantee, from which on constant radii are said to be smaller


class Group(StrEnum):
    """What radii may be conditional on."""

    SIZE = "size"
    CONFIDENCE = "confidence"


def guarantee(
    run: RunArg,
    data: Annotated[Path, typer.Argument(metavar="HELD_OUT", help="Labelled data that was not trained on.")],
    at: Annotated[float, typer.Option(help="Share of new images in which a point's circle is to hold it.")] = 0.9,
    by: Annotated[
        Group | None,
        typer.Option(help="Radii for each third by the instance's size in the input, or by the model's confidence."),
    ] = None,
    form: FormatOption = None,
    flip_test: FlipOption = False,
    batch_size: BatchOption = 64,
) -> None:
    """Give a model guaranteed radii: circles that hold the true points of new images as often as you ask for.

    They are found on held-out data by split conformal prediction, and saved with the model, as is the summary of these
    data that `kpnet watch` compares new images with.
    """
    from kpnet.core.errors import KpnetError
    from kpnet.core.runtime import best_device
    from kpnet.evaluation.guarantee import guarantee_model
    from kpnet.evaluation.run_data import check_unseen, evaluation_dataset
    from kpnet.evaluation.watch import summarise
    from kpnet.models.build import load_model

    if not 0 < at < 1:
        raise KpnetError(f"--at: expected a share between 0 and 1, such as 0.9, found {at:g}")
    folder = folder_to_save(run, "the guarantee")
    model = load_model(run).to(best_device())
    dataset = evaluation_dataset(run, data, model, parse_format(form, "--format"))
    validated = check_unseen(run, dataset, data, fix="guarantee on images of their own")
    test_time = parse_test_time(flip_test, "1", 0.0)
    measured = guarantee_model(model, dataset, at, None if by is None else by.value, batch_size, test_time)
    assert model.guarantee is not None
    console = PlainConsole()
    if validated is not None:
        picked = "; they picked best/, so its radii may be too small" if folder.name == "best" else ""
        console.print(f"{validated}{picked}", markup=False, highlight=False, soft_wrap=True)
    print_guarantee(console, model, model.guarantee, measured, str(data))
    if model.frame_window == (0, 0):  # what kpnet watch takes
        model.watch_reference = summarise(model, dataset, batch_size, test_time)
    model.save(folder)
    console.print(f"guaranteed: {folder}", highlight=False, soft_wrap=True)


def print_guarantee(
    console: PlainConsole, model: KeypointModel, found: Guarantee, measured: dict[str, Any], data: str
) -> None:
    """Print a guarantee: its statement, what it holds on images that it does not come from, and a row per point.

    Args:
        console: Where to print.
        model: The model that it is of.
        found: The guarantee.
        measured: What `kpnet.evaluation.guarantee.guarantee_model` returned.
        data: What the held-out data is called.
    """
    from rich.table import Table

    from kpnet.core.display import display_name
    from kpnet.models.guarantee import GROUPS, coverage_range

    def law(images: int) -> str:
        low, high = coverage_range(images, found.at)
        return f"{100 * low:.1f} to {100 * high:.1f} %"

    def share(values: dict[str, Any]) -> str:
        if not values["points"]:
            return "nothing, as half of the data is too few images"
        return f"{100 * values['measured']:.1f} % ({100 * values['low']:.1f} to {100 * values['high']:.1f})"

    asked, coverage = f"{100 * found.at:g} %", measured["coverage"]
    views = " with the flip test" if found.test_time.flip else ""
    groups = ("",) if found.by is None else GROUPS[found.by]
    whole = [
        f"{law(images)} ({images} images{f', {name}' if name else ''})"
        for images, name in zip(found.images[-1], groups, strict=True)
    ]
    lines = [
        f"radii that hold {asked}, on {data}{views}: split conformal, exact for new images drawn as these were",
        f"  points  each circle is to hold its point in {asked} of all new images; in how many it does depends on the "
        "draw of these: the range is that of 95 % of such draws (Beta)",
        f"  images  all labelled points of an image lie in their joint circles in {asked}; range {', '.join(whole)}",
        "measured with the radii of one half of the images on the other (interval: 95 %, by images, as points of one "
        "image are not independent)",
        f"  points  {share(coverage['points'])}",
        f"  images  {share(coverage['joint'])}",
    ]
    for by in ("size", "confidence"):
        if by in coverage:
            thirds = ", ".join(f"{name} {share(values)}" for name, values in coverage[by].items())
            lines.append(f"  by {by}: {thirds}")
    if not found.scaled:
        lines.append("The head predicts no spread: each point's radius is the same in all images.")
    elif measured["constant"] < LITTLE:
        lines.append(
            f"The model's spread tells little on these data: radii that are the same in all images would be "
            f"{100 * (1 - measured['constant']):.0f} % smaller."
        )
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    table = Table("point", "radius px", "% of side", "images", "range %", "measured %")
    side = max(model.config.input_size)
    for row, name in enumerate(model.skeleton.names):
        radius, own = measured["radius_px"][name], coverage["per_point"][name]
        table.add_row(
            display_name(name),
            f"{radius:.2f}",
            f"{100 * radius / side:.2f}",
            "\n".join(str(count) for count in found.images[row]),
            "\n".join(law(count).removesuffix(" %") for count in found.images[row]),
            f"{100 * own['measured']:.1f}" if own["points"] else "",
        )
    console.print(table)
    console.print(
        f"mean radii in px of the model's input; the joint radii are {measured['joint_radius_px']:.2f} px on average",
        highlight=False,
        soft_wrap=True,
    )
