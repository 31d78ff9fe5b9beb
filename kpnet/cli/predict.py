"""The `kpnet predict` command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpnet.cli.errors import exit_with_failures, warn_of_views
from kpnet.cli.options import (
    BatchOption,
    DecodingOption,
    FlipOption,
    FormatOption,
    InputsArg,
    RunArg,
    ScalesOption,
    ShiftOption,
    WithOption,
    parse_format,
    parse_test_time,
)
from kpnet.core.console import echo
from kpnet.core.errors import KpnetError
from kpnet.core.hub_address import format_path

if TYPE_CHECKING:
    from kpnet.inference.inputs import InputImage


@dataclass
class _Whole:
    """Counts inputs without boxes, which a model of crops predicts all the same."""

    number: int

    def count(self, images: Iterable[InputImage]) -> Iterator[InputImage]:
        """Yield images, and count those without boxes."""
        for image in images:
            self.number += image.boxes is None
            yield image

    def report(self, run: Path) -> None:
        """Print how many there were, if any."""
        if self.number:
            echo(
                f"kpnet: {format_path(run)} was trained on crops around boxes; inputs without boxes, used "
                f"whole: {self.number}; give a COCO file or a CSV with boxes",
                error=True,
            )


class Engine(StrEnum):
    """What runs the prediction."""

    PLAIN = "plain"
    RAY = "ray"


def predict(
    run: RunArg,
    inputs: InputsArg,
    form: FormatOption = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder for tables and drawings; FOLDER/NAME.parquet: its table is this Parquet file."),
    ] = Path("predictions"),
    draw: Annotated[
        bool | None,
        typer.Option("--draw/--no-draw", help="Write copies with the points drawn in; by default of videos only."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write predictions.json instead of predictions.csv.")] = False,
    pseudo_labels: Annotated[
        bool,
        typer.Option("--pseudo-labels", help="Write labels.csv instead: a file to train on, missing labels filled in."),
    ] = False,
    smooth: Annotated[
        str | None,
        typer.Option(help="Smooth video tracks with one_euro or savgol, with options as in savgol:window=15,degree=3."),
    ] = None,
    track: Annotated[
        bool, typer.Option("--track", help="Link the instances of videos over time: one identity for each.")
    ] = False,
    also: WithOption = None,
    decoding: DecodingOption = None,
    flip_test: FlipOption = False,
    scales: ScalesOption = "1",
    shift: ShiftOption = 0.0,
    max_instances: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Keep the N best instances of each image or frame at most."),
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least score of an instance; by default the model's, as kpnet calibrate sets."),
    ] = None,
    batch_size: BatchOption = 32,
    engine: Annotated[
        Engine, typer.Option(help="ray: on all cores and GPUs with Ray Data, into Parquet files; see the guide.")
    ] = Engine.PLAIN,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A Ray cluster, instead of this machine alone.")
    ] = None,
) -> None:
    """Predict keypoints in images and videos, in pixels of the originals."""
    if engine == Engine.RAY:
        if draw or as_json or pseudo_labels or smooth is not None or track:
            raise KpnetError(
                "--engine ray writes Parquet: --draw, --json, --pseudo-labels, --smooth and --track are not for it"
            )
        options = {"with": also, "decoding": decoding, "flip test": flip_test, "scales": scales, "shift": shift}
        options |= {"max instances": max_instances, "score threshold": score_threshold}
        predict_on_ray(run, inputs, form, out, options, batch_size, address)
        return
    if address is not None:
        raise KpnetError("--address is for --engine ray")
    from kpnet.config.loading import run_config
    from kpnet.core.runtime import best_device
    from kpnet.inference.inputs import find_images, find_videos, stream_images, trained_bits
    from kpnet.inference.parquet import ParquetTable
    from kpnet.inference.pipeline import check_parquet, check_video_options, first_of, predict_inputs, split_output
    from kpnet.inference.predictor import Predictor
    from kpnet.inference.tables import LabelTable, PredictionTable, Table, further_columns
    from kpnet.models.ensemble import load_ensemble

    if pseudo_labels and as_json:
        raise KpnetError("--pseudo-labels writes a CSV to train on, --json writes JSON: give one of them")
    others, videos = find_videos(inputs)
    check_video_options(videos, pseudo_labels or as_json, smooth, track)
    folder, parquet = split_output(out)
    if parquet is not None:
        check_parquet(parquet, bool(others), videos, pseudo_labels or as_json)
    trained = run_config(run)
    runs = [run, *(also or [])]
    ensemble = load_ensemble(runs, decoding=decoding, fold=True)
    test_time = parse_test_time(flip_test, scales, shift)
    warn_of_views(run, ensemble, test_time)
    bits = trained_bits(runs, ensemble) if others else None
    settings: dict[str, Any] = {"test_time": test_time, "batch_size": batch_size, "bits": bits}
    settings |= {"max_instances": max_instances, "threshold": score_threshold}
    predictor = Predictor(ensemble, device=best_device(), **settings)
    model = predictor.model
    if videos and smooth is not None and model.finds_instances and not track:
        raise KpnetError(
            f"--smooth: {format_path(run)} finds several instances, whose points are smoothed over time: add --track"
        )
    if track and not model.finds_instances:
        echo(f"kpnet: {format_path(run)} predicts one instance per image: --track gives one identity", error=True)
    crops = model.config.crop is not None
    failures: list[str] = []
    listing = find_images if draw or pseudo_labels else stream_images  # only these need names of their own
    found = iter(
        listing(
            others,
            failures,
            None if trained is None else trained.data,
            boxes=crops,
            form=parse_format(form, "--format"),
            finds=model.finds_instances,
        )
    )
    first = next(found, None)
    if first is None and not videos:
        raise KpnetError(first_of(failures))
    whole = _Whole(len(videos))
    images: Iterable[InputImage] = [] if first is None else whole.count(chain([first], found))
    table: Table = PredictionTable(as_json, further_columns(model))
    if pseudo_labels:
        table = LabelTable(model.skeleton.names, model.config.in_channels)
    elif parquet is not None:
        table = ParquetTable(parquet, further_columns(model))
    outcome = predict_inputs(predictor, images, table, videos, folder, draw, smooth, inputs, parquet, track)
    if crops and not model.finds_instances:
        whole.report(run)
    echo("\n".join(outcome.written))
    exit_with_failures(failures + outcome.failures)


def predict_on_ray(
    run: Path,
    inputs: list[Path],
    form: str | None,
    out: Path,
    options: dict[str, Any],
    batch_size: int,
    address: str | None,
) -> None:
    """Predict on Ray Data, and print what was written and what failed.

    Args:
        run: The run folder.
        inputs: The inputs.
        form: The value of `--format`.
        out: The output folder.
        options: Values of the options that change predictions, by name.
        batch_size: Images in a batch.
        address: Host and port of a cluster, or None.
    """
    from kpnet.config.loading import run_config
    from kpnet.core.model_folder import is_exported
    from kpnet.inference.inputs import find_videos, stream_images, trained_bits
    from kpnet.inference.predictor import Predictor
    from kpnet.inference.ray_engine import predict_on_ray as predict_all
    from kpnet.models.ensemble import load_ensemble

    runs = [run, *(options["with"] or [])]
    if any(is_exported(each) for each in runs):
        raise KpnetError(f"{run}: --engine ray needs the run folder or a saved model, not an ONNX file")
    test_time = parse_test_time(options["flip test"], options["scales"], options["shift"])
    parsed = parse_format(form, "--format")
    others, videos = find_videos(inputs)
    trained = run_config(run)
    model = load_ensemble(runs, decoding=options["decoding"], fold=True)
    warn_of_views(run, model, test_time)
    settings: dict[str, Any] = {"test_time": test_time, "batch_size": batch_size, "bits": trained_bits(runs, model)}
    settings |= {"max_instances": options["max instances"], "threshold": options["score threshold"]}
    predictor = Predictor(model, device="cpu", **settings)
    crops = predictor.model.config.crop is not None
    identity = {"inputs": [str(path.absolute()) for path in inputs], "format": form}
    identity |= {name: value for name, value in options.items() if name != "with"}
    whole, data, finds = _Whole(len(videos)), None if trained is None else trained.data, model.finds_instances
    outcome = predict_all(
        predictor,
        settings,
        lambda failures: whole.count(stream_images(others, failures, data, crops, parsed, finds)),
        list(videos.values()),
        out,
        identity,
        address,
    )
    if crops and not finds:
        whole.report(run)
    echo("\n".join(outcome.written))
    exit_with_failures(outcome.failures)
