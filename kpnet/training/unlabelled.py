"""Learning from unlabelled images: a teacher, the average of the weights, labels them for its student.

Tarvainen and Valpola 2017, "Mean teachers are better role models".
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from kpnet.config.schema import Config
from kpnet.config.unlabelled import UnlabelledTraining
from kpnet.coordinates import Size, normalized_to_pixel
from kpnet.core.errors import KpnetError
from kpnet.core.registry import split_spec
from kpnet.core.runtime import evaluation_copy
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset
from kpnet.data.augmentations import student_augmentation
from kpnet.data.transforms.moved_points import move_points
from kpnet.data.unlabelled import read_unlabelled
from kpnet.data.wrappers.views import TwoViews
from kpnet.evaluation.accumulators import WeightedMean
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime
from kpnet.training.weight_averaging import MovingAverage

if TYPE_CHECKING:  # it imports albumentations
    from kpnet.data.transforms.device import DeviceAugment

_log = logging.getLogger("kpnet")

LOST = 0.3  # mean trust in the teacher's points below which it is lost, or still too weak
JUDGED = 0.5  # fraction of the training after which it is judged; before, points of little trust count little


class UnlabelledData(NamedTuple):
    """The unlabelled images of a training.

    Attributes:
        images: The images.
        batch_size: How many of them a step takes.
        teaching: What is learned from them.
    """

    images: TwoViews
    batch_size: int
    teaching: Teaching


def build_unlabelled(
    config: Config, model: KeypointModel, train: KeypointDataset, val: KeypointDataset | None
) -> UnlabelledData | None:
    """Build what a training learns from `data.unlabelled`.

    Args:
        config: The config.
        model: The model that is trained.
        train: The labelled images; those among the unlabelled ones are left out, as are the validation's.
        val: The validation data, or None.

    Returns:
        The images and how they are learned from; None without `data.unlabelled`, and in self-training, which has them
        already.

    Raises:
        KpnetError: The images cannot be read, or the model cannot learn from them.
    """
    if not config.data.unlabelled:
        if config.train.unlabelled is not None:
            raise KpnetError("train.unlabelled: there are no unlabelled images: give data.unlabelled")
        return None
    if config.train.self_train is not None:
        return None
    _check_model(config, model)
    images = read_unlabelled(config, model.skeleton, [train] if val is None else [train, val])
    settings = config.train.unlabelled or UnlabelledTraining()
    if settings.start + settings.ramp > 1 + 1e-6:  # as a message rounds them
        raise KpnetError(
            "train.unlabelled: start + ramp: expected at most 1, the end of the training, found "
            f"{settings.start + settings.ramp:g}; after a start of {settings.start:g} give a ramp of at most "
            f"{1 - settings.start:g}"
        )
    on_cpu, on_device = student_augmentation(config, model.skeleton)
    if not (config.data.transforms if settings.transforms is None else settings.transforms):
        _log.warning(
            "data.unlabelled: without data.transforms the student sees the very image that its teacher saw, from which "
            "it learns little: give data.transforms, or train.unlabelled.transforms"
        )
    teaching = Teaching(settings, model.skeleton, config.model.input_size, on_device)
    return UnlabelledData(TwoViews(images, on_cpu), settings.batch_size or config.train.batch_size, teaching)


def _check_model(config: Config, model: KeypointModel) -> None:
    """Raise for models that cannot learn from unlabelled images."""
    name = split_spec(config.model.head, "head")[0]
    if model.finds_instances:
        raise KpnetError("data.unlabelled: a model that finds instances cannot learn from unlabelled images yet")
    if model.frame_window != (0, 0):
        raise KpnetError(f'data.unlabelled: head "{name}" looks at several frames, and these are single images')
    if config.data.crop is not None:
        raise KpnetError("data.unlabelled: without labels there is no box to crop: crop the images, or leave data.crop")
    if not model.head.predicts_covariance:
        raise KpnetError(
            f'data.unlabelled: head "{name}" has no uncertainty, by which the teacher\'s points are weighted: '
            "use heatmap, simcc, offset, rle, gaussian_nll or laplace_nll"
        )


class Teaching(nn.Module):
    """What a training learns from unlabelled images: the points that its teacher gives them.

    The teacher predicts each image and its mirror image, or, where the skeleton has no sides, the image at 0.9 times
    its size. The mean of both is the pseudo-label. It counts by the teacher's confidence times exp(-d² / (2 a²)), d the
    distance of the two and a the option `agreement`.

    Args:
        settings: The section `train.unlabelled`.
        skeleton: The keypoints.
        size: Height and width of the images.
        augment: Augmentation of the student's images on the device, or None.

    Attributes:
        lost: Whether the teacher's views agreed too little, so that the images no longer count.
    """

    def __init__(
        self,
        settings: UnlabelledTraining,
        skeleton: Skeleton,
        size: Size,
        augment: DeviceAugment | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.size, self.augment = settings, size, augment
        self.permutation = list(skeleton.flip_permutation)
        flip = skeleton.can_mirror
        self.views = TestTime(flip=flip, scales=(1.0,) if flip else (1.0, 0.9)).views()
        self.apart, self.trust = WeightedMean(), WeightedMean()
        self.lost = False

    def weight(self, progress: float) -> float:
        """Return the weight of the unlabelled images at a fraction of the training; 0 once the teacher is lost."""
        begun = progress - self.settings.start
        if self.lost or begun < 0:
            return 0.0
        return self.settings.weight * (min(1.0, begun / self.settings.ramp) if self.settings.ramp else 1.0)

    @torch.no_grad()
    def label(self, teacher: KeypointModel, batch: dict[str, Tensor], draws: torch.Generator) -> dict[str, Any]:
        """Return a batch for the student: its images with the teacher's points, moved as the images are.

        Args:
            teacher: The average of the weights.
            batch: A batch of `TwoViews`.
            draws: What the augmentation on the device follows from.

        Returns:
            `image`, `keypoints`, `visible` and `weight`, as a batch of a `KeypointDataset`.
        """
        xy, trust = self._points(teacher, batch["plain"])
        points = {"keypoints": xy, "visible": torch.ones_like(trust, dtype=torch.bool), "weight": trust}
        if "motion" in batch:
            points = move_points(points, batch["motion"], batch["mirrored"], self.permutation, self.size)
        taught = {**points, "image": batch.get("image", batch["plain"])}
        return taught if self.augment is None else self.augment(taught, draws)

    def _points(self, teacher: KeypointModel, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean points (B, K, 2) of the views, and what each counts (B, K)."""
        teacher = evaluation_copy(teacher)
        # Not `teacher.infer`, which looks for NaN, for which a GPU would have to wait.
        found = [
            view.invert(teacher.head.infer(teacher.output(view.apply(images))), images, self.permutation)
            for view in self.views
        ]
        first, second = (each.keypoints.float() for each in found)
        pixels = [normalized_to_pixel(each, self.size) for each in (first, second)]
        apart = (pixels[0] - pixels[1]).norm(dim=-1)
        width = self.settings.agreement * max(self.size)
        confidence = torch.stack([each.confidence.float() for each in found if each.confidence is not None]).mean(0)
        trust = confidence * torch.exp(-apart.square() / (2 * width**2))
        self.apart.update(apart, torch.ones_like(apart))
        self.trust.update(trust, torch.ones_like(trust))
        return (first + second) / 2, trust

    def end_epoch(self, progress: float) -> dict[str, float]:
        """Return the epoch's measures, and see whether the teacher is lost; every process has to call it.

        Args:
            progress: The fraction of the training that is done.

        Returns:
            `agreement_px`, the mean distance of the teacher's two views in pixels of the input, and `trust`, the mean
            of what its points count; nothing before the images count.
        """
        apart, trust = (each.compute().item() if each.update_called else math.nan for each in (self.apart, self.trust))
        self.apart.reset()
        self.trust.reset()
        if math.isnan(trust):
            return {}
        if progress >= max(JUDGED, self.settings.start + self.settings.ramp) and trust < LOST:
            self.lost = True
        return {"agreement_px": apart, "trust": trust}

    def lost_message(self) -> str:
        """Return a line that says that the teacher is lost."""
        return (
            "data.unlabelled: the teacher is lost: its points in two views of an image do not agree, or it is not sure "
            f"of them (trust below {LOST:g}): these images no longer count; either they are of another kind than the "
            "labelled ones, or the model is too weak yet: give more labels or more epochs"
        )


def teacher_of(trainer: pl.Trainer) -> KeypointModel:
    """Return the average of the weights: that of `train.average: ema`, or else the teacher's own.

    Args:
        trainer: The training's Trainer.

    Returns:
        The model.
    """
    averages = [each for each in trainer.callbacks if isinstance(each, MovingAverage)]  # type: ignore[attr-defined]
    average = averages[0]._average_model
    assert average is not None
    model = average.module.model
    assert isinstance(model, KeypointModel)
    return model
