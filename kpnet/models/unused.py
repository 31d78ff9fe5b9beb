"""Parameters of a backbone that the head does not depend on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kpnet.core.runtime import evaluation_mode, shape_copy
from kpnet.heads import HeadOutput, Keypoints
from kpnet.models.keypoint_model import KeypointModel


def find_unused(model: KeypointModel) -> list[str]:
    """Find the backbone's parameters that no map depends on which the head or the branch for presence reads.

    An example is what makes the finer maps of an HRNet, for a head that reads the coarsest one. The backbone runs with
    shapes alone, the head on maps of zeros.

    Args:
        model: The model; it is left as it was.

    Returns:
        Names in `model.backbone`; empty where the backbone does not run with shapes alone.
    """
    images = model.mean.new_zeros(2, model.mean.shape[1], *model.config.input_size).to("meta")
    used: set[str] = set()
    try:
        # In training, a backbone may use other parameters.
        for backbone in (shape_copy(model.backbone).eval(), shape_copy(model.backbone)):
            with evaluation_mode(model.head), torch.enable_grad():
                maps: list[Tensor] = backbone(images)
                inputs = [model.mean.new_zeros(each.shape).requires_grad_() for each in maps]
                outputs = [each.sum() for each in _tensors(_outputs(model, inputs)) if each.requires_grad]
                read = torch.autograd.grad(outputs, inputs, allow_unused=True)
                needed = [each.sum() for each, gradient in zip(maps, read, strict=True) if gradient is not None]
                parameters = dict(backbone.named_parameters())
                gradients = torch.autograd.grad(needed, list(parameters.values()), allow_unused=True)
                used |= {name for name, each in zip(parameters, gradients, strict=True) if each is not None}
    except Exception:  # a layer of somebody's own that knows no shapes without values
        return []
    return [name for name in parameters if name not in used]


def _outputs(model: KeypointModel, maps: list[Tensor]) -> list[Any]:
    """Return what the head makes of the backbone's maps, and the branch for presence where there is one."""
    read = maps if model.neck is None else model.neck(maps, tuple(model.config.input_size))
    outputs = [model.head(read)]
    if model.presence is not None:
        points = model.mean.new_zeros(len(maps[0]), len(model.skeleton), 2)
        covariance = torch.eye(2, device=points.device).expand(*points.shape, 2)
        outputs.append(model.presence(read, Keypoints(points, covariance=covariance)))
    return outputs


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, however nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, HeadOutput):
        yield from _tensors(list(vars(value).values()))
