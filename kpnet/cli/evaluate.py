"""The `kpnet evaluate` command."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from kpnet.cli.errors import warn_of_views
from kpnet.cli.options import (
    BatchOption,
    DataArg,
    DecodingOption,
    FlipOption,
    FormatOption,
    RunArg,
    ScalesOption,
    ShiftOption,
    WithOption,
    WorkersOption,
    parse_format,
    parse_test_time,
)
from kpnet.core.console import PlainConsole
from kpnet.core.errors import KpnetError
from kpnet.core.hub_address import format_path


def evaluate(
    run: RunArg,
    data: DataArg = None,
    form: FormatOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measures as JSON.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Draw the reliability diagram here (models that predict a confidence)."),
    ] = None,
    nme: Annotated[
        str | None,
        typer.Option(
            help="Length that NME divides by: box, diagonal, or two points as A,B; by default the skeleton's."
        ),
    ] = None,
    coco_results: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            help="Write predictions as a COCO results file; print AP and AR (COCO data only). For a model that finds "
            "instances: all that it found.",
        ),
    ] = None,
    failure_threshold: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="NME above which a sample counts as failed, and limit of the AUC; 300-W uses 0.08.",
        ),
    ] = 0.10,
    min_confidence: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Also measure only the points of at least this confidence."),
    ] = None,
    tracks: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="DATA is a video: compare identities with these (frame, track, name, x, y): IDF1, switches, HOTA.",
        ),
    ] = None,
    max_instances: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --tracks: at most N instances and identities.")
    ] = None,
    also: WithOption = None,
    decoding: DecodingOption = None,
    flip_test: FlipOption = False,
    scales: ScalesOption = "1",
    shift: ShiftOption = 0.0,
    batch_size: BatchOption = 64,
    workers: WorkersOption = None,
) -> None:
    """Measure a model on labelled data: score, RMSE, NME, PCK, calibration of the confidence, per-keypoint results."""
    from kpnet.cli.printing import (
        print_groups,
        print_image_pixels,
        print_instances,
        print_measures,
        print_points,
        print_presence,
        print_reliability,
    )
    from kpnet.config.loading import run_config
    from kpnet.core.files import plain
    from kpnet.core.outputs import output_file
    from kpnet.core.runtime import best_device
    from kpnet.evaluation.found import find_and_measure
    from kpnet.evaluation.measurement import evaluate_predictions, predict_dataset
    from kpnet.evaluation.run_data import evaluation_dataset
    from kpnet.models.ensemble import load_ensemble

    if tracks is not None:
        from kpnet.cli.evaluate_tracks import evaluate_tracks

        if plot is not None or nme is not None or coco_results is not None or form is not None:
            raise KpnetError("--tracks measures identities: --plot, --nme, --coco-results and --format are not for it")
        settings: dict[str, Any] = {
            "also": also,
            "decoding": decoding,
            "batch_size": batch_size,
            "max_instances": max_instances,
        }
        settings["test_time"] = parse_test_time(flip_test, scales, shift)
        evaluate_tracks(run, data, tracks, settings, as_json)
        return
    if max_instances is not None:
        raise KpnetError("--max-instances is for --tracks")
    if plot is not None and plot.suffix.lower() != ".png":
        raise KpnetError(f"--plot: {plot}: expected a file that ends in .png")
    if coco_results is not None and coco_results.suffix.lower() != ".json":
        raise KpnetError(f"--coco-results: {coco_results}: expected a file that ends in .json")
    model = load_ensemble([run, *(also or [])], decoding=decoding, fold=True).to(best_device())
    test_time = parse_test_time(flip_test, scales, shift)
    warn_of_views(run, model, test_time)
    first, comma, second = (nme or "").partition(",")
    divisor = (first.strip(), second.strip()) if comma else nme
    dataset = evaluation_dataset(run, data, model, parse_format(form, "--format"))
    read = [path for index in range(len(dataset)) if (path := dataset.image_file(index)) is not None]
    read += [data] if data is not None else []
    with ExitStack() as outputs:
        for path, option in ((plot, "--plot"), (coco_results, "--coco-results")):
            if path is not None:
                outputs.enter_context(output_file(path, option, read))
        if workers is None:
            trained = run_config(run)
            workers = 0 if trained is None else trained.data.workers
        predictions = predict_dataset(model, dataset, batch_size, test_time, workers)
        measures = evaluate_predictions(predictions, model, divisor, failure_threshold, min_confidence)
        if model.finds_instances:
            scenes, found, measures["instances"] = find_and_measure(model, dataset, batch_size, test_time, divisor)
        if coco_results is not None and model.finds_instances:
            from kpnet.evaluation.coco import write_found

            write_found(found, scenes, coco_results)
        elif coco_results is not None:
            from kpnet.evaluation.coco import coco_measures, write_results

            labels = write_results(predictions, dataset, model.config.input_size, coco_results)
            measures["coco"] = coco_measures(labels, coco_results, model.skeleton)
        reliability = measures.get("reliability")
        if plot is not None:
            instances = measures.get("instances", {}).get("reliability")
            if reliability is None and not instances:
                raise KpnetError(f"--plot: {format_path(run)}: its head predicts no confidence; see kpnet calibrate")
            from kpnet.plot import draw_reliability, save_figure

            save_figure(draw_reliability(reliability, instances), plot)
    if as_json:
        print(json.dumps(plain(measures), indent=2))
        return
    console = PlainConsole()
    print_measures(console, measures, str(data or "validation data"), skeleton=model.skeleton.name)
    if reliability is not None:
        print_reliability(console, reliability)
    print_presence(console, measures.get("presence"))
    print_points(console, measures["per_point"])
    print_groups(console, measures["per_group"])
    if "image_pixels" in measures:
        print_image_pixels(console, measures["image_pixels"])
    if "instances" in measures:
        print_instances(console, measures["instances"])
        if coco_results is not None:
            console.print(f"COCO results: {coco_results}", highlight=False, soft_wrap=True)
    if "coco" in measures:
        values = ", ".join(f"{name} {value:.4f}" for name, value in measures["coco"].items())
        console.print(f"COCO: {values}; {coco_results}", highlight=False, soft_wrap=True)
