"""Estimate the memory that a training keeps for the gradient, without taking it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kpnet.core.errors import KpnetError
from kpnet.core.memory import available_memory
from kpnet.core.runtime import evaluation_mode
from kpnet.models.keypoint_model import KeypointModel


def check_memory(model: KeypointModel, batch_size: int) -> None:
    """Raise if a step of training needs far more memory than this machine has left.

    Linux grants more memory than it has, and kills the process that then uses it: there is no error to catch.

    Args:
        model: The model.
        batch_size: Images of a step, which keeps the output of every layer.

    Raises:
        KpnetError: The outputs of the backbone's layers take more than twice what there is.
    """
    maps = _map_bytes(model.backbone, (model.config.in_channels, *model.config.input_size))
    need, limit = batch_size * sum(maps), available_memory()
    if need > 2 * limit:  # an output that a later layer overwrites is counted twice
        height, width = model.config.input_size
        raise KpnetError(
            f"train.batch_size={batch_size}: a step with images of {height}x{width} keeps {need / 2**30:.3g} GiB of "
            f"maps, {limit / 2**30:.3g} GiB are available: use smaller batches, a smaller input or fewer channels"
        )


def _map_bytes(backbone: nn.Module, shape: tuple[int, int, int]) -> list[int]:
    """Return the bytes of each layer's output for one image, computed with shapes alone; empty if that fails."""
    sizes: list[int] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() * output.element_size())

    layers = [module for module in backbone.modules() if not any(True for _ in module.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    state = {name: value.to("meta") for name, value in [*backbone.named_parameters(), *backbone.named_buffers()]}
    try:
        with torch.no_grad(), evaluation_mode(backbone):
            functional_call(backbone, state, (torch.zeros(1, *shape, device="meta"),))
    except Exception:  # a layer of somebody's own that knows no shapes without values
        return []
    finally:
        for hook in hooks:
            hook.remove()
    return sizes
