"""Read what `pretrained` names: a weight file, or a folder of kpnet that says which backbone its weights are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from torch import Tensor

from kpnet.backbones.base import BACKBONES
from kpnet.backbones.weights import load_weights
from kpnet.config.fields import Number, Part, Positive, Rate, StrictModel
from kpnet.config.schema import ModelConfig
from kpnet.core.errors import KpnetError
from kpnet.core.model_folder import CONFIG, WEIGHTS, weights_file
from kpnet.core.registry import split_spec
from kpnet.core.validation import explain_validation_error
from kpnet.core.yaml import read_yaml, write_yaml

# Prefixes of a backbone's tensors in a kpnet file: a timm transformer, another library's network, one of kpnet's own.
PREFIXES = ("backbone.net.model.", "backbone.net.", "backbone.")


class InputSpec(StrictModel):
    """The images that a backbone's weights were trained with; saved beside the config of a model."""

    channels: Positive
    """Channels of the images."""
    mean: list[Number]
    """Mean of images in [0, 1]: one value, or one for each channel."""
    std: list[Rate]
    """Standard deviation of images in [0, 1]: one value, or one for each channel."""


class _Model(BaseModel):
    """What the files of a saved model and of a pretraining have in common."""

    backbone: Part
    head: Part | None = None
    input_size: tuple[Positive, Positive]


class _File(BaseModel):
    model: _Model
    input: InputSpec
    skeleton: dict[str, Any] | None = None


@dataclass(frozen=True)
class PretrainedSource:
    """What a folder of kpnet holds; `path` is as the user gave it. A pretraining has no head and no skeleton."""

    path: str
    spec: Part
    input_size: tuple[int, int]
    input: InputSpec
    head: Part | None = None
    skeleton: dict[str, Any] | None = None

    def check(self, spec: str | Mapping[str, Any], channels: int) -> None:
        """Raise KpnetError where the config has another network or another number of channels."""
        if _architecture(spec) != _architecture(self.spec):
            held, asked = format_spec(self.spec), format_spec(spec)
            raise KpnetError(
                f"{self.path}: holds the backbone {held}, but the config asks for {asked}: "
                "set model.backbone to the first, or pretrained to a run of the second"
            )
        if channels != self.input.channels:
            raise KpnetError(
                f"{self.path}: its backbone was trained with in_channels {self.input.channels}, found {channels}: "
                f"set model.in_channels to {self.input.channels}"
            )

    def mismatch(self, spec: str | Mapping[str, Any], size: tuple[int, int] | None, error: KpnetError) -> KpnetError:
        """Return an error that names both backbones, from the `error` of loading these weights."""
        reason = str(error).removeprefix(f"{self.path}: ")
        held, asked = format_spec(self.spec), format_spec(spec)
        if size not in (None, self.input_size):
            held += f" for {self.input_size[0]}x{self.input_size[1]} pixels"
            asked += f" for {size[0]}x{size[1]}"
        return KpnetError(f"{self.path}: holds the backbone {held}, but the config asks for {asked}: {reason}")


def read_source(pretrained: bool | str | Path) -> PretrainedSource | None:
    """Return the backbone that a kpnet folder, or the weight file in it, holds; None for other files."""
    if isinstance(pretrained, bool):
        return None
    file = weights_file(pretrained)
    where = file.with_name(CONFIG)
    if file.name != WEIGHTS or not where.is_file():
        return None
    values = None
    try:
        values = read_yaml(where, "the config of a saved model")
        found = _File.model_validate(values)
    except ValidationError as error:
        raise KpnetError(explain_validation_error(error, str(where), _File, values)) from None
    model = found.model
    return PretrainedSource(str(pretrained), model.backbone, model.input_size, found.input, model.head, found.skeleton)


def backbone_weights(pretrained: str | Path) -> dict[str, Tensor]:
    """Return the tensors of the file that `pretrained` names, a backbone's without the prefix of a whole model."""
    state = load_weights(weights_file(pretrained))
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in state)), "")
    return {name.removeprefix(prefix): value for name, value in state.items()}


def required_channels(config: ModelConfig) -> int:
    """Return the number of channels that the backbone is built for: that of its weights, or `in_channels`.

    RGB weights see a grey image three times: summing the filters would lose each channel's own mean and std.
    """
    source = read_source(config.pretrained)
    if source is None:
        colour = bool(config.pretrained) and split_spec(config.backbone, "backbone")[0] not in BACKBONES
    else:
        colour = source.input.channels == 3
    return 3 if colour and config.in_channels == 1 else config.in_channels


def format_spec(spec: str | Mapping[str, Any]) -> str:
    """Return a backbone's name and options on one line."""
    name, options = split_spec(spec, "backbone")
    return f"{name} {write_yaml(options, default_flow_style=True, width=1e9).strip()}" if options else name


def _architecture(spec: str | Mapping[str, Any]) -> str:
    """Return the name without timm's tag of published weights (resnet18.a1_in1k)."""
    name = split_spec(spec, "backbone")[0]
    return name if name in BACKBONES else name.partition(".")[0]
