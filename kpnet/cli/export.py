"""The `kpnet export` command."""

from __future__ import annotations

import os
import tempfile
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpnet.cli.errors import exit_with_failures
from kpnet.cli.options import DecodingOption, RunArg, WithOption
from kpnet.core.console import echo
from kpnet.core.errors import KpnetError

if TYPE_CHECKING:
    from kpnet.data import KeypointDataset
    from kpnet.export.parity import Sample
    from kpnet.models.exported import ExportInfo

PARITY_IMAGES, CALIBRATION_IMAGES = 64, 256
MOST_LOST = 0.02  # of the score, by a lower precision
SCRIPT = "predict.py"


class Target(StrEnum):
    onnx = "onnx"
    torch = "torch"
    html = "html"


class Precision(StrEnum):
    fp32 = "fp32"
    fp16 = "fp16"


def export(
    run: RunArg,
    to: Annotated[
        Target, typer.Option(help="What to write: an ONNX file with a script that runs it, a .pt2, or a web page.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("exported"),
    precision: Annotated[
        Precision, typer.Option(help="Precision of the network: fp16 halves the file (ONNX).")
    ] = Precision.fp32,
    int8: Annotated[
        bool, typer.Option("--int8", help="Convolutions on 8-bit integers: a quarter of the size (ONNX).")
    ] = False,
    flip_test: Annotated[
        bool, typer.Option("--flip-test", help="Average with the prediction for the mirrored image, inside the file.")
    ] = False,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Take input images of other sizes too, where the network can.")
    ] = False,
    runtime: Annotated[
        Path | None, typer.Option(help="Folder with the files of onnxruntime-web, instead of npm's package (HTML).")
    ] = None,
    also: WithOption = None,
    decoding: DecodingOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that kpnet wrote, and accept a score that falls by over 2 %.")
    ] = False,
) -> None:
    """Write a model as one file that runs without kpnet: from pixels to points in the image's own pixels."""
    from kpnet.core.files import file_name
    from kpnet.core.outputs import output_files
    from kpnet.export.parity import ParityError
    from kpnet.inference.inputs import trained_bits
    from kpnet.models.ensemble import load_ensemble

    if int8 and precision is not Precision.fp32:
        raise KpnetError(f"--int8 and --precision {precision.value}: give one of them")
    if any_size and to is Target.html:
        raise KpnetError("--any-size: the page fits images into the model's input; only --to onnx and torch have it")
    if runtime is not None and to is not Target.html:
        raise KpnetError("--runtime: only --to html has it")
    if to is not Target.onnx and (int8 or precision is not Precision.fp32):
        raise KpnetError(f"{'--int8' if int8 else f'--precision {precision.value}'}: only --to onnx has it")
    runs = [run, *(also or [])]
    model = load_ensemble(runs, decoding=decoding)
    note = _without_finder(model)
    options = {"flip_test": flip_test, "bits": trained_bits(runs, model)}
    whole = run.resolve()
    name = file_name((whole.parent if whole.name in ("final", "best") else whole).name)
    names = {
        Target.onnx: [f"{name}.onnx", SCRIPT],
        Target.torch: [f"{name}.pt2"],
        Target.html: [f"{name}.html"],
    }[to]
    for path in (out / each for each in names):
        same = path.name == SCRIPT and path.is_file() and path.read_bytes() == _script()
        if os.path.lexists(path) and not force and not same:
            raise KpnetError(f"{path}: exists; give another --out, or --force to replace it")
    try:
        with output_files(out, names, "--out"):
            if to is Target.onnx:
                chosen = "int8" if int8 else precision.value
                lines = _write_onnx(run, model, out / names[0], options, any_size, chosen, force)
            elif to is Target.html:
                lines = _write_html(run, model, out / names[0], options, runtime)
            else:
                lines = _write_torch(run, model, out / names[0], options, any_size)
    except ParityError as error:
        exit_with_failures([str(error)])
    echo("\n".join(lines + note))


def _without_finder(model: Any) -> list[str]:
    """Take the finder from models that have one, and return a line that says so."""
    members = list(getattr(model, "models", [model]))
    if all(getattr(each, "finder", None) is None for each in members):
        return []
    for each in members:
        each.finder = None
    return ["the file has the model of crops alone, without the finder of instances: give it boxes"]


def _write_torch(run: Path, model: Any, path: Path, options: dict[str, Any], any_size: bool) -> list[str]:
    from kpnet.export.program import to_torch

    _, samples, source = _validation(run, model)
    return [_line(path, to_torch(model, path, any_size=any_size, samples=samples, **options), source)]


def _write_html(run: Path, model: Any, path: Path, options: dict[str, Any], runtime: Path | None) -> list[str]:
    from kpnet.export.html import to_html

    _, samples, source = _validation(run, model)
    info = to_html(model, path, title=path.stem, samples=samples, runtime=runtime, **options)
    source = source if samples is None else f"{source} and drawn faces"
    return [f"{_line(path, info, source)}; {path.stat().st_size / 1e6:.1f} MB, open it in a browser"]


def _write_onnx(
    run: Path, model: Any, path: Path, options: dict[str, Any], any_size: bool, precision: Any, force: bool
) -> list[str]:
    from kpnet.core.files import write_atomic
    from kpnet.export.onnx import to_onnx
    from kpnet.export.parity import ParityError
    from kpnet.export.score import measure_cost

    images = _calibration_samples(run) if precision == "int8" else None
    dataset, samples, source = _validation(run, model)
    options = {**options, "any_size": any_size, "samples": samples}
    script = path.with_name(SCRIPT)
    with tempfile.TemporaryDirectory() as folder:
        chosen = exact = Path(folder) / "fp32.onnx"
        info, cost = to_onnx(model, exact, **options), ""
        if precision != "fp32":
            chosen = Path(folder) / "small.onnx"
            info = to_onnx(model, chosen, precision=precision, calibration_samples=images, **options)
            measured = measure_cost(chosen, exact, dataset)
            if not measured.lost <= MOST_LOST and not force:
                lost = "is not known, without labelled validation data" if dataset is None else "falls by over 2 %"
                raise ParityError(
                    f"{precision}: {measured}: the score {lost}, and nothing was written; --force accepts it"
                )
            cost = f"; {measured}"
        write_atomic(path, chosen.read_bytes())
    write_atomic(script, _script())
    return [f"{_line(path, info, source)}{cost}", f"{script}: python {script} {path} photo.jpg"]


def _script() -> bytes:
    return (files("kpnet.export") / "reference.py").read_bytes()


def _line(path: Path, info: ExportInfo, source: str) -> str:
    parity = info.parity
    assert parity is not None
    spread = f", confidence to {parity.confidence:.1g}" if "confidence" in info.outputs else ""
    return (
        f"{path}: points to {parity.pixels:.1g} px as kpnet.Predictor gives them{spread}, on {parity.images} {source}"
    )


def _validation(run: Path, model: Any) -> tuple[KeypointDataset | None, list[Sample] | None, str]:
    """Return the run's validation data and inputs from it, None where it has none, and what they are called."""
    from kpnet.config.loading import run_config
    from kpnet.evaluation.run_data import validation_dataset
    from kpnet.export.parity import dataset_samples

    config = run_config(run)
    if config is None or (config.data.val is None and config.data.fold is None):
        return None, None, "drawn faces"
    dataset = validation_dataset(run, model)
    return dataset, list(dataset_samples(dataset, PARITY_IMAGES)), "validation images"


def _calibration_samples(run: Path) -> list[Sample]:
    from kpnet.config.loading import run_config
    from kpnet.data.build import build_splits
    from kpnet.export.parity import dataset_samples
    from kpnet.heads.base import window_of

    config = run_config(run)
    if config is None:
        raise KpnetError(f"int8 is calibrated on training images: {run} is no run folder, whose config names them")
    train, _ = build_splits(config, window_of(config.model.head), augment=False)
    return list(dataset_samples(train, CALIBRATION_IMAGES))
