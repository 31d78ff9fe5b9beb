"""`kpnet predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kpnet.cli.options import (
    BatchOption,
    DecodingOption,
    FlipOption,
    InputsArg,
    RunArg,
    ScalesOption,
    ShiftOption,
    WithOption,
)
from kpnet.core.errors import KpnetError


def predict(
    run: RunArg,
    inputs: InputsArg,
    out: Annotated[Path, typer.Option(help="Folder for the tables and the pictures.")] = Path("predictions"),
    draw: Annotated[
        bool | None, typer.Option("--draw/--no-draw", help="Copies with points drawn: of pictures no, of videos yes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="predictions.json instead of predictions.csv.")] = False,
    pseudo_labels: Annotated[
        bool, typer.Option("--pseudo-labels", help="labels.csv instead: a file to train on, missing labels filled in.")
    ] = False,
    smooth: Annotated[
        str | None, typer.Option(help="Of videos: one_euro or savgol, with options as in savgol:window=15,degree=3.")
    ] = None,
    also: WithOption = None,
    decoding: DecodingOption = None,
    flip_test: FlipOption = False,
    scales: ScalesOption = "1",
    shift: ShiftOption = 0.0,
    batch_size: BatchOption = 32,
) -> None:
    """Keypoints of pictures and videos, in pixels of the originals."""
    from kpnet.cli.options import parse_test_time
    from kpnet.config.loading import run_config
    from kpnet.inference.inputs import find_images, find_videos
    from kpnet.inference.pipeline import check_video_options, predict_inputs
    from kpnet.inference.predictor import Predictor
    from kpnet.inference.tables import LabelTable, PredictionTable
    from kpnet.models.ensemble import load_ensemble

    if pseudo_labels and as_json:
        raise KpnetError("--pseudo-labels writes a CSV to train on, --json a JSON: give one of them")
    others, videos = find_videos(inputs)
    check_video_options(videos, pseudo_labels or as_json, smooth)
    trained = run_config(run)
    test_time = parse_test_time(flip_test, scales, shift)
    predictor = Predictor(
        load_ensemble([run, *(also or [])], decoding=decoding), test_time=test_time, batch_size=batch_size
    )
    model = predictor.model
    crops = model.config.crop is not None
    pictures = find_images(others, None if trained is None else trained.data, boxes=crops)
    whole = len(videos) + sum(picture.boxes is None for picture in pictures)
    if crops and whole:
        note = f"{run} was trained on crops about boxes; without a box, and taken whole: {whole} of the inputs"
        print(f"kpnet: {note}; give a COCO file or a CSV with boxes", file=sys.stderr)
    table = LabelTable(model.skeleton.names, model.config.in_channels) if pseudo_labels else PredictionTable(as_json)
    told, bad = predict_inputs(predictor, pictures, table, videos, out, draw, smooth)
    print("\n".join(told))
    for message in bad:
        print(f"kpnet: {message}", file=sys.stderr)
    if bad:
        raise typer.Exit(1)
