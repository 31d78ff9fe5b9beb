"""Build a model from a config, or load a saved one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from kpnet.backbones import Backbone, build_backbone
from kpnet.backbones.module import wrap_module
from kpnet.backbones.pretrained import InputSpec, read_source, required_channels
from kpnet.backbones.weights import load_matching_weights, load_weights
from kpnet.config.fields import Channels, Part, StrictModel
from kpnet.config.loading import load_config
from kpnet.config.schema import Config, ModelConfig, Presence
from kpnet.core.errors import KpnetError, first_line
from kpnet.core.hub import one_commit
from kpnet.core.hub_address import format_path
from kpnet.core.model_folder import CONFIG, WEIGHTS, model_folder, weights_file
from kpnet.core.registry import split_spec
from kpnet.core.runtime import evaluation_copy
from kpnet.core.skeleton import Skeleton
from kpnet.core.validation import explain_validation_error
from kpnet.core.yaml import read_yaml
from kpnet.heads import HEADS, Head, HeadOutput, PyramidInfo, finds_instances
from kpnet.heads.transfer import load_head
from kpnet.models.calibration import Calibration
from kpnet.models.checks import size_message
from kpnet.models.detectors import Detector
from kpnet.models.files import load_extra_state, weights_digest
from kpnet.models.guarantee import Guarantee
from kpnet.models.instance_calibration import InstanceCalibration
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.memory import check_model_memory, check_size
from kpnet.models.neck import build_head
from kpnet.models.parts import is_given, take_modules
from kpnet.models.presence import PresenceBranch
from kpnet.models.unused import find_unused
from kpnet.models.watch import load_reference

_EXPECTED = "the config of a saved model"
_log = logging.getLogger("kpnet")


@one_commit()
def build_model(
    config: str | Path | Mapping[str, Any] | Config | ModelConfig | None = None,
    *,
    skeleton: str | Skeleton | list[str] | dict[str, Any] | None = None,
    **overrides: Any,
) -> KeypointModel:
    """Build a keypoint model from keywords, a config or both.

    Backbone and head may be modules, too. A backbone is any module from normalised images (B, C, H, W) to one feature
    map or to several (list, tuple or dict), which cover the image: `kpnet.backbones.Backbone`, timm's networks with
    `features_only=True`, torchvision's without a classifier. A head is a `kpnet.heads.Head`, built for the backbone's
    maps. A model with such parts is saved as any other, but `load_model` cannot build it: build it again, and load the
    file's weights with `model.load_state_dict(safetensors.torch.load_file(…))`.

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
    modules = take_modules(values)
    model_config = load_config({"model": values}).model
    return assemble(model_config, None if skeleton is None else Skeleton.load(skeleton), modules=modules)


def assemble(
    config: ModelConfig,
    skeleton: Skeleton | None,
    *,
    input_spec: InputSpec | None = None,
    modules: Mapping[str, nn.Module] | None = None,
    finder_spec: InputSpec | None = None,
) -> KeypointModel:
    """Build a model from its typed config.

    Args:
        config: The `model` section.
        skeleton: Names the keypoints; None: "0", "1", ….
        input_spec: Of a saved model, whose weights are loaded next: no pretrained ones are loaded.
        modules: Parts that are there already, by their key in the config.
        finder_spec: As `input_spec`, for the finder of a saved model.

    Returns:
        The model, in training mode.

    Raises:
        KpnetError: The parts do not fit together, or need more memory than there is.
    """
    modules = modules or {}
    count = config.num_keypoints or (len(skeleton) if skeleton else None)
    if count is None:
        raise KpnetError("model.num_keypoints is missing: give a number, or a skeleton")
    if skeleton is None:
        skeleton = Skeleton.from_names([str(k) for k in range(count)])
    if len(skeleton) != count:
        raise KpnetError(f"model.num_keypoints is {count}, but the skeleton has {len(skeleton)} points")
    config = config.model_copy(update={"num_keypoints": count})
    for key, spec in (("backbone", config.backbone), ("head", config.head)):
        if is_given(spec) and key not in modules:
            raise KpnetError(
                f"its {key} was given to build_model as a module ({spec['class']}), which no file can build: "  # type: ignore[index]
                f"build the model as before, and call model.load_state_dict(safetensors.torch.load_file(…/{WEIGHTS}))"
            )
    channels = input_spec.channels if input_spec else required_channels(config)
    if channels != config.in_channels and (config.in_channels, channels) != (1, 3):  # RGB weights see grey three times
        raise KpnetError(f"model.in_channels is {config.in_channels}, but input.channels is {channels}")
    if not modules:
        check_model_memory(config, partial(_build, config, skeleton, channels), channels)
    if "backbone" in modules:
        backbone = wrap_module(modules["backbone"], channels, config.input_size)
    else:
        pretrained = config.pretrained if input_spec is None else False
        backbone = build_backbone(config.backbone, channels, pretrained, config.input_size)
    if input_spec is not None:
        backbone.mean, backbone.std = tuple(input_spec.mean), tuple(input_spec.std)
    model = _join(backbone, modules.get("head"), config, skeleton)
    if config.instances is not None:
        model.finder = _build_finder(model, finder_spec)
    if input_spec is None and "head" not in modules:
        _go_on(model)
    model.choose_memory_format()
    if input_spec is None:  # a saved model is loaded to predict
        model.unused_parameters = frozenset(find_unused(model))
        for name in model.unused_parameters:
            model.backbone.get_parameter(name).requires_grad_(False)
    return model


def _build_finder(model: KeypointModel, input_spec: InputSpec | None) -> KeypointModel | Detector:
    """Return the finder of a model of crops: one with the head `centers`, without points, or a ready detector."""
    found = model.config.instances
    assert found is not None
    if model.head.finds_instances:
        raise KpnetError("model.instances: the head centers finds instances itself: leave model.instances out")
    if found.detector is not None:
        return Detector(found.detector, found.input_size, False if input_spec else found.pretrained or True)
    name, options = split_spec(found.head, "model.instances.head")
    if not finds_instances({"name": name}):
        raise KpnetError(f'model.instances.head: expected "centers", found "{name}"')
    config = ModelConfig(
        backbone=found.backbone,
        head={**options, "name": name, "points": False},
        in_channels=model.config.in_channels,
        input_size=found.input_size,
        pretrained=found.pretrained,
    )
    try:
        return assemble(config, model.skeleton, input_spec=input_spec)
    except KpnetError as error:
        raise KpnetError(f"model.instances: {error}") from None


def _build(config: ModelConfig, skeleton: Skeleton, channels: int) -> KeypointModel:
    """Return the model of a config, with random weights."""
    return _join(build_backbone(config.backbone, channels, input_size=config.input_size), None, config, skeleton)


def _join(backbone: Backbone, head: nn.Module | None, config: ModelConfig, skeleton: Skeleton) -> KeypointModel:
    """Return the model of a backbone and a head; None: the head of the config."""
    if isinstance(head, Head):
        model = KeypointModel(backbone, head, config, skeleton)
        _check_head(model)
    else:
        built, neck = build_head(config, _pyramid(backbone, config), len(skeleton))
        model = KeypointModel(backbone, built, config, skeleton, neck=neck)
    if config.presence is not None:
        model.presence = _build_presence(model, config.presence)
    if any(side % model.head.size_divisor for side in config.input_size):
        raise KpnetError("model.input_size: " + size_message(config.input_size, model.head.size_divisor))
    return model


def _build_presence(model: KeypointModel, settings: Presence) -> PresenceBranch:
    """Return the branch that predicts which points are there, for the maps of a model."""
    if model.head.finds_instances:
        raise KpnetError(
            "model.presence: the head centers finds instances in whole images, and cannot have it: leave it out, or "
            "predict crops (model.instances: true) with another head"
        )
    if not model.head.predicts_covariance:
        name = type(model.head).__name__ if is_given(model.config.head) else split_spec(model.config.head, "head")[0]
        raise KpnetError(
            f'model.presence: head "{name}" predicts no spread, which presence reads: use heatmap, simcc, offset, rle, '
            "gaussian_nll or laplace_nll"
        )
    channels = model.backbone.channels if model.neck is None else model.neck.pyramid.channels
    return PresenceBranch(channels, len(model.skeleton), settings.hidden)


def _check_head(model: KeypointModel) -> None:
    """Raise KpnetError where a head that was given does not return the model's keypoints."""
    name, expected = f"head {type(model.head).__name__}", (1, len(model.skeleton), 2)
    pairs = zip(model.backbone.channels, model.backbone.strides, strict=True)
    maps = ", ".join(f"{channels} channels of stride {stride}" for channels, stride in pairs)
    try:
        with torch.no_grad():
            found = evaluation_copy(model).output(
                model.mean.new_zeros(1, model.mean.shape[1], *model.config.input_size)
            )
    except KpnetError:
        raise
    except Exception as error:
        reason = first_line(error, with_type=True)
        raise KpnetError(f"{name} does not take the backbone's maps ({maps}): {reason}") from None
    if not isinstance(found, HeadOutput) or tuple(found.xy.shape) != expected:
        what = f"points {tuple(found.xy.shape)}" if isinstance(found, HeadOutput) else f"a {type(found).__name__}"
        raise KpnetError(f"{name}: expected a HeadOutput with points {expected}, found {what}")


def _go_on(model: KeypointModel) -> None:
    """Take the trained head too, where `pretrained` names a keypoint model with such a head."""
    source = read_source(model.config.pretrained)
    if source is None or source.head is None or source.skeleton is None:
        return
    used = ["mean.", "std."]  # the statistics come from the file beside the weights
    if model.finder is not None and _take(model.finder, "finder.", source.path):
        used += ["finder."]
    names = Skeleton.load(source.skeleton).names
    if model.presence is not None and names == model.skeleton.names and _take(model.presence, "presence.", source.path):
        used += ["presence."]
    if (trained := _trained_head(source.head, model, names)) is not None:
        weights = load_weights(weights_file(source.path))
        state = {name.removeprefix("head."): value for name, value in weights.items() if name.startswith("head.")}
        model.head.loaded = load_head(model.head, trained, state, model.skeleton.names, names)
        used += ["head."] if model.head.loaded.tensors else []
    if model.backbone.loaded is not None:
        unused = [name for name in model.backbone.loaded.unused if not f"{name}.".startswith(tuple(used))]
        model.backbone.loaded = replace(model.backbone.loaded, unused=unused)


def _take(part: nn.Module, prefix: str, path: str | Path) -> bool:
    """Load the weights of a trained model's part, named by a prefix, if it is like this one; return whether it is."""
    weights = load_weights(weights_file(path))
    state = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    own = {name: value.shape for name, value in part.state_dict().items()}
    if {name: value.shape for name, value in state.items()} != own:
        return False
    part.load_state_dict(state)
    return True


def _trained_head(spec: Part, model: KeypointModel, names: Sequence[str]) -> Head | None:
    """Return a head like a trained one, without its weights; None where it is of another type than the model's."""
    try:
        with torch.device("meta"):
            pyramid = model.neck.pyramid if model.neck is not None else _pyramid(model.backbone, model.config)
            head = HEADS.build(spec, pyramid, len(names))
    except KpnetError:  # not one for this backbone's maps at this input size
        return None
    return head if type(head) is type(model.head) else None


def _pyramid(backbone: Backbone, config: ModelConfig) -> PyramidInfo:
    sizes = [(-(-config.input_size[0] // s), -(-config.input_size[1] // s)) for s in backbone.strides]
    return PyramidInfo(list(backbone.channels), list(backbone.strides), sizes)


class _Saved(StrictModel):
    model: ModelConfig
    input: InputSpec
    skeleton: dict[str, Any]
    calibration: Calibration | None = None
    instance_calibration: InstanceCalibration | None = None
    guarantee: Guarantee | None = None
    finder_channels: Channels | None = None


def load_model(path: str | Path, *, decoding: str | None = None) -> KeypointModel:
    """Load a saved model. Nothing in its files is executed.

    Args:
        path: A run folder, whose final model is loaded, a folder that `KeypointModel.save` wrote, or an address on the
            hub, `hf://OWNER/NAME` with `@REVISION` or `/FOLDER` behind it where they are needed.
        decoding: Decoding to use instead of the trained one (heatmap and offset heads). Calibration and guarantee hold
            for the trained one only: with another they are left out, and a warning says so.

    Returns:
        The model, in eval mode, on the CPU.

    Raises:
        KpnetError: A file is missing, damaged or out of reach, or the weights do not fit the config.

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
                f"{format_path(path)}: written by kpnet pretrain, not a keypoint model: train with "
                f"model.pretrained={format_path(path)}"
            )
        saved = _Saved.model_validate(values)
    except ValidationError as error:
        raise KpnetError(explain_validation_error(error, str(folder / CONFIG), _Saved, values)) from None
    lost: list[str] = []
    if decoding is not None:
        head = {"name": saved.model.head} if isinstance(saved.model.head, str) else saved.model.head
        if head.get("decoding") != decoding:
            saved.model.head = {**head, "decoding": decoding}
            lost = [name for name in ("calibration", "guarantee") if getattr(saved, name) is not None]
            saved.calibration = saved.instance_calibration = saved.guarantee = None
    weights = load_weights(folder / WEIGHTS)
    try:
        skeleton = Skeleton.load(saved.skeleton)
        if not (is_given(saved.model.backbone) or is_given(saved.model.head)):
            check_size(saved.model, partial(_build, saved.model, skeleton, saved.input.channels), weights)
        channels = saved.finder_channels or saved.model.in_channels
        finder = InputSpec(channels=channels, mean=[0.0], std=[1.0])  # the weights have its statistics
        model = assemble(saved.model, skeleton, input_spec=saved.input, finder_spec=finder)
    except KpnetError as error:
        raise KpnetError(f"{folder / CONFIG}: {error}") from None
    if lost:
        what, where = " and ".join(lost), format_path(path)
        _log.warning("%s: its %s, made with the trained decoding, is left out with decoding %s", where, what, decoding)
    if saved.calibration is not None and len(saved.calibration.log_scales) != len(model.skeleton):
        found = len(saved.calibration.log_scales)
        raise KpnetError(f"{folder / CONFIG}: calibration: expected {len(model.skeleton)} log_scales, found {found}")
    if saved.guarantee is not None:
        try:
            saved.guarantee.check(len(model.skeleton))
        except KpnetError as error:
            raise KpnetError(f"{folder / CONFIG}: {error}") from None
    model.calibration, model.instance_calibration = saved.calibration, saved.instance_calibration
    load_matching_weights(model, weights, str(folder / WEIGHTS))
    load_extra_state(model, folder / WEIGHTS)
    model.guarantee = _valid_guarantee(saved.guarantee, model, path)
    model.watch_reference = load_reference(folder)
    model.folder = folder
    return model.eval()


def _valid_guarantee(saved: Guarantee | None, model: KeypointModel, path: str | Path) -> Guarantee | None:
    """Return a model's guarantee; None, with a warning, where it was made for another head or for other weights."""
    if saved is None:
        return None
    other = "another head or decoding" if saved.head != model.config.model_dump(mode="json")["head"] else ""
    if not other and saved.weights and saved.weights != weights_digest(model):
        other = "other weights"
    if other:
        _log.warning("%s: its guarantee was made for %s, and is left out: repeat kpnet guarantee", path, other)
    return None if other else saved


KeypointModel.load_folder = staticmethod(load_model)  # which from_pretrained calls, and no class of a model can import
