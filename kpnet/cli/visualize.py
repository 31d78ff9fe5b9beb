"""The `kpnet visualize` command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpnet.cli.errors import exit_with_failures
from kpnet.cli.options import RunArg
from kpnet.core.console import echo
from kpnet.core.errors import KpnetError

if TYPE_CHECKING:
    from kpnet.inference.inputs import InputImage
    from kpnet.models.keypoint_model import KeypointModel


def visualize(
    run: RunArg,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE", help="Images, folders or data files; by default the run's validation data."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("visualizations"),
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Use only the first N images.")] = 4,
) -> None:
    """Draw what a network sees: filters, feature maps, heatmaps, and the uncertainty of its points."""
    from kpnet.config.loading import run_config
    from kpnet.core.runtime import best_device
    from kpnet.inference.inputs import find_images
    from kpnet.models.build import load_model

    model = load_model(run).to(best_device())
    failures: list[str] = []
    trained = run_config(run)
    if inputs:
        images = find_images(inputs, failures, None if trained is None else trained.data)
    else:
        images = validation_images(run, model)
    lines = draw_images(model, images[:limit], out, failures, inputs or ())
    if len(images) > limit:
        lines.append(f"the first {limit} of {len(images)} images; --limit takes more")
    echo("\n".join(lines))
    exit_with_failures(failures)


def validation_images(run: Path, model: KeypointModel) -> list[InputImage]:
    """List the images of the run's validation data, without reading them."""
    from kpnet.config.loading import run_config
    from kpnet.core.hub_address import format_path
    from kpnet.data.build import build_val
    from kpnet.inference.inputs import dataset_images

    config = run_config(run)
    dataset = None if config is None else build_val(config, model.skeleton, model.frame_window)
    if dataset is None:
        name = format_path(run)
        raise KpnetError(f"{name}: no validation data in its config; give images: kpnet visualize {name} photo.jpg")
    return dataset_images(dataset, "val", "val")


def draw_images(
    model: KeypointModel, images: list[InputImage], out: Path, failures: list[str], inputs: Sequence[Path] = ()
) -> list[str]:
    """Draw what the network sees in each image into a folder of its own below `out`, and the network's filters.

    Args:
        model: The model.
        images: The images.
        out: The folder.
        failures: Gets a line for each image that cannot be read.
        inputs: Files that are read beside the images, such as files of labels.

    Returns:
        Lines that say what was drawn and what could not be drawn.

    Raises:
        KpnetError: If no image could be read, or a figure would be written over an input or a file of the user's.
    """
    from kpnet import plot
    from kpnet.core.outputs import output_files
    from kpnet.inference.pipeline import first_of

    if not images:
        raise KpnetError(first_of(failures))

    kinds = {"features": plot.draw_features, "heatmaps": plot.draw_heatmaps, "uncertainty": plot.draw_uncertainty}
    names = ["filters.png", *(str(_figure(image, kind)) for image in images for kind in kinds)]
    files = [image.file for image in images if image.file is not None]
    with output_files(out, names, "--out", [*inputs, *files]):
        return _draw(model, images, out, kinds, failures)


def _figure(image: InputImage, kind: str) -> Path:
    """Return the path of an image's figure below the output folder."""
    return image.target.with_suffix("") / f"{kind}.png"


def _draw(
    model: KeypointModel,
    images: list[InputImage],
    out: Path,
    kinds: Mapping[str, Callable[..., Any]],
    failures: list[str],
) -> list[str]:
    from kpnet import plot
    from kpnet.inference.pipeline import first_of

    drawn: dict[str, None] = {}  # file names, each once and in order
    missing: dict[str, None] = {}  # reasons, likewise

    def save(draw: Callable[[], Any], target: Path) -> None:
        try:
            plot.save_figure(draw(), target)
            drawn[target.name] = None
        except plot.NothingToDraw as reason:
            missing[str(reason)] = None

    count = 0
    for image in images:
        try:
            pixels = image.load()
            for name, draw in kinds.items():
                save(partial(draw, model, pixels), out / _figure(image, name))
            count += 1
        except KpnetError as error:
            failures.append(str(error))
    if not count:
        raise KpnetError(first_of(failures))
    lines = [f"{count} image(s) in {out}, a folder each: {', '.join(drawn)}"]
    filters = out / "filters.png"
    save(partial(plot.draw_filters, model), filters)
    if filters.name in drawn:
        lines.append(f"the first layer: {filters}")
    return [*lines, *missing]
