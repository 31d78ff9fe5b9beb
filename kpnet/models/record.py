"""The measures that a trained model keeps in its folder, for its model card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpnet import __version__
from kpnet.core.files import plain, write_json
from kpnet.models.files import weights_digest

RECORD, FIGURE = "measures.json", "skeleton.png"  # beside the model's files
NEEDED = ("input_size", "images", "samples", "points", "nme_by", "nme_samples", "failure_threshold")  # of the measures


def make_record(model: Any, measures: Mapping[str, Any]) -> dict[str, Any]:
    """Return measures with what they hold for: weights, head (its decoding, too), input size and calibration."""
    calibration = None if model.calibration is None else dataclasses.asdict(model.calibration)
    values = {"kpnet": __version__, "weights": weights_digest(model), "head": model.config.head}
    values |= {"input_size": model.config.input_size, "calibration": calibration}
    record: dict[str, Any] = plain(json.loads(json.dumps({**values, "measures": dict(measures)})))
    return record


def write_record(folder: Path, model: Any, measures: Mapping[str, Any]) -> None:
    """Write the measures of a model on the validation data of its training into its folder."""
    write_json(folder / RECORD, {**make_record(model, measures), "of_training": True})


def read_record(folder: Path | None, model: Any) -> dict[str, Any] | None:
    """Return the record in a folder; None where there is none that holds for the model.

    It holds for the same weights and the same decoding, and has every measure that a card needs. Where the model was
    calibrated afterwards, reliability and presence are left out, and `outdated` is true.
    """
    try:
        record = None if folder is None else json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    measures = record.get("measures") if isinstance(record, dict) else None
    own = make_record(model, {})
    if not isinstance(record, dict) or not isinstance(measures, dict):
        return None
    if any(record.get(key) != own[key] for key in ("weights", "head", "input_size")):
        return None
    if not measures.keys() >= {*NEEDED}:
        return None
    record["outdated"] = record.get("calibration") != own["calibration"]
    if record["outdated"]:
        for name in ("reliability", "presence"):
            measures.pop(name, None)
    return record
