"""Write a model as a `torch.export` archive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule

from kpnet.core.files import replacing
from kpnet.export.graph import ExportGraph, trace
from kpnet.export.info import describe
from kpnet.export.parity import DRAWN, Sample, check_parity, drawn_samples, measure_parity
from kpnet.inference.predictor import Predictor
from kpnet.models.ensemble import Ensemble
from kpnet.models.exported import ExportInfo
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime

DESCRIPTION = "kpnet.json"


def to_torch(
    model: KeypointModel | Ensemble,
    path: str | Path,
    *,
    flip_test: bool = False,
    any_size: bool = False,
    bits: int = 16,
    samples: Sequence[Sample] | None = None,
) -> ExportInfo:
    """Write a model as a `torch.export` archive (.pt2), which runs without kpnet.

    Inputs and outputs are those of `kpnet.export.to_onnx`, which describes the arguments, too. The archive's extra file
    `kpnet.json` holds what it says of itself.

    Raises:
        ParityError: The points are more than a thousandth of a pixel from those of `kpnet.Predictor`.
        KpnetError: A part of the model cannot be exported.

    Example:
        ```python
        kpnet.export.to_torch(kpnet.load_model("runs/facial_heatmap"), "facial_heatmap.pt2")
        network = torch.export.load("facial_heatmap.pt2").module()
        points, confidence, covariance = network(images, matrices)
        ```
    """
    test_time = TestTime(flip=True) if flip_test else None
    predictor = Predictor(model, test_time=test_time, device="cpu")
    graph = ExportGraph(predictor.model, test_time)
    program = trace(graph, any_size=any_size)
    network = program.module()

    @torch.no_grad()
    def run(images: np.ndarray, matrices: np.ndarray) -> dict[str, np.ndarray]:
        found: Any = network(torch.from_numpy(images), torch.from_numpy(matrices))
        return {name: each.numpy() for name, each in zip(graph.output_names, found, strict=True)}

    samples = list(drawn_samples(predictor, DRAWN)) if samples is None else samples
    parity = measure_parity(predictor, run, samples)
    check_parity(parity, predictor, samples)
    info = describe(graph, "fp32", any_size, bits).model_copy(update={"parity": parity})
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it names folders of the machine
    with replacing(Path(path)) as beside:
        torch.export.save(program, beside, extra_files={DESCRIPTION: json.dumps(info.model_dump(mode="json"))})
    return info
