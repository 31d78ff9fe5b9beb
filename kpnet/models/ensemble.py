"""An ensemble: several models as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kpnet.core.errors import KpnetError
from kpnet.core.hub_address import hub_suffix
from kpnet.core.model_folder import local_file
from kpnet.heads import Keypoints
from kpnet.models.build import load_model
from kpnet.models.exported import SUFFIX, ExportedModel
from kpnet.models.folding import fold_batch_norms
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime, average

if TYPE_CHECKING:
    from kpnet.heads.centers import Detections

Model = KeypointModel | ExportedModel | str | Path  # a model, its folder, or the file that it was exported to


class Ensemble(nn.Module):
    """Several models that predict together: the mean of their points, with a covariance that grows where they differ.

    The instances are those that the first model finds, if it finds any.

    Args:
        models: Models of the same skeleton, input size, channels, crop and frame window; all calibrated, or none.

    Raises:
        KpnetError: There is no model, the models differ in one of these, or the head of one finds instances itself.

    Example:
        ```python
        ensemble = Ensemble([kpnet.load_model("runs/a"), kpnet.load_model("runs/b")])
        out = ensemble.infer(images)
        ```
    """

    def __init__(self, models: Sequence[KeypointModel | ExportedModel]) -> None:
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
        if len({_is_calibrated(model) for model in models}) > 1:
            raise KpnetError(
                "some models of the ensemble are calibrated and some are not: calibrate all of them or none"
            )
        for model in models:
            if model.finds_instances and model.finder is None:
                raise KpnetError(
                    'an ensemble averages the points of one instance, which models with the head "centers" find each '
                    "for itself: predict with one of them, or train with model.instances=true"
                )
        self.models = nn.ModuleList(models)
        self.config, self.skeleton, self.frame_window = first.config, first.skeleton, first.frame_window

    @property
    def point_values(self) -> tuple[str, ...]:
        """Names of what `infer` gives for each point besides confidence and covariance: `presence` if all have it."""
        return ("presence",) if all("presence" in each.point_values for each in self.models) else ()  # type: ignore[operator]

    @property
    def finds_instances(self) -> bool:
        """Whether the first model finds the instances of whole images."""
        return bool(self.models[0].finds_instances)

    @property
    def finder(self) -> Any:
        """The first model's network that finds them, or None."""
        return self.models[0].finder

    @property
    def instance_calibration(self) -> Any:
        """The first model's calibration of the instances' scores, or None."""
        return getattr(self.models[0], "instance_calibration", None)

    def find(
        self, images: Tensor, threshold: float | None = None, max_instances: int | None = None
    ) -> list[Detections]:
        """Find the instances of whole images with the first model; see `KeypointModel.find`."""
        return self.models[0].find(images, threshold, max_instances)  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        """Compute the mean of the models' keypoints.

        Args:
            images: Images (B, C, H, W), float in [0, 1].

        Returns:
            Keypoints (B, K, 2) in [-1, 1], differentiable.
        """
        return torch.stack([model(images) for model in self.models]).mean(0)

    def infer(self, images: Tensor, test_time: TestTime | None = None) -> Keypoints:
        """Predict keypoints and their uncertainty with all models; see `KeypointModel.infer`.

        Args:
            images: Images (B, C, H, W), float in [0, 1].
            test_time: Average over mirrored, scaled and shifted views, too.

        Returns:
            The mean of the models' predictions; the covariance is that of their mixture.

        Raises:
            KpnetError: The images do not fit the models, or a prediction is not finite.
        """
        size = (images.shape[-2], images.shape[-1])
        return average([model.infer(images, test_time) for model in self.models], size)  # type: ignore[operator]


def load_ensemble(
    models: Model | Ensemble | Sequence[Model], *, decoding: str | None = None, fold: bool = False
) -> KeypointModel | ExportedModel | Ensemble:
    """Load one model, or several as an ensemble.

    Args:
        models: One or several models, run folders, folders that `KeypointModel.save` wrote, ONNX files that
            `kpnet export` wrote, or addresses of either on the hub (`hf://OWNER/NAME`). An ensemble is returned as it
            is, and a model in a wrapper of torch (`torch.compile`, DataParallel, AveragedModel) without it.
        decoding: Decoding to use instead of the trained one, for models that are loaded; see `load_model`.
        fold: Fold the batch norms of models that are loaded: they predict faster, and can be neither trained nor saved.

    Returns:
        The model, or an ensemble where there are several.

    Raises:
        KpnetError: A model cannot be loaded, or the models do not fit together.
    """
    given = [_unwrap(each) for each in (models if isinstance(models, (list, tuple)) else [models])]
    if len(given) == 1 and isinstance(given[0], Ensemble):
        return given[0]
    loaded = [_load(each, decoding, fold) if isinstance(each, (str, Path)) else each for each in given]
    for each in loaded:
        if not isinstance(each, (KeypointModel, ExportedModel)):
            raise KpnetError(f"expected a keypoint model, or the folder of one, found a {type(each).__name__}")
    return loaded[0] if len(loaded) == 1 else Ensemble(loaded)


def lost_with_views(model: KeypointModel | ExportedModel | Ensemble, test_time: TestTime | None) -> str:
    """Return what of calibration and guarantee a model has, but not for predictions of some test-time views.

    A guarantee is that of one model: an ensemble has none.

    Args:
        model: The model, or an ensemble of them.
        test_time: The views; None: the image alone.

    Returns:
        Their names for a message, such as "calibration and guarantee"; "" if nothing is lost.
    """
    parts = list(model.models) if isinstance(model, Ensemble) else [model]
    own = [each for each in parts if isinstance(each, KeypointModel)]
    lost = {
        "calibration": any(each.calibration and not each.calibration_for(test_time) for each in own),
        "guarantee": any(each.guarantee and (len(parts) > 1 or not each.guarantee_for(test_time)) for each in own),
    }
    return " and ".join(name for name, is_lost in lost.items() if is_lost)


def _load(path: str | Path, decoding: str | None, fold: bool) -> KeypointModel | ExportedModel:
    if hub_suffix(path) != SUFFIX:
        model = load_model(path, decoding=decoding)
        return fold_batch_norms(model) if fold else model
    if decoding is not None:
        raise KpnetError(f"{path}: its decoding is part of the file: export it with another one")
    return ExportedModel(local_file(path))


def _is_calibrated(model: KeypointModel | ExportedModel) -> bool:
    return (model.info if isinstance(model, ExportedModel) else model).calibration is not None


def _unwrap(model: Any) -> Any:
    """Return the model inside of torch's wrappers: `torch.compile`, DataParallel, AveragedModel and the like."""
    while isinstance(model, nn.Module) and not isinstance(model, (KeypointModel, ExportedModel, Ensemble)):
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model
