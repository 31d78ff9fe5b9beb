"""The `kpnet watch` command."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    parse_format,
    parse_test_time,
)
from kpnet.core.console import PlainConsole, echo
from kpnet.core.hub_address import format_path

if TYPE_CHECKING:
    from kpnet.evaluation.watch import WatchReport

OTHER_DATA = 3  # exit code
SHEET, REPORT = "strangest.png", "watch.json"


def watch(
    run: RunArg,
    inputs: InputsArg,
    form: FormatOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help=f"Folder for {REPORT} and {SHEET}, the ten images that are least like the held-out ones."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    decoding: DecodingOption = None,
    flip_test: FlipOption = False,
    scales: ScalesOption = "1",
    shift: ShiftOption = 0.0,
    batch_size: BatchOption = 32,
) -> None:
    """Say whether new images, without labels, are like the held-out data, and how large the model's errors will be.

    The held-out data is that of `kpnet guarantee`. The exit code is 3 if the images are other data.
    """
    from kpnet.config.loading import run_config
    from kpnet.core.files import plain, write_json
    from kpnet.core.outputs import output_files
    from kpnet.core.runtime import best_device
    from kpnet.evaluation.watch import draw_strangest, watch_images
    from kpnet.inference.inputs import find_videos, stream_images, trained_bits
    from kpnet.inference.predictor import Predictor
    from kpnet.inference.watch import reference_for
    from kpnet.models.ensemble import load_ensemble
    from kpnet.plot import save_figure

    model = load_ensemble([run], decoding=decoding, fold=True)
    test_time = parse_test_time(flip_test, scales, shift)
    reference_for(model, test_time)
    others, videos = find_videos(inputs)
    bits = trained_bits([run], model)
    predictor = Predictor(model, device=best_device(), test_time=test_time, batch_size=batch_size, bits=bits)
    trained, failures = run_config(run), list[str]()
    images = stream_images(
        others,
        failures,
        None if trained is None else trained.data,
        boxes=model.config.crop is not None,
        form=parse_format(form, "--format"),
        finds=model.finds_instances,
    )
    # Checked before the images are predicted, which may take long.
    with nullcontext() if out is None else output_files(out, [REPORT, SHEET], "--out", inputs):
        report = watch_images(predictor, images, videos.values(), failures)
        values = plain(report.to_dict())
        if out is not None:
            save_figure(draw_strangest(report, predictor.model.skeleton), out / SHEET)
            write_json(out / REPORT, values)
    if as_json:
        print(json.dumps(values, indent=2))
    else:
        print_report(report)
        if predictor.model.calibration is None:
            echo(f"not calibrated: the expected error is what the head says; see kpnet calibrate {format_path(run)}")
        if out is not None:
            echo(f"the strangest images: {out / SHEET}")
    if report.verdict.is_other:
        for message in failures:
            echo(f"kpnet: {message}", error=True)
        raise typer.Exit(OTHER_DATA)
    exit_with_failures(failures)


def print_report(report: WatchReport) -> None:
    """Print the lines of a report."""
    verdict = report.verdict
    lines = [f"{verdict.images} images, compared with {verdict.held_out} held-out images"]
    if verdict.expected_error is not None:
        error, percent = verdict.expected_error, 100 / verdict.side
        lines.append(
            f"expected error {error.mean:.2f} px ({error.mean * percent:.2f} % of the longer side), 95 % interval "
            f"{error.low:.2f} to {error.high:.2f}; held out {verdict.held_out_error:.2f} px"
        )
    if verdict.confidence is not None:
        lines.append("confidence {:.3f} on average; held out {:.3f}".format(*verdict.confidence))
    lines.append("tests: " + ", ".join(f"{name} p = {p_value:.3f}" for name, p_value in verdict.tests.items()))
    lines.append(
        "these images are OTHER DATA than the held-out ones"
        if verdict.is_other
        else "no sign that these images are other data than the held-out ones"
    )
    lines[-1] += f" (p = {verdict.p_value:.3f} over all tests)"
    if verdict.is_other and verdict.expected_error is not None:
        lines.append("on other data errors may be larger than expected: label some of the images, and measure")
    console = PlainConsole()
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
