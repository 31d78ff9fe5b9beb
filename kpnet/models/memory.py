"""Estimate the memory of models and of their training without taking it, and refuse what there is no room for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kpnet.config.schema import ModelConfig
from kpnet.core.errors import KpnetError
from kpnet.core.memory import MemoryLimit, available_memory
from kpnet.core.runtime import shape_copy
from kpnet.models.keypoint_model import KeypointModel

LARGE = 5000  # sum of a config's numbers from which its network is estimated before it is built


def check_model_memory(config: ModelConfig, build: Callable[[], KeypointModel], channels: int) -> None:
    """Raise if the weights, or the prediction of one image, need more memory than there is.

    Args:
        config: The config.
        build: Builds its model; it is called on the meta device.
        channels: Channels of the images.

    Raises:
        KpnetError: There is too little memory, or the config is wrong.
    """
    if _sum_of_numbers(config.model_dump()) <= LARGE:
        return
    try:
        with torch.device("meta"), MemoryLimit("the model"), torch.no_grad():
            build().eval().output(torch.zeros(1, channels, *config.input_size))
    except KpnetError:
        raise
    except Exception:  # code that needs values; on the meta device there are none
        return


def check_size(config: ModelConfig, build: Callable[[], KeypointModel], weights: Mapping[str, Tensor]) -> None:
    """Raise if a saved config is that of a far larger network than its weights: it is not to be built.

    Args:
        config: The config.
        build: Builds its model; it is called on the meta device.
        weights: The weights that are saved beside it.

    Raises:
        KpnetError: The network has more than twice as many parameters, or the config is wrong.
    """
    if _sum_of_numbers(config.model_dump()) <= LARGE:
        return
    try:
        with torch.device("meta"):
            wanted = sum(p.numel() for p in build().parameters())
    except KpnetError:
        raise
    except Exception:  # code that needs values
        return
    found = sum(value.numel() for value in weights.values())
    if wanted > 2 * found:
        raise KpnetError(
            f"a network of {wanted:,} parameters, but its weights are {found:,}: they are of another model"
        )


def _sum_of_numbers(value: Any) -> float:
    """Return the sum of all numbers in a config, which bounds the sizes of the layers that it asks for."""
    if isinstance(value, Mapping):
        return sum(_sum_of_numbers(each) for each in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_sum_of_numbers(each) for each in value)
    return abs(value) if isinstance(value, (int, float)) else 0


def check_training_memory(model: KeypointModel, batch_size: int) -> None:
    """Raise if a step of training needs far more memory than this machine has left.

    Linux grants more memory than it has, and kills the process that then uses it: there is no error to catch.

    Args:
        model: The model.
        batch_size: Images of a step, which keeps the output of every layer.

    Raises:
        KpnetError: The outputs of the backbone's layers take more than twice what there is.
    """
    maps = _map_bytes(model.backbone, (model.config.in_channels, *model.config.input_size))
    if isinstance(model.finder, KeypointModel):
        maps += _map_bytes(model.finder.backbone, (model.finder.config.in_channels, *model.finder.config.input_size))
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

    try:
        copy = shape_copy(backbone).eval()
        for layer in copy.modules():
            if not any(True for _ in layer.children()):
                layer.register_forward_hook(note)
        with torch.no_grad():
            copy(torch.zeros(1, *shape, device="meta"))
    except Exception:  # a layer of somebody's own that knows no shapes without values
        return []
    return sizes
