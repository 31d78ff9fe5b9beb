"""Several models as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kpnet.core.errors import KpnetError
from kpnet.heads import Keypoints
from kpnet.models.build import load_model
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime, average

Model = KeypointModel | str | Path  # or the folder of one


class Ensemble(nn.Module):
    """The mean of what models say of the same images; where they differ, the covariance grows.

    They share the skeleton, the input size and the channels, or a KpnetError says what differs.
    """

    def __init__(self, models: Sequence[KeypointModel]) -> None:
        super().__init__()
        if not models:
            raise KpnetError("an ensemble needs at least one model")
        first = models[0]
        for model in models[1:]:
            for what, own, other in (
                ("points", first.skeleton.names, model.skeleton.names),
                ("input size", first.config.input_size, model.config.input_size),
                ("window of frames", first.frame_window, model.frame_window),
                ("channels", first.config.in_channels, model.config.in_channels),
                ("crops (about boxes, points or nothing)", first.config.crop, model.config.crop),
                ("box scale", first.config.box_scale, model.config.box_scale),
            ):
                if own != other:
                    raise KpnetError(f"models of an ensemble must have the same {what}: found {own} and {other}")
        if len({model.calibration is None for model in models}) > 1:
            raise KpnetError(
                "some models of the ensemble are calibrated and some are not: calibrate all of them or none"
            )
        self.models = nn.ModuleList(models)
        self.config, self.skeleton, self.frame_window = first.config, first.skeleton, first.frame_window

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([model(images) for model in self.models]).mean(0)

    def infer(self, images: Tensor, test_time: TestTime | None = None) -> Keypoints:
        """As `KeypointModel.infer`."""
        size = (images.shape[-2], images.shape[-1])
        return average([model.infer(images, test_time) for model in self.models], size)  # type: ignore[operator]


def load_ensemble(
    models: Model | Ensemble | Sequence[Model], *, decoding: str | None = None
) -> KeypointModel | Ensemble:
    """One model, or the ensemble of several; each is a model, a run folder, or a folder that `save` wrote.

    decoding: as in `load_model`, for those that are loaded."""
    if isinstance(models, Ensemble):
        return models
    given = [models] if isinstance(models, (KeypointModel, str, Path)) else list(models)
    loaded = [model if isinstance(model, KeypointModel) else load_model(model, decoding=decoding) for model in given]
    return loaded[0] if len(loaded) == 1 else Ensemble(loaded)
