"""Write a model as one self-contained web page."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from kpnet.export.onnx import to_onnx
from kpnet.export.page.build import write_page
from kpnet.export.page.runtime import load_runtime
from kpnet.export.page.weights import round_weights
from kpnet.export.parity import DRAWN, Sample, drawn_samples, measure_parity
from kpnet.inference.predictor import Predictor
from kpnet.models.ensemble import Ensemble
from kpnet.models.exported import ExportedModel, ExportInfo
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime

MOST_PIXELS = 0.1
"""Largest distance, in pixels of the original image, by which rounding the weights may move a point."""
BITS = (10, 14)  # of a weight's mantissa, that are tried; 10 are those of half precision


def to_html(
    model: KeypointModel | Ensemble,
    path: str | Path,
    *,
    title: str = "kpnet",
    flip_test: bool = False,
    bits: int = 16,
    samples: Sequence[Sample] | None = None,
    runtime: str | Path | None = None,
) -> ExportInfo:
    """Write a model as one web page, which predicts images and the camera in the browser and works without a network.

    The page holds the graph of `kpnet.export.to_onnx` and ONNX Runtime Web. Weights are rounded to 10 or 14 bits, which
    compress well, if that moves no point by more than a tenth of a pixel; the graph computes in single precision.

    Args:
        model: The model, or an ensemble. It stays as it is.
        path: The HTML file to write. An existing one is replaced.
        title: The page's heading.
        flip_test: Average with the mirrored image, inside of the graph.
        bits: Bits that the values of 16-bit image files fill; browsers read all 16.
        samples: Inputs that the parity is measured on, beside drawn faces. None: drawn faces alone.
        runtime: A folder that holds the files of onnxruntime-web. None: the pinned package, from the user's cache or
            by `npm pack`.

    Returns:
        What the file says of itself; its parity is that of the rounded weights.

    Raises:
        ParityError: The points of the graph are more than a thousandth of a pixel from those of `kpnet.Predictor`.
        KpnetError: A part of the model cannot be exported, the packages of the extra `kpnet[export]` are missing, or
            the runtime can neither be found nor fetched.

    Example:
        ```python
        model = kpnet.load_model("runs/facial_heatmap")
        kpnet.export.to_html(model, "facial_heatmap.html", title="Facial points")
        ```
    """
    found = load_runtime(runtime)  # before the minutes that an export may take
    predictor = Predictor(model, test_time=TestTime(flip=True) if flip_test else None, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "model.onnx"
        info = to_onnx(model, exact, flip_test=flip_test, bits=bits, samples=samples)
        data = exact.read_bytes()
    measured = [*(samples or ()), *drawn_samples(predictor, DRAWN)]
    for bits in BITS:
        rounded = round_weights(data, bits)
        parity = measure_parity(predictor, ExportedModel(rounded, str(path)).run, measured)
        if parity.pixels <= MOST_PIXELS:
            data, info = rounded, info.model_copy(update={"parity": parity})
            break
    write_page(data, info.model_dump(mode="json"), path, title=title, runtime=found)
    return info
