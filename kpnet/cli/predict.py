"""The `kpnet predict` command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from kpnet.cli.errors import exit_with_failures
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


def predict(
    run: RunArg,
    inputs: InputsArg,
    form: FormatOption = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and drawings.")] = Path("predictions"),
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
    also: WithOption = None,
    decoding: DecodingOption = None,
    flip_test: FlipOption = False,
    scales: ScalesOption = "1",
    shift: ShiftOption = 0.0,
    batch_size: BatchOption = 32,
) -> None:
    """Predict keypoints in images and videos, in pixels of the originals."""
    from kpnet.config.loading import run_config
    from kpnet.core.runtime import best_device
    from kpnet.inference.inputs import InputImage, find_images, find_videos, stream_images, trained_bits
    from kpnet.inference.pipeline import check_video_options, first_of, predict_inputs
    from kpnet.inference.predictor import Predictor
    from kpnet.inference.tables import LabelTable, PredictionTable
    from kpnet.models.ensemble import load_ensemble

    if pseudo_labels and as_json:
        raise KpnetError("--pseudo-labels writes a CSV to train on, --json writes JSON: give one of them")
    others, videos = find_videos(inputs)
    check_video_options(videos, pseudo_labels or as_json, smooth)
    trained = run_config(run)
    runs = [run, *(also or [])]
    ensemble = load_ensemble(runs, decoding=decoding, fold=True)
    test_time = parse_test_time(flip_test, scales, shift)
    bits = trained_bits(runs, ensemble) if others else None
    predictor = Predictor(ensemble, test_time=test_time, device=best_device(), batch_size=batch_size, bits=bits)
    model = predictor.model
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
        )
    )
    first = next(found, None)
    if first is None and not videos:
        raise KpnetError(first_of(failures))
    whole = len(videos)

    def counted() -> Iterator[InputImage]:
        nonlocal whole
        for image in () if first is None else chain([first], found):
            whole += image.boxes is None
            yield image

    images: Iterable[InputImage] = [] if first is None else counted()
    table = LabelTable(model.skeleton.names, model.config.in_channels) if pseudo_labels else PredictionTable(as_json)
    outcome = predict_inputs(predictor, images, table, videos, out, draw, smooth, inputs)
    if crops and whole:
        echo(
            f"kpnet: {run} was trained on crops around boxes; inputs without boxes, used whole: {whole}; "
            "give a COCO file or a CSV with boxes",
            error=True,
        )
    echo("\n".join(outcome.written))
    exit_with_failures(failures + outcome.failures)
