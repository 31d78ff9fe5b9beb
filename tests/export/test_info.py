"""What an exported file says of a calibration that it does or does not apply."""

from __future__ import annotations

import dataclasses
import logging

import pytest
from support.exports import small

from kpnet.export import info
from kpnet.export.graph import ExportGraph
from kpnet.models.test_time import TestTime

FLIP = TestTime(flip=True)


@pytest.mark.parametrize(("fitted", "exported"), [(TestTime(), FLIP), (FLIP, TestTime()), (FLIP, FLIP)])
def test_a_calibration_of_other_views_is_left_out_and_said(
    fitted: TestTime, exported: TestTime, caplog: pytest.LogCaptureFixture
) -> None:
    info._warn_once.cache_clear()
    model = small("simcc", calibrated=True)
    assert model.calibration is not None
    model.calibration = dataclasses.replace(model.calibration, test_time=fitted)
    graph = ExportGraph(model, exported if exported.flip else None)
    with caplog.at_level(logging.WARNING, "kpnet"):
        found = info.describe(graph, "fp32", False, 16)
    same = fitted == exported
    assert (found.calibration is not None) == (found.dof is not None) == same
    assert ("without its calibration" in caplog.text) != same


def test_crops_of_instances_are_told() -> None:
    model = small("simcc")
    model.config = model.config.model_copy(update={"crop": "instance"})
    assert info.describe(ExportGraph(model, None), "fp32", False, 16).crop == "instance"
