"""`kpnet visualize`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpnet.cli.options import RunArg
from kpnet.core.errors import KpnetError

if TYPE_CHECKING:
    from kpnet.inference.inputs import InputImage
    from kpnet.models.keypoint_model import KeypointModel


def visualize(
    run: RunArg,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE]…", help="As for predict; else the run's own val data.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("inside"),
    limit: Annotated[int, typer.Option(min=1, help="The first so many images alone.")] = 4,
) -> None:
    """What the network sees: filters, feature maps, heatmaps, and the spread of its points."""
    from kpnet.cli.visualize import validation_images, visualize_images
    from kpnet.core.runtime import best_device
    from kpnet.inference.inputs import find_images
    from kpnet.models.build import load_model

    model = load_model(run).to(best_device())
    pictures = find_images(images) if images else validation_images(run, model)
    lines, bad = visualize_images(model, pictures[:limit], out)
    if len(pictures) > limit:
        lines.append(f"the first {limit} of {len(pictures)} images; --limit takes more")
    print("\n".join(lines))
    for message in bad:
        print(f"kpnet: {message}", file=sys.stderr)
    if bad:
        raise typer.Exit(1)


def validation_images(run: Path, model: KeypointModel) -> list[InputImage]:
    """The samples of what the run's config calls its validation data, none of them read yet."""
    from kpnet.config.loading import run_config
    from kpnet.data.build import build_val
    from kpnet.inference.inputs import dataset_images

    config = run_config(run)
    dataset = None if config is None else build_val(config, model.skeleton, model.frame_window)
    if dataset is None:
        raise KpnetError(f"{run}: no validation data in its config; give pictures: kpnet visualize {run} photo.jpg")
    return dataset_images(dataset, "val", "val")


def visualize_images(model: KeypointModel, pictures: list[InputImage], out: Path) -> tuple[list[str], list[str]]:
    """Draw the network's inside into `out`, of each picture in a folder of its own.

    The lines that say what was drawn, and what there is not to draw; and what was wrong with pictures.
    """
    from kpnet import plot

    kinds = {"features": plot.draw_features, "heatmaps": plot.draw_heatmaps, "spread": plot.draw_uncertainty}
    drawn: dict[str, None] = {}  # in their order, each once
    missing: dict[str, None] = {}
    bad: list[str] = []

    def save(draw: Callable[[], Any], target: Path) -> None:
        try:
            plot.save_figure(draw(), target)
            drawn[target.name] = None
        except plot.NothingToDraw as error:
            missing[str(error)] = None

    for picture in pictures:
        try:
            image = picture.load()
        except KpnetError as error:
            bad.append(str(error))
            continue
        for name, draw in kinds.items():
            save(partial(draw, model, image), out / picture.target.with_suffix("") / f"{name}.png")
    count = len(pictures) - len(bad)
    if not count:
        raise KpnetError(bad[0])
    images = f"{count} image(s) in {out}, a folder each: {', '.join(drawn)}"
    save(partial(plot.draw_filters, model), out / "filters.png")
    return [images, *([f"the first layer: {out / 'filters.png'}"] if "filters.png" in drawn else []), *missing], bad
