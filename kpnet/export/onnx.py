"""Write a model as one ONNX file."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch

from kpnet import __version__
from kpnet.core.errors import KpnetError, first_line
from kpnet.core.files import write_atomic
from kpnet.export.graph import ExportGraph, trace
from kpnet.export.info import Precision, describe
from kpnet.export.parity import DRAWN, Sample, check_parity, drawn_samples, measure_parity
from kpnet.export.precision import halve, quantize
from kpnet.inference.predictor import Predictor
from kpnet.models.ensemble import Ensemble
from kpnet.models.exported import INPUTS, INSTALL, KEY, ExportedModel, ExportInfo
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime

OPSET = 18


def to_onnx(
    model: KeypointModel | Ensemble,
    path: str | Path,
    *,
    flip_test: bool = False,
    any_size: bool = False,
    bits: int = 16,
    precision: Precision = "fp32",
    samples: Sequence[Sample] | None = None,
    calibration_samples: Sequence[Sample] | None = None,
) -> ExportInfo:
    """Write a model as an ONNX file that takes images and gives points in the original's pixels.

    The graph has the inputs `images`, uint8 (B, H, W, C), clips (B, T, H, W, C) where the head looks at a window, and
    `matrices`, float32 (B, 2, 3), from pixels of the original image to pixels of the input; and the outputs `points`
    (B, K, 2), and `confidence` (B, K), `covariance` (B, K, 2, 2), `presence` (B, K), `radius` and `joint_radius` (B, K)
    where the model has them, all float32 and in pixels of the original image. Normalisation,
    decoding and calibration are inside. The batch may have any size.

    What the graph predicts is compared with `kpnet.Predictor` before the file is written.

    Args:
        model: The model, or an ensemble. It stays as it is.
        path: The file to write. An existing one is replaced.
        flip_test: Average with the mirrored image, inside of the graph.
        any_size: Take images of other sizes than the model's input too, whose sides are multiples of the largest
            stride. For models that take them: no regression from a flattened map, no vision transformer.
        bits: Bits that the values of 16-bit image files fill, of which the file tells programs that read them.
        precision: `fp32`; `fp16`, weights and maps of half precision, of which the coordinates are still computed in
            single precision; or `int8`, convolutions on 8-bit integers, which are calibrated on images.
        samples: Inputs that the parity is measured on. None: drawn faces.
        calibration_samples: Inputs from the training data that the ranges of `int8` are calibrated on.

    Returns:
        What the file says of itself, the parity among it.

    Raises:
        ParityError: The points of the graph are more than a thousandth of a pixel from those of `kpnet.Predictor`, or
            what it knows of them too far apart; not checked for `fp16` and `int8`, which are further away.
        KpnetError: A part of the model cannot be exported, or the packages of the extra `kpnet[export]` are missing.

    Example:
        ```python
        model = kpnet.load_model("runs/facial_heatmap")
        info = kpnet.export.to_onnx(model, "facial_heatmap.onnx")
        print(info.parity)
        ```
    """
    _check_installed()
    if precision not in get_args(Precision):
        raise KpnetError(f'precision: expected {", ".join(get_args(Precision))}, found "{precision}"')
    if precision == "int8" and not calibration_samples:
        raise KpnetError("int8: expected images of the training data, which the ranges are calibrated on")
    test_time = TestTime(flip=True) if flip_test else None
    predictor = Predictor(model, test_time=test_time, device="cpu")
    graph = ExportGraph(predictor.model, test_time)
    data = _to_bytes(halve(graph) if precision == "fp16" else graph, any_size)
    if precision == "int8":
        data = quantize(data, [each.pixels for each in calibration_samples or ()])
    info = describe(graph, precision, any_size, bits)
    samples = list(drawn_samples(predictor, DRAWN)) if samples is None else samples
    parity = measure_parity(predictor, ExportedModel(_with_info(data, info), str(path)).run, samples)
    if precision == "fp32":
        check_parity(parity, predictor, samples)
    info = info.model_copy(update={"parity": parity})
    write_atomic(Path(path), _with_info(data, info))
    return info


def _check_installed() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise KpnetError(f"the export to ONNX needs {package}, which is not installed: {INSTALL}")


def _to_bytes(graph: ExportGraph, any_size: bool) -> bytes:
    program = trace(graph, any_size=any_size)
    try:
        with torch.no_grad(), _quiet():
            written: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(INPUTS),
                output_names=list(graph.output_names),
                verbose=False,
            )
            return bytes(written.model_proto.SerializeToString())
    except Exception as error:  # of an operation that ONNX lacks, or protobuf's limit of 2 GiB
        reason = first_line(cause if isinstance(cause := error.__cause__, Exception) else error, with_type=True)
        raise KpnetError(f"the model cannot be written as ONNX; --to torch may do ({reason})") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and advice to programmers off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for each in loggers:
                each.setLevel(logging.ERROR)
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)


def _with_info(data: bytes, info: ExportInfo) -> bytes:
    """Return an ONNX file with its description in it."""
    import onnx

    model = onnx.load_from_string(data)
    _clear_notes(model)
    onnx.helper.set_model_props(model, {KEY: json.dumps(info.model_dump(mode="json"))})
    model.producer_name, model.producer_version = "kpnet", __version__
    return bytes(model.SerializeToString())


def _clear_notes(message: Any) -> None:
    """Clear the exporter's notes in a message of protobuf and in those inside; they name folders of the machine."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for each in [value] if hasattr(value, "ListFields") else value:
                _clear_notes(each)
