"""What an exported file says of itself."""

from __future__ import annotations

import functools
import logging
import math
from typing import Literal

from kpnet import __version__
from kpnet.export.graph import ExportGraph, parts_of, size_step
from kpnet.models.ensemble import lost_with_views
from kpnet.models.exported import ExportInfo
from kpnet.models.files import weights_digest
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime

Precision = Literal["fp32", "fp16", "int8"]

_warn_once = functools.cache(logging.getLogger("kpnet").warning)


def describe(graph: ExportGraph, precision: Precision, any_size: bool, bits: int) -> ExportInfo:
    """Return what an exported file says of itself, without the parity."""
    model = graph.model
    views = TestTime() if graph.test_time is None else graph.test_time
    calibrations = [part.calibration for part in parts_of(model) if part.calibration is not None]
    used = [each for each in calibrations if each.test_time == views]
    if lost := lost_with_views(model, graph.test_time):
        was, now = ("without", "with") if views.flip else ("with", "without")
        _warn_once(f"the model's {lost} was made {was} the flip test, and it is exported {now} it: without its {lost}")
    config, skeleton = model.config, model.skeleton
    return ExportInfo(
        kpnet=__version__,
        names=list(skeleton.names),
        pairs=list(skeleton.pairs),
        edges=list(skeleton.edges),
        input_size=config.input_size,
        any_size=any_size,
        size_step=size_step(model) if any_size else 1,
        bits=bits,
        channels=1 if config.in_channels == 1 else 3,
        crop=config.crop,
        box_scale=config.box_scale,
        window=model.frame_window,
        outputs=graph.output_names,  # type: ignore[arg-type]
        dof=None if math.isinf(graph.dof) else graph.dof,
        flip_test=views.flip,
        precision=precision,
        weights=weights_digest(model),
        model={**config.model_dump(mode="json"), "pretrained": False},  # a path is of no use elsewhere
        skeleton=skeleton.to_dict(),
        calibration=used[0] if used else None,
        guarantee=model.guarantee_for(graph.test_time) if isinstance(model, KeypointModel) else None,
    )
