"""KeypointModel = backbone + head: building, saving and loading."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpnet.backbones import Backbone
from kpnet.backbones.pretrained import InputSpec
from kpnet.backbones.stages import Stages, find_stages
from kpnet.config.schema import ModelConfig
from kpnet.core.errors import KpnetError, NotFiniteError
from kpnet.core.runtime import evaluation_mode
from kpnet.core.skeleton import Skeleton
from kpnet.heads import Head, HeadOutput, Keypoints
from kpnet.models.calibration import Calibration
from kpnet.models.files import write_model
from kpnet.models.normalization import register_statistics
from kpnet.models.test_time import TestTime, infer_views


class KeypointModel(nn.Module):
    """Any backbone in any head. Images are float (B, C, H, W) in [0, 1]; the model normalises them itself.

    `model(images)` is (B, K, 2) in [-1, 1], differentiable. A (C, H, W) image is a batch of one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: Head, config: ModelConfig, skeleton: Skeleton) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.config = config
        self.skeleton = skeleton
        self.frozen_stages = 0
        self._stages: Stages | None = None
        self.calibration: Calibration | None = None
        register_statistics(self, config, backbone)

    def features(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps of images (B, C, H, W); each image's are standardised if the backbone is not `normed`.

        Of clips (B, T, C, H, W), for a head that looks at a window, they are (B, T, C, h, w).
        """
        if images.ndim == 3:
            images = images[None]
        if images.ndim == 5 and self.frame_window != (0, 0):
            if images.shape[1] <= sum(self.frame_window):
                needed = 1 + sum(self.frame_window)
                raise KpnetError(
                    f"expected clips of at least {needed} frames, the head's window, got {images.shape[1]}"
                )
            return [each.unflatten(0, images.shape[:2]) for each in self.features(images.flatten(0, 1))]
        if images.ndim != 4 or images.shape[1] != self.config.in_channels:
            raise KpnetError(f"expected images (B, {self.config.in_channels}, H, W), got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise KpnetError(f"expected float images in [0, 1], got {images.dtype}: divide by 255")
        size_divisor = self.head.size_divisor
        height, width = images.shape[-2:]
        if height % size_divisor or width % size_divisor:
            raise KpnetError(size_message((height, width), size_divisor))
        images = (images - self.mean) / self.std  # one grey channel broadcasts over a pretrained RGB stem's three
        maps: list[Tensor] = self.backbone(images)
        # Statistics over batches would explode where fine-tuning lets channels die.
        return maps if self.backbone.has_norm_layers else [F.layer_norm(each, each.shape[1:]) for each in maps]

    @property
    def frame_window(self) -> tuple[int, int]:
        """How many frames before and after the answered one the head looks at; (0, 0) but for a temporal one."""
        return self.head.frame_window

    def output(self, images: Tensor) -> HeadOutput:
        """What the head makes of images (B, C, H, W): the coordinates and what its loss needs.

        A temporal head takes clips (B, T, C, H, W) too, and answers every frame whose window is inside:
        B (T - past - future) rows.
        """
        return self.head(self.features(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.output(images).xy

    @torch.no_grad()
    def infer(self, images: Tensor, test_time: TestTime | None = None) -> Keypoints:
        """Keypoints with confidence, covariance and maps; in eval mode, after which each module is as it was.

        test_time: mirrored, scaled and shifted views too. A calibration holds for the views that it was fitted to;
        with others the answer is as the head gives it. A KpnetError where the answer is not finite.
        """
        images = images[None] if images.ndim == 3 else images
        with evaluation_mode(self):
            if test_time is None:
                answer = self._answer(images)
            else:
                answer = infer_views(self._answer, images, self.skeleton, test_time)
        if self.calibration is None or self.calibration.test_time != (test_time or TestTime()):
            return answer
        return self.calibration(answer, (images.shape[-2], images.shape[-1]))

    def _answer(self, images: Tensor) -> Keypoints:
        answer = self.head.infer(self.output(images))
        bad = ~answer.keypoints.isfinite().flatten(1).all(1)
        if bad.any():
            name = self.config.head if isinstance(self.config.head, str) else self.config.head.get("name")
            raise NotFiniteError(
                f'head "{name}": the answer to image {int(bad.nonzero()[0])} of the batch is not finite: '
                "look for NaN in the images and in the weights"
            )
        return answer

    @property
    def stages(self) -> Stages:
        """Of the backbone's parts, the finest map that they have a part in."""
        if self._stages is None:
            self._stages = find_stages(self.backbone, self.mean.shape[1], self.config.input_size)
        return self._stages

    def freeze_backbone(self, stages: int | None = None) -> None:
        """The layers of the backbone's first `stages` maps (None: of all) rest, and the others train.

        No gradient, and eval mode until unfrozen: BatchNorm statistics and dropout rest too. A KpnetError for more
        stages than there are.
        """
        count = len(self.backbone.strides)
        if stages is not None and not 0 <= stages <= count:
            raise KpnetError(f"freeze: expected 0 to {count} stages, the backbone's maps, found {stages}")
        self.frozen_stages = count if stages is None else stages
        partly = 0 < self.frozen_stages < count
        for name, parameter in self.backbone.named_parameters():
            rests = self.stages.parameters[name] < self.frozen_stages if partly else self.frozen_stages > 0
            parameter.requires_grad_(not rests)
        self.train(self.training)

    def unfreeze_backbone(self) -> None:
        """The whole backbone trains again."""
        self.freeze_backbone(0)

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages in (0, len(self.backbone.strides)):
            return list(self.backbone.modules()) if self.frozen_stages else []
        # Found by their paths: synchronised batch norms take the others' places.
        paths = (path for path, stage in self.stages.modules.items() if stage < self.frozen_stages)
        return [self.backbone.get_submodule(path) for path in paths]

    def train(self, mode: bool = True) -> KeypointModel:
        super().train(mode)
        for module in self._frozen_modules():
            module.training = False
        return self

    def save(self, folder: str | Path) -> None:
        """`model.safetensors` and `model.yaml` in `folder`, each written beside and renamed."""
        mean, std = self.config.mean or self.backbone.mean, self.config.std or self.backbone.std
        input_spec = InputSpec(channels=self.backbone.in_channels, mean=list(mean), std=list(std))
        values = {"model": self.config.model_dump(mode="json"), "skeleton": self.skeleton.to_dict()}
        if self.calibration is not None:
            values["calibration"] = dataclasses.asdict(self.calibration)
        write_model(folder, self, input_spec, values)


def size_message(size: tuple[int, int], size_divisor: int) -> str:
    near = [max(size_divisor, round(side / size_divisor) * size_divisor) for side in size]
    return (
        f"{size[0]}x{size[1]} cannot be served: height and width must be multiples of {size_divisor}; nearest: {near}"
    )
