"""The typed schema of the YAML: what may stand in it, and what a key is where it is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from kpnet.config.fields import Fraction, ImageSize, Part, Positive, Rate, Recipe, StrictModel
from kpnet.config.optim import AdamW, Average, OneCycle, Optimizer, Schedule


def _path(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


class ModelConfig(StrictModel):
    """What `build_model` needs. `heads: {coarse: …, fine: …}` is short for the head `multi` of these."""

    backbone: Part
    """One of kpnet's, `torchvision/NAME`, or any timm name; or `{name: …}` with its options."""
    head: Part
    """A head's name, or `{name: …}` with its options."""
    num_keypoints: Positive | None = None
    """null: as many as the skeleton has."""
    in_channels: Positive = 3
    """1 for grey images, 3 for colour."""
    input_size: ImageSize = (96, 96)
    """H, W; or one number for both."""
    pretrained: Annotated[bool | str, BeforeValidator(_path)] = False
    """true: the library's own download; or the path of a weight file, a run or a pretraining."""
    crop: Literal["box", "points"] | None = None
    """What the crops are about that the model learns from; null: it learns from whole images. `data.crop` sets it."""
    box_scale: Rate = 1.25
    """Sides of the crop about a box, in sides of the box: what a point near the edge is seen among."""
    mean: list[float] | None = None
    """Of images in [0, 1], per channel or one for all; null: the backbone's."""
    std: list[Rate] | None = None
    """As `mean`."""

    @model_validator(mode="before")
    @classmethod
    def _several_heads(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "heads" not in values:
            return values
        if "head" in values:
            raise PydanticCustomError("two_heads", "give either head or heads, not both")
        rest = {k: v for k, v in values.items() if k != "heads"}
        return {**rest, "head": {"name": "multi", "heads": values["heads"]}}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        json = handler.resolve_ref_schema(handler(schema))
        json["properties"]["heads"] = {"type": "object", "description": "Short for the head `multi` of these."}
        json["required"] = ["backbone"]
        json["oneOf"] = [{"required": ["head"]}, {"required": ["heads"]}]
        return json


class TrainFile(StrictModel):
    """One file of the training data. What it leaves out is as in the data section."""

    file: str | int
    """Under `data.root`; a number of samples for `synthetic`."""
    weight: Rate = 1.0
    """Of each of its points in the loss."""
    limit: Positive | None = None
    """Its first so many samples alone."""
    format: Part | None = None
    """null: that of the data section; so too the next two."""
    complete_only: bool | None = None
    """Leave out samples that lack a point."""
    transforms: list[str | dict[str, Any]] | None = None
    """Augmentation of its own."""

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> Any:
        values = {key: value for key, value in handler(self).items() if key in self.model_fields_set}
        return values["file"] if len(values) == 1 else values


def _files(value: Any) -> Any:
    """One file, or a list of them, each a name alone or a mapping, as a list of mappings."""
    entries = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return [entry if isinstance(entry, (Mapping, TrainFile)) else {"file": entry} for entry in entries]


# Of the JSON schema alone: the forms that `_files` takes.
_TrainFiles = str | int | TrainFile | list[str | int | TrainFile] | None


class Fold(StrictModel):
    """Of a cross-validation: one of so many parts of the training data is held out, and validates."""

    index: Annotated[int, Field(ge=0)]
    """Which is held out, from 0."""
    of: Annotated[int, Field(ge=2)]
    """Number of parts."""

    @model_validator(mode="after")
    def _exists(self) -> Fold:
        if self.index >= self.of:
            raise PydanticCustomError("no_fold", f"index: expected at most {self.of - 1}, found {self.index}")
        return self


class Crop(StrictModel):
    """Top-down: each sample is what lies about its box, `model.box_scale` times as large, the aspect kept."""

    by: Literal["box", "points"]
    """The format's boxes, or those about each sample's labelled points, where it is measured too."""
    shift: Fraction = 0.0
    """In training, the crop's centre moves by up to this share of its side, each way."""
    scale: Fraction = 0.0
    """In training, the crop's sides grow or shrink by up to this share: from 1 / (1 + scale) to 1 + scale."""


def _crop(value: Any) -> Any:
    """`box` for `{by: box}`."""
    return {"by": value} if isinstance(value, str) else value


class DataConfig(StrictModel):
    """Where samples come from."""

    format: Part = "kaggle_csv"
    """A data format's name, or `{name: …}` with its options."""
    root: str = "."
    """The folder of the files, relative to the working directory."""
    train: Annotated[list[TrainFile], BeforeValidator(_files, json_schema_input_type=_TrainFiles)] = Field(
        default_factory=list
    )
    """Files to train on: one or several, each a name alone or a mapping."""
    val: str | int | None = None
    """The file to validate with; a number of samples for `synthetic`."""
    fold: Fold | None = None
    """Of a cross-validation, in place of `val`."""
    skeleton: str | list[str] | dict[str, Any] | None = None
    """A shipped name, a YAML file, a list of names, or a mapping with `names`; null: the file's own points."""
    complete_only: bool = False
    """Leave out samples that lack a point."""
    crop: Annotated[
        Crop | None, BeforeValidator(_crop, json_schema_input_type=Crop | Literal["box", "points"] | None)
    ] = None
    """What of the image the model sees: null for all of it, fitted into the input, or what lies about a box."""
    strict: bool = False
    """A sample that cannot be used is an error; else it is left out, and one warning names it."""
    transforms: list[str | dict[str, Any]] = Field(default_factory=list)
    """Augmentation: albumentations by name, in this order. Left and right labels swap with a mirror."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load and augment beside the training."""

    @field_serializer("train", mode="wrap")
    def _as_given(self, value: list[TrainFile], handler: SerializerFunctionWrapHandler) -> Any:
        entries = handler(value)
        return entries[0] if len(entries) == 1 else entries or None


class EarlyStopping(StrictModel):
    """Stop after `patience` epochs without a better validation score."""

    patience: Positive = 10
    """Epochs."""


class Freeze(StrictModel):
    """The backbone's first `stages` rest until epoch `until`."""

    until: Positive | None = None
    """Epoch at which they begin to learn; null: never."""
    stages: Positive | None = None
    """How many of the backbone's maps rest, the finest first; null: all."""
    every: Positive | None = None
    """From `until` on one more stage thaws each so many epochs, the last first; null: all at once."""
    warmup: Annotated[float, Field(ge=0)] = 1.0
    """Epochs in which the rate of what thaws rises linearly to its own; with `schedule: plateau`, none."""

    @model_validator(mode="after")
    def _ends(self) -> Freeze:
        if self.every is not None and self.until is None:
            raise PydanticCustomError("no_end", "every needs until, the epoch at which the first stage thaws")
        return self


class LRScale(StrictModel):
    """Times the optimizer's lr."""

    backbone: Rate = 1.0
    """Of the backbone."""


def _freeze(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class TrainConfig(StrictModel):
    """How the model is trained."""

    epochs: Positive = 60
    """Passes over the training data."""
    batch_size: Positive = 32
    """Samples a step."""
    optimizer: Optimizer = AdamW(lr=1e-3)
    """Without a `name`: adamw."""
    schedule: Schedule = OneCycle()
    """Of the learning rate. Without a `name`: one_cycle."""
    freeze: Annotated[Freeze | None, BeforeValidator(_freeze, json_schema_input_type=Freeze | bool | None)] = None
    """Transfer learning: what of the backbone rests; true: all of it, for good."""
    lr_scale: LRScale = LRScale()
    """Learning rates of the parts, times the optimizer's."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the lr, for each of the backbone's maps from the head."""
    average: Average | None = None
    """Of the weights; the final model has it. Without a `name`: ema."""
    early_stopping: EarlyStopping | None = None
    """null: train all epochs."""
    clip_norm: Rate | None = None
    """Gradients are scaled down to this norm."""
    overfit: Optimizer | None = None
    """Of its own for `--overfit`, where the recipe's would saturate."""
    seed: int = 0
    """Of the initial weights, the order and the augmentation."""


class Config(Recipe):
    """The whole YAML. `trainer` is handed to Lightning's Trainer as it is, but for `precision: auto`: bfloat16
    autocast where the hardware computes in it, and 32 bits elsewhere."""

    command: ClassVar[str] = "train"

    name: str = "run"
    """The run goes to `runs/NAME`."""
    model: ModelConfig
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Arguments of Lightning's Trainer."""

    @model_validator(mode="after")
    def _model_of_crops(self) -> Self:
        """What a model learns from is known wherever it is saved. Without training data a config is a model alone."""
        if self.data.train:
            by = None if self.data.crop is None else self.data.crop.by
            self.model = self.model.model_copy(update={"crop": by})
        return self
