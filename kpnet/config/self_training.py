"""The typed schema of self-training."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from kpnet.config.fields import Rate, StrictModel


class SelfTraining(StrictModel):
    """Train twice: on the labels, and again on the labels and on what the first model finds in `data.unlabelled`."""

    min_confidence: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Found points of at least this confidence count, weighted by it; the others do not."""
    per_label: Rate = 1.0
    """Images without labels for each labelled one, in an epoch of the second training; the others follow in turn."""


def _short(value: Any) -> Any:
    return ({} if value else None) if isinstance(value, bool) else value


SelfTrainingOption = Annotated[
    SelfTraining | None, BeforeValidator(_short, json_schema_input_type=SelfTraining | bool | None)
]
