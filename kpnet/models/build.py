"""Build a model from a config, or load a saved one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from kpnet.backbones import build_backbone
from kpnet.backbones.pretrained import InputSpec, required_channels
from kpnet.backbones.weights import load_matching_weights, load_weights
from kpnet.config.fields import StrictModel
from kpnet.config.loading import load_config
from kpnet.config.schema import Config, ModelConfig
from kpnet.core.errors import KpnetError
from kpnet.core.model_folder import CONFIG, WEIGHTS, model_folder
from kpnet.core.skeleton import Skeleton
from kpnet.core.validation import explain_validation_error
from kpnet.core.yaml import read_yaml
from kpnet.heads import HEADS, PyramidInfo
from kpnet.models.calibration import Calibration
from kpnet.models.keypoint_model import KeypointModel, size_message

_EXPECTED = "the config of a saved model"


def build_model(
    config: str | Path | Mapping[str, Any] | Config | ModelConfig | None = None,
    *,
    skeleton: str | Skeleton | list[str] | dict[str, Any] | None = None,
    **overrides: Any,
) -> KeypointModel:
    """Build a keypoint model from keywords, a config or both.

    Args:
        config: A YAML file, the name of a shipped recipe, a mapping (a whole config or its `model` section), or a
            typed config. None: keywords alone.
        skeleton: Names the keypoints: the name of a shipped skeleton, a YAML file, a `Skeleton`, a list of names or a
            mapping. None: the config's skeleton, or else the names "0", "1", ….
        **overrides: Keys of the YAML's `model` section; they override the config's. The most used: `backbone`, `head`,
            `num_keypoints`, `in_channels` (3 by default), `input_size` (a side, or height and width) and `pretrained`
            (False by default; True or a path).

    Returns:
        The model, in training mode.

    Raises:
        KpnetError: A key or name is unknown, or the parts do not fit together.

    Example:
        ```python
        model = build_model(backbone="resnet18", head="heatmap", num_keypoints=15, in_channels=1, input_size=96)
        xy = model(torch.rand(8, 1, 96, 96))  # (8, 15, 2) in [-1, 1]
        ```
    """
    if isinstance(config, ModelConfig):
        values = config.model_dump()
    elif config is None:
        values = {}
    else:
        if isinstance(config, Mapping) and "model" not in config:
            config = {"model": config}
        loaded = load_config(config)
        values = loaded.model.model_dump()
        if skeleton is None and loaded.data.skeleton is not None:
            own = Skeleton.load(loaded.data.skeleton)
            # With another number of points than the recipe's, they are other points.
            skeleton = own if overrides.get("num_keypoints", len(own)) == len(own) else None
    if "heads" in overrides:
        values.pop("head", None)
    values |= {k: list(v) if isinstance(v, tuple) else v for k, v in overrides.items()}
    model_config = load_config({"model": values}).model
    return assemble(model_config, None if skeleton is None else Skeleton.load(skeleton))


def assemble(config: ModelConfig, skeleton: Skeleton | None, *, input_spec: InputSpec | None = None) -> KeypointModel:
    """Build a model from its typed config.

    Args:
        config: The `model` section.
        skeleton: Names the keypoints; None: "0", "1", ….
        input_spec: Of a saved model, whose weights are loaded next: no pretrained ones are loaded.

    Returns:
        The model, in training mode.

    Raises:
        KpnetError: The parts do not fit together.
    """
    count = config.num_keypoints or (len(skeleton) if skeleton else None)
    if count is None:
        raise KpnetError("model.num_keypoints is missing: give a number, or a skeleton")
    if skeleton is None:
        skeleton = Skeleton.from_names([str(k) for k in range(count)])
    if len(skeleton) != count:
        raise KpnetError(f"model.num_keypoints is {count}, but the skeleton has {len(skeleton)} points")
    config = config.model_copy(update={"num_keypoints": count})
    backbone = build_backbone(
        config.backbone,
        input_spec.channels if input_spec else required_channels(config),
        pretrained=config.pretrained if input_spec is None else False,
        input_size=config.input_size,
    )
    if input_spec is not None:
        backbone.mean, backbone.std = tuple(input_spec.mean), tuple(input_spec.std)
    sizes = [(-(-config.input_size[0] // s), -(-config.input_size[1] // s)) for s in backbone.strides]
    head = HEADS.build(config.head, PyramidInfo(list(backbone.channels), list(backbone.strides), sizes), count)
    if any(side % head.size_divisor for side in config.input_size):
        raise KpnetError("model.input_size: " + size_message(config.input_size, head.size_divisor))
    # A quarter to a half faster on CPUs, and the format that GPUs want under autocast; the numbers are the same.
    return KeypointModel(backbone, head, config, skeleton).to(memory_format=torch.channels_last)


class _Saved(StrictModel):
    model: ModelConfig
    input: InputSpec
    skeleton: dict[str, Any]
    calibration: Calibration | None = None


def load_model(path: str | Path, *, decoding: str | None = None) -> KeypointModel:
    """Load a saved model. Nothing in its files is executed.

    Args:
        path: A run folder, whose final model is loaded, or a folder that `KeypointModel.save` wrote.
        decoding: Decoding to use instead of the trained one (heatmap and offset heads). A calibration holds for the
            trained one only, and is dropped with another.

    Returns:
        The model, in eval mode, on the CPU.

    Raises:
        KpnetError: A file is missing or damaged, or the weights do not fit the config.

    Example:
        ```python
        model = kpnet.load_model("runs/facial_heatmap")
        ```
    """
    folder = model_folder(path)
    try:
        values = read_yaml(folder / CONFIG, _EXPECTED)
        if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
            raise KpnetError(f"{folder / CONFIG}: not {_EXPECTED}: expected a mapping with model, input and skeleton")
        if "decoder" in values["model"]:
            raise KpnetError(
                f"{path}: written by kpnet pretrain, not a keypoint model: train with model.pretrained={path}"
            )
        saved = _Saved.model_validate(values)
    except ValidationError as error:
        raise KpnetError(explain_validation_error(error, str(folder / CONFIG), _Saved, values)) from None
    if decoding is not None:
        head = {"name": saved.model.head} if isinstance(saved.model.head, str) else saved.model.head
        if head.get("decoding") != decoding:
            saved.model.head, saved.calibration = {**head, "decoding": decoding}, None
    try:
        model = assemble(saved.model, Skeleton.load(saved.skeleton), input_spec=saved.input)
    except KpnetError as error:
        raise KpnetError(f"{folder / CONFIG}: {error}") from None
    if saved.calibration is not None and len(saved.calibration.log_scales) != len(model.skeleton):
        found = len(saved.calibration.log_scales)
        raise KpnetError(f"{folder / CONFIG}: calibration: expected {len(model.skeleton)} log_scales, found {found}")
    model.calibration = saved.calibration
    load_matching_weights(model, load_weights(folder / WEIGHTS), str(folder / WEIGHTS))
    return model.eval()
