"""The network that is exported: from pixels to points in the original's pixels, with nothing left outside."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from kpnet import coordinates
from kpnet.core.errors import KpnetError, first_line
from kpnet.core.runtime import evaluation_copy
from kpnet.heads import Keypoints
from kpnet.heads.base import POINT_VALUES
from kpnet.models.ensemble import Ensemble
from kpnet.models.exported import INPUTS, POINTS, ExportedModel
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime

MOST_STEPS = 4096  # of the largest stride, along a side of images of any size


class ExportGraph(nn.Module):
    """A model with its normalisation, decoding, calibration and the mapping to the original image.

    Args:
        model: The model, or an ensemble.
        test_time: Views that are averaged. None: the image alone.

    Attributes:
        output_names: What `forward` returns: `points`, and what the model has of `heads.base.POINT_VALUES`.
        dof: Degrees of freedom of the errors' Student t distribution; infinite for normal errors.

    Raises:
        KpnetError: The model is an exported one, or finds several instances by its head.
    """

    def __init__(self, model: KeypointModel | ExportedModel | Ensemble, test_time: TestTime | None = None) -> None:
        super().__init__()
        if any(each.head.finds_instances for each in parts_of(model)):
            raise KpnetError(
                "the head centers finds 0 to N instances, and an exported file predicts one: predict with kpnet, or "
                "train with model.instances: true, whose model of crops can be exported"
            )
        # Without gradients, or what an archive gives could not be turned into arrays.
        self.model, self.test_time = copy.deepcopy(evaluation_copy(model)).requires_grad_(False), test_time
        found = self.infer(self.example()[0])
        self.dof = found.dof
        self.output_names = (POINTS, *(name for name in POINT_VALUES if getattr(found, name) is not None))

    def example(self, larger: int = 0) -> tuple[Tensor, Tensor]:
        """Return inputs of two images, whose sides are `larger` than the model's input."""
        config, frames = self.model.config, 1 + sum(self.model.frame_window)
        size = [side + larger for side in config.input_size]
        shape = (2, *((frames,) if frames > 1 else ()), *size, config.in_channels)
        images = torch.arange(math.prod(shape)).view(shape).mul(37).remainder(256)
        return images.to(torch.uint8), torch.eye(2, 3).repeat(2, 1, 1)

    def infer(self, images: Tensor) -> Keypoints:
        """Return the prediction, normalised, for images as `forward` takes them."""
        return self.model.infer(images.movedim(-1, -3).float() / 255, self.test_time)

    @torch.no_grad()
    def forward(self, images: Tensor, matrices: Tensor) -> tuple[Tensor, ...]:
        """Predict keypoints.

        Args:
            images: Uint8 (B, H, W, C), or clips (B, T, H, W, C) as long as the head's window.
            matrices: Float32 (B, 2, 3), from pixels of the original image to pixels of the input.

        Returns:
            What `output_names` says: points (B, K, 2) in pixels of the original image; confidence (B, K); covariance
            (B, K, 2, 2), in squared pixels of the original image; presence (B, K); radius and joint radius (B, K), in
            pixels of the original image. All are float32.
        """
        size = (images.shape[-3], images.shape[-2])
        predicted = self.infer(images)
        xy = coordinates.normalized_to_pixel(predicted.keypoints.float(), size)
        squared = None
        if predicted.covariance is not None:
            pixel = coordinates.normalized_distance_to_pixel(torch.ones(2), size)
            squared = predicted.covariance.float() * pixel[:, None] * pixel
        points, covariance = coordinates.from_inputs(xy, squared, matrices)
        longest = max(size) * coordinates.largest_stretch(matrices)[:, None]
        values = {POINTS: points, "covariance": covariance}
        values |= {"confidence": predicted.confidence, "presence": predicted.presence}
        values["radius"] = None if predicted.radius is None else predicted.radius * longest
        values["joint_radius"] = None if predicted.joint_radius is None else predicted.joint_radius * longest
        return tuple(values[name].float() for name in self.output_names)  # type: ignore[union-attr]


def trace(graph: ExportGraph, *, any_size: bool = False) -> ExportedProgram:
    """Trace a graph for batches of any number of images.

    Args:
        graph: The graph.
        any_size: Whether images of other sizes than the model's input are taken, too: of sides that are multiples of
            the largest stride.

    Returns:
        The program.

    Raises:
        KpnetError: A part cannot be traced, or not for images of any size.
    """
    batch = Dim("batch", min=1)
    images, matrices = graph.example()
    sides: dict[int, Any] = {0: batch}
    step = size_step(graph.model) if any_size else 0
    if any_size:
        sides |= {images.ndim - 3: step * Dim("rows", min=1, max=MOST_STEPS)}
        sides |= {images.ndim - 2: step * Dim("columns", min=1, max=MOST_STEPS)}
    head = type(graph.model.head).__name__ if isinstance(graph.model, KeypointModel) else "Ensemble"
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A head of one size stops here, whereas torch.export would take its size for that of all images.
            expected = graph(*graph.example(step))[0] if any_size else None
            program = torch.export.export(
                graph, (images, matrices), dynamic_shapes=dict(zip(INPUTS, (sides, {0: batch}), strict=True))
            )
            if expected is not None:
                torch.testing.assert_close(program.module()(*graph.example(step))[0], expected, rtol=0, atol=1e-3)
            return program
    except Exception as error:
        if isinstance(error, KpnetError) and not any_size:
            raise
        reason = first_line(error, with_type=not isinstance(error, KpnetError))
        if any_size:
            raise KpnetError(
                f"{head}: cannot be exported for images of any size: leave out --any-size ({reason})"
            ) from None
        raise KpnetError(
            f"{head}: torch.export cannot trace it: write its forward with torch's own operations, without branches "
            f"that depend on values ({reason})"
        ) from None


def size_step(model: KeypointModel | ExportedModel | Ensemble) -> int:
    """Return what the sides of images must be multiples of where a graph takes images of any size."""
    return math.lcm(*(math.lcm(part.backbone.strides[-1], part.head.size_divisor) for part in parts_of(model)))


def parts_of(model: KeypointModel | ExportedModel | Ensemble) -> list[KeypointModel]:
    """Return the models of an ensemble, or a model itself; raise KpnetError for one that is exported already."""
    parts = list(model.models) if isinstance(model, Ensemble) else [model]
    found = [part for part in parts if isinstance(part, KeypointModel)]
    if len(found) < len(parts):
        raise KpnetError("the model is an exported one already; export the run that it was made of")
    return found
