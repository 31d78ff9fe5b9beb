"""The keypoint model: a backbone and a head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpnet.backbones import Backbone
from kpnet.backbones.pretrained import InputSpec
from kpnet.backbones.stages import Stages, find_stages
from kpnet.config.schema import ModelConfig
from kpnet.core.errors import KpnetError
from kpnet.core.registry import split_spec
from kpnet.core.runtime import evaluation_copy, is_tracing
from kpnet.core.skeleton import Skeleton
from kpnet.heads import Head, HeadOutput, Keypoints
from kpnet.models.calibration import Calibration
from kpnet.models.checks import check_finite, check_rows, size_message
from kpnet.models.files import write_model
from kpnet.models.guarantee import Guarantee
from kpnet.models.hub import HubMixin
from kpnet.models.instance_calibration import InstanceCalibration
from kpnet.models.loss_terms import LossTerms, in_ddp_forward, pair_terms
from kpnet.models.memory_format import set_memory_format
from kpnet.models.neck import Neck
from kpnet.models.normalization import register_statistics
from kpnet.models.presence import PresenceBranch, presence_terms, with_presence
from kpnet.models.test_time import TestTime, infer_views, read_views
from kpnet.models.watch import WatchReference

if TYPE_CHECKING:
    from kpnet.heads.centers import CentersHead, Detections
    from kpnet.models.detectors import Detector


_Made = TypeVar("_Made", Calibration, Guarantee)


class KeypointModel(HubMixin, nn.Module):
    """A backbone and a head as one network; `kpnet.build_model` and `kpnet.load_model` make one.

    Images are float (B, C, H, W) in [0, 1], and the model normalises them itself; one image (C, H, W) is a batch of
    one. Where the head looks at a window of frames, clips (B, T, C, H, W) are taken as well.

    Args:
        backbone: Images to feature maps.
        head: Feature maps to keypoints.
        config: What backbone and head were built from; it is saved with the model.
        skeleton: Names of the keypoints.
        finder: Finds the instances of an image, whose crops the model then sees: a model with the head `centers`, or a
            detector of `kpnet.models.detectors`. None: the model sees one instance in each of its images.
        neck: Brings the feature maps to the strides that the head needs; None: the head takes them as they are.
        presence: Predicts which points are there; None: nothing does.

    Attributes:
        mean: Mean (1, C, 1, 1) that is subtracted from images.
        std: Standard deviation (1, C, 1, 1) that images are divided by.
        frozen_stages: How many of the backbone's maps are frozen, finest first.
        unused_parameters: Names of the backbone's parameters that the head's output does not depend on; they are
            frozen.
        calibration: Calibrates the predictions of `infer`; None: they stay as the head makes them.
        guarantee: Gives the predictions of `infer` guaranteed radii; None: they have none.
        instance_calibration: Calibrates the scores of the instances that `find` finds; None: they stay as they are.
        watch_reference: The summary of held-out data that `kpnet watch` compares new data with; None: there is none.
        folder: The folder that it was loaded from; None: none.

    Raises:
        KpnetError: The config has a wrong number of values for `mean` or `std`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        config: ModelConfig,
        skeleton: Skeleton,
        finder: KeypointModel | Detector | None = None,
        neck: Neck | None = None,
        presence: PresenceBranch | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.presence = presence
        self.finder = finder
        self.config = config
        self.skeleton = skeleton
        self.frozen_stages = 0
        self.unused_parameters: frozenset[str] = frozenset()
        self._stages: Stages | None = None
        self.calibration: Calibration | None = None
        self.guarantee: Guarantee | None = None
        self.instance_calibration: InstanceCalibration | None = None
        self.watch_reference: WatchReference | None = None
        self._contiguous = (False, False)  # whether backbone and head want contiguous images and maps
        register_statistics(self, config, backbone)

    def choose_memory_format(self) -> None:
        """Put backbone and head each into channels_last where that is safe; the others get contiguous inputs."""
        self._contiguous = (not set_memory_format(self.backbone), not set_memory_format(self.head))

    def features(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps that the head takes: the backbone's, after the neck if there is one.

        The maps of each image are standardised if the backbone has no norm layers.

        Args:
            images: Images (B, C, H, W), float in [0, 1]; clips (B, T, C, H, W) where the head looks at a window.

        Returns:
            The maps (B, C, h, w), or (B, T, C, h, w) of clips, finest first.

        Raises:
            KpnetError: Shape, size or dtype of the images do not fit the model.
        """
        images = _batch(images)
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
        if images.device != self.mean.device:
            raise KpnetError(f"the images are on {images.device}, the model is on {self.mean.device}: move one of them")
        images = images.to(self.mean.dtype)
        images = (images - self.mean) / self.std  # a grey channel broadcasts to the three of a pretrained RGB backbone
        contiguous_images, contiguous_maps = self._contiguous
        maps: list[Tensor] = self.backbone(images.contiguous() if contiguous_images else images)
        if not self.backbone.has_norm_layers:
            # Statistics over batches would explode where fine-tuning lets channels die.
            maps = [F.layer_norm(each, each.shape[1:]) for each in maps]
        if self.neck is not None:
            maps = self.neck(maps, (height, width))
        return [each.contiguous() for each in maps] if contiguous_maps else maps

    @property
    def frame_window(self) -> tuple[int, int]:
        """Frames before and after the predicted one that the head looks at; (0, 0) unless it is a temporal head."""
        return self.head.frame_window

    @property
    def point_values(self) -> tuple[str, ...]:
        """Names of what `infer` gives for each point besides confidence and covariance."""
        radii = () if self.guarantee is None else ("radius", "joint_radius")
        return (*(() if self.presence is None else ("presence",)), *radii)

    @property
    def finds_instances(self) -> bool:
        """Whether `find` finds the instances of whole images."""
        return self.finder is not None or self.head.finds_instances

    @torch.no_grad()
    def find(
        self, images: Tensor, threshold: float | None = None, max_instances: int | None = None
    ) -> list[Detections]:
        """Find the instances of whole images, 0 to N in each.

        Args:
            images: Images (B, C, H, W), float in [0, 1]; of the finder's input size where there is one
                (`model.finder.config.input_size`), else of the model's.
            threshold: Least score of an instance; None: that of the head.
            max_instances: How many are kept at most, those of the highest scores; None: as many as the head allows.

        Returns:
            The instances of each image, best first: boxes and scores, and points where the head `centers` finds them.

        Raises:
            KpnetError: The model finds no instances, or the images do not fit it.

        Example:
            ```python
            model = kpnet.load_model("runs/flies")
            boxes = model.find(images)[0].boxes  # (N, 4) in [-1, 1]
            ```
        """
        if self.finder is not None:
            return self.finder.find(images, threshold, max_instances)
        if not self.head.finds_instances:
            raise KpnetError(
                "find: this model sees one instance in each image: train with model.instances=true, or with the head "
                "centers"
            )
        images, model = _batch(images), evaluation_copy(self)
        head = cast("CentersHead", model.head)
        output = head(model.features(images))
        check_rows(output.centers, 'head "centers"')
        found = head.find(output, threshold, max_instances)
        size = (images.shape[-2], images.shape[-1])
        for each in found:
            each.points = None if each.points is None else self._finish(each.points, size)
        return found

    @torch.no_grad()
    def read(self, images: Tensor, boxes: Tensor, test_time: TestTime | None = None) -> Keypoints:
        """Predict the points of known instances of whole images, for a model with the head `centers`.

        Args:
            images: Images (B, C, H, W), float in [0, 1].
            boxes: Boxes (B, M, 4), edges x0, y0, x1, y1 in [-1, 1]; rows of NaN are left out.
            test_time: Average over mirrored, scaled and shifted views, as in `infer`.

        Returns:
            Keypoints (N, K, 2) of the N boxes that are not NaN, in their order.

        Raises:
            KpnetError: The images do not fit the model.
        """
        images, model = _batch(images), evaluation_copy(self)
        head, given = cast("CentersHead", model.head), boxes.isfinite().all(-1)

        def read_once(images: Tensor, boxes: Tensor) -> Keypoints:
            return head.read(head(model.features(images)), boxes).map(lambda rows: rows[given])

        if test_time is None:
            kept = read_once(images, boxes)
        else:
            kept = read_views(read_once, images, boxes, self.skeleton, test_time)
        check_finite(kept, 'head "centers"')
        return self._finish(kept, (images.shape[-2], images.shape[-1]), test_time)

    def calibration_for(self, test_time: TestTime | None) -> Calibration | None:
        """Return the calibration of the points for predictions of some test-time views.

        Args:
            test_time: The views; None: the image alone.

        Returns:
            The calibration, or None if there is none or it holds for other views only.
        """
        return _held(self.calibration, test_time)

    def guarantee_for(self, test_time: TestTime | None) -> Guarantee | None:
        """Return the guarantee for predictions of some test-time views.

        Args:
            test_time: The views; None: the image alone.

        Returns:
            The guarantee, or None if there is none or it holds for other views only.
        """
        return _held(self.guarantee, test_time)

    def output(self, images: Tensor) -> HeadOutput:
        """Compute the head's output: the coordinates and what its loss needs.

        Args:
            images: Images (B, C, H, W), float in [0, 1]; clips (B, T, C, H, W) where the head looks at a window.

        Returns:
            The output of B images. In clips, every frame whose window lies inside is predicted:
            B (T - past - future) rows.

        Raises:
            KpnetError: Shape, size or dtype of the images do not fit the model.
        """
        features = self.features(images)
        output: HeadOutput = self.head(features)
        if self.presence is not None:
            with torch.no_grad():
                predicted = self.head.infer(output)
            output.presence = self.presence(self._predicted_frames(features), predicted)
        return output

    def _predicted_frames(self, features: list[Tensor]) -> list[Tensor]:
        """Return the maps (B, C, h, w) of those frames of clips that are predicted; all maps of single images."""
        if features[0].ndim == 4:
            return features
        past, future = self.frame_window
        return [each[:, past : each.shape[1] - future].flatten(0, 1) for each in features]

    def forward(self, images: Tensor) -> Tensor:
        """Compute keypoints for training, for an export or as a part of another network.

        Args:
            images: Images (B, C, H, W), float in [0, 1].

        Returns:
            Keypoints (B, K, 2) in [-1, 1], x before y. In training mode those that the loss sees, differentiable; in
            eval mode those that `infer` predicts, by the head's `decoding`.
        """
        output: HeadOutput = self.head(self.features(images))
        return output.xy if self.training else self.head.decode(output)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile backbone and head in place, so that training, `infer` and `kpnet.Predictor` run the compiled code.

        `torch.compile(model)` makes a wrapper instead, whose code only a call of the wrapper runs.

        Args:
            *args: Passed to `torch.compile`.
            **kwargs: Passed to `torch.compile`.
        """
        self.backbone.compile(*args, **kwargs)
        self.head.compile(*args, **kwargs)
        if self.presence is not None:
            self.presence.compile(*args, **kwargs)

    def loss(self, batch: Mapping[str, Tensor], output: HeadOutput | None = None) -> Tensor:
        """Compute the loss of a batch, as kpnet's own training does.

        Args:
            batch: A batch of a `kpnet.data.KeypointDataset`, or a mapping of your own: `image` (B, C, H, W), float in
                [0, 1]; `keypoints` (B, K, 2) in [-1, 1], NaN where absent; and where you have them `visible`, bool
                (B, K), and `weight` (B, K), the weights of the points. An absent point, one that is not visible, and
                one of weight 0 touch neither the loss nor the gradient. A model that predicts presence learns it from
                `present` (B, K): 1 where a point is there, 0 where it is not, NaN where that is not known.
            output: What `output(batch["image"])` returned, where it is there already.

        Returns:
            The loss, a scalar: a mean over the points that count, 0 if there is none. Called by the `forward` of a
            module in `DistributedDataParallel`, with gradients, it is weighted so that the gradients are those of one
            process with the batches of all of them.

        Raises:
            KpnetError: The batch lacks `image` or `keypoints`, or the images do not fit the model.
            ValueError: The shapes of points and weights do not fit.

        Example:
            ```python
            loss = model.loss(batch)
            loss.backward()
            ```
        """
        terms = self.loss_terms(batch, output)
        return terms.over_ranks() if in_ddp_forward() else terms.values.sum()

    def loss_terms(self, batch: Mapping[str, Tensor], output: HeadOutput | None = None) -> LossTerms:
        """Compute the terms of a batch's loss, each with the number of points that it is a mean over.

        Args:
            batch: A batch, as `loss` takes it. The head `centers` takes batches of `kpnet.data.Scenes` too, and a
                finder learns from `batch["scene"]`.
            output: What `output(batch["image"])` returned, where it is there already.

        Returns:
            The terms of this process.

        Raises:
            KpnetError: The batch lacks `image` or `keypoints`, or the images do not fit the model.
            ValueError: The shapes of points and weights do not fit.
        """
        for key in ("keypoints",) if output is not None else ("image", "keypoints"):
            if key not in batch:
                raise KpnetError(f'loss: expected a batch with "image" and "keypoints", found {", ".join(batch)}')
        if "boxes" in batch and self.head.finds_instances:
            head = cast("CentersHead", self.head)
            output = self.output(batch["image"]) if output is None else output
            return pair_terms(head.scene_loss(output, batch), head.scene_denominators(batch), batch["weight"])
        target = batch["keypoints"]
        weight = target.isfinite().all(-1).to(target.dtype)
        for each in (batch.get("visible"), batch.get("weight")):
            weight = weight if each is None else weight * each
        output = self.output(batch["image"]) if output is None else output
        terms = pair_terms(self.head.loss(output, target, weight), self.head.denominators(weight), weight)
        if self.presence is not None and self.config.presence is not None:
            factor = self.config.presence.weight
            terms = terms.beside(presence_terms(output.presence, batch.get("present"), weight, factor), "")
        if not isinstance(self.finder, KeypointModel) or "scene" not in batch:
            return terms
        scene = cast("Mapping[str, Tensor]", batch["scene"])  # a batch in the batch
        return terms.beside(self.finder.loss_terms(scene), "find_")

    @torch.no_grad()
    def infer(self, images: Tensor, test_time: TestTime | None = None) -> Keypoints:
        """Predict keypoints with their uncertainty.

        The prediction is that of eval mode in every mode, and the model stays as it is: neither its mode nor its
        buffers change, and threads may share it. In training mode each call makes an `evaluation_copy`, about a
        millisecond: call `model.eval()` before many calls.

        Args:
            images: Images (B, C, H, W), float in [0, 1].
            test_time: Average over mirrored, scaled and shifted views. A calibration and a guarantee hold for the views
                that they were made with; with others the prediction is uncalibrated, and without radii.

        Returns:
            Keypoints (B, K, 2) in [-1, 1] with confidence, covariance and heatmaps where the head has them.

        Raises:
            KpnetError: The images do not fit the model, or a prediction is not finite.

        Example:
            ```python
            out = model.infer(images)
            out.keypoints, out.confidence  # (B, K, 2), (B, K)
            ```
        """
        images, model = _batch(images), evaluation_copy(self)
        if test_time is None:
            predicted = model._predict(images)
        else:
            predicted = infer_views(model._predict, images, self.skeleton, test_time)
        return self._finish(predicted, (images.shape[-2], images.shape[-1]), test_time)

    def _finish(self, raw: Keypoints, size: tuple[int, int], test_time: TestTime | None = None) -> Keypoints:
        """Return a prediction for images of this size as the model was calibrated for these views."""
        # The guarantee first: it is one of the spread before calibration, so that its data may have fitted that.
        for step in (self.guarantee_for(test_time), self.calibration_for(test_time)):
            raw = raw if step is None else step(raw, size)
        return raw

    def _predict(self, images: Tensor) -> Keypoints:
        features = self.features(images)
        predicted = self.head.infer(self.head(features))
        if not is_tracing():  # an exported program cannot raise errors
            check_finite(predicted, f'head "{split_spec(self.config.head, "head")[0]}"')
        if self.presence is None:
            return predicted
        return with_presence(predicted, self.presence(self._predicted_frames(features), predicted))

    @property
    def stages(self) -> Stages:
        """The finest of the backbone's maps that each of its parameters and modules contributes to."""
        if self._stages is None:
            self._stages = find_stages(self.backbone, self.mean.shape[1], self.config.input_size)
        return self._stages

    def freeze_backbone(self, stages: int | None = None) -> None:
        """Freeze the backbone, or the layers of its first maps, and unfreeze the rest.

        Frozen layers get no gradient and stay in eval mode until they are unfrozen, batch norm statistics and dropout
        included.

        Args:
            stages: How many of the backbone's maps are frozen, finest first; None for the whole backbone.

        Raises:
            KpnetError: The backbone has fewer maps.
        """
        count = len(self.backbone.strides)
        if stages is not None and not 0 <= stages <= count:
            raise KpnetError(f"freeze: expected 0 to {count} stages, the backbone's maps, found {stages}")
        self.frozen_stages = count if stages is None else stages
        partly = 0 < self.frozen_stages < count
        for name, parameter in self.backbone.named_parameters():
            frozen = self.stages.parameters[name] < self.frozen_stages if partly else self.frozen_stages > 0
            parameter.requires_grad_(not frozen and name not in self.unused_parameters)
        self.train(self.training)

    def unfreeze_backbone(self) -> None:
        """Unfreeze the whole backbone."""
        self.freeze_backbone(0)

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages in (0, len(self.backbone.strides)):
            return list(self.backbone.modules()) if self.frozen_stages else []
        # By their paths: synchronised batch norms replace modules.
        paths = (path for path, stage in self.stages.modules.items() if stage < self.frozen_stages)
        return [self.backbone.get_submodule(path) for path in paths]

    def train(self, mode: bool = True) -> KeypointModel:
        """Set the training mode; frozen modules stay in eval mode.

        Args:
            mode: True for training, False for eval mode.

        Returns:
            The model itself.
        """
        super().train(mode)
        for module in self._frozen_modules():
            module.training = False
        return self

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.yaml`, which `kpnet.load_model` reads; no file is ever half written.

        Where the model has a `watch_reference`, it is written beside them, into `watch.safetensors`.

        Weights are written in their own precision, and `load_model` makes float32 of half precision.

        Args:
            folder: Where they are written; created if need be.

        Raises:
            KpnetError: A part has values that no file of weights can hold, such as those of a quantised layer; or it is
                the model of a `kpnet.Predictor` of a folder.
        """
        if self.is_folded:
            raise KpnetError("a Predictor's model is made to predict alone: save the one that kpnet.load_model returns")
        # Seven digits are the precision of float32: 0.485 rather than 0.48500001430511475.
        mean, std = ([float(f"{v:.7g}") for v in each.flatten().tolist()] for each in (self.mean, self.std))
        input_spec = InputSpec(channels=self.backbone.in_channels, mean=mean, std=std)
        values: dict[str, Any] = {"model": self.config.model_dump(mode="json"), "skeleton": self.skeleton.to_dict()}
        if isinstance(self.finder, KeypointModel):  # not a detector, whose channels are known
            values["finder_channels"] = self.finder.backbone.in_channels
        if self.calibration is not None:
            values["calibration"] = dataclasses.asdict(self.calibration)
        if self.guarantee is not None:
            values["guarantee"] = dataclasses.asdict(self.guarantee)
        if self.instance_calibration is not None:
            values["instance_calibration"] = dataclasses.asdict(self.instance_calibration)
        watch = None if self.watch_reference is None else self.watch_reference.to_bytes()
        write_model(folder, self, input_spec, values, watch)


def _held(made: _Made | None, test_time: TestTime | None) -> _Made | None:
    """Return what was made for predictions of some test-time views if these are they, else None."""
    return made if made is not None and made.test_time == (test_time or TestTime()) else None


def _batch(images: Tensor) -> Tensor:
    """Return images with a batch dimension, or raise KpnetError where they are no tensor."""
    if not isinstance(images, Tensor):
        raise KpnetError(
            f"expected a tensor of images (B, C, H, W), got a {type(images).__name__}: use kpnet.Predictor for files "
            "and arrays"
        )
    return images[None] if images.ndim == 3 else images
