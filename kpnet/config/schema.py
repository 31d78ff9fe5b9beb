"""The typed schema of a training's YAML: keys, types, defaults and what they mean."""

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

from kpnet.config.fields import (
    Channels,
    FileEntry,
    FilePath,
    FolderName,
    Fraction,
    ImageSize,
    NonNegative,
    Number,
    Part,
    Positive,
    Rate,
    Recipe,
    Seed,
    StrictModel,
    file_entries,
)
from kpnet.config.optim import AdamW, Average, OneCycle, Optimizer, Schedule
from kpnet.config.self_training import SelfTrainingOption
from kpnet.config.trainer import TrainerConfig
from kpnet.config.unlabelled import UnlabelledTraining, WithUnlabelled
from kpnet.core.registry import split_spec
from kpnet.core.validation import check_bits


def _path(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


class Instances(StrictModel):
    """The finder of the instances of an image: a network that looks at a small copy of the whole image.

    It learns from the labelled points; boxes are used where the data has them.
    """

    backbone: Part = Field(
        default_factory=lambda: {"name": "conv_sandwich", "channels": [16, 32, 64, 128], "norm": "batch", "residual": 1}
    )
    """Network that extracts the features in which instances are found, as `model.backbone`."""
    head: Part = "centers"
    """The head `centers`, or `{name: centers}` with its options; it predicts centres and boxes, and no points."""
    input_size: ImageSize = (256, 256)
    """Height and width of the copy of the image in pixels, or one number for both; 448 for a detector."""
    pretrained: Annotated[bool | FilePath, BeforeValidator(_path)] = False
    """true: published weights of the finder's backbone; or the path of a weight file. A detector's are published."""
    detector: Part | None = None
    """Ready detector instead of a finder: `torchvision/NAME`, or `{name: …, label: person}`. It is not trained."""

    @model_validator(mode="before")
    @classmethod
    def _of_detector(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("detector") is None:
            return values
        if values.keys() & {"backbone", "head"}:
            raise PydanticCustomError("two_finders", "give either a detector, or backbone and head, not both")
        return {"input_size": 448, **values}

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> Any:
        """Leave out what a detector does not have."""
        values = handler(self)
        unused = ("backbone", "head") if self.detector is not None else ("detector",)
        return {key: value for key, value in values.items() if key not in unused}


class Presence(StrictModel):
    """A branch that predicts which points are there: inside the image, and seen."""

    weight: Rate = 0.1
    """Weight of its loss, the binary cross-entropy of the points of which it is known."""
    hidden: Annotated[int, Field(gt=0, le=4096)] = 64
    """Width of its hidden layers."""


def _section(value: Any) -> Any:
    """Return a section that may be given as true, with its defaults, or false."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class ModelConfig(StrictModel):
    """The network: what `build_model` needs. `heads: {coarse: …, fine: …}` is short for the head `multi` of these."""

    backbone: Part
    """Network that extracts features: kpnet's own, `torchvision/NAME` or any timm name; `{name: …}` for options."""
    head: Part
    """Head that turns features into keypoints: its name, or `{name: …}` with its options."""
    num_keypoints: Annotated[int, Field(gt=0, le=100_000)] | None = None
    """Number of keypoints; null: as many as the skeleton has."""
    in_channels: Channels = 3
    """Channels of the input: 1 for grey images, 3 for colour."""
    input_size: ImageSize = (96, 96)
    """Height and width of the input in pixels, or one number for both."""
    pretrained: Annotated[bool | FilePath, BeforeValidator(_path)] = False
    """true: published weights; or a weight file, a pretraining, or a run, whose head is taken too; `hf://…` for one."""
    instances: Annotated[
        Instances | None, BeforeValidator(_section, json_schema_input_type=Instances | bool | None)
    ] = None
    """Find the instances of an image, 0 to N of them, before their points; true: with the default finder."""
    presence: Annotated[Presence | None, BeforeValidator(_section, json_schema_input_type=Presence | bool | None)] = (
        None
    )
    """Predict which points are there (inside the image and seen), too; true: with the defaults."""
    crop: Literal["box", "points", "instance"] | None = None
    """Region the model was trained on, as `data.crop.by`; null for whole images. Set from `data.crop`."""
    box_scale: Rate = 1.25
    """Size of the crop relative to the box (1.25 adds a 12.5 % margin on each side)."""
    mean: list[Number] | None = None
    """Mean of the images in [0, 1], one value or one per channel; null: the backbone's."""
    std: list[Rate] | None = None
    """Standard deviation of the images in [0, 1], one value or one per channel; null: the backbone's."""

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
        json["properties"]["heads"] = {"type": "object", "description": "Heads by name; short for the head `multi`."}
        json["required"] = ["backbone"]
        json["oneOf"] = [{"required": ["head"]}, {"required": ["heads"]}]
        return json


class TrainFile(FileEntry):
    """One training file. Options not given default to those of `data`."""

    file: FilePath | int
    """File or folder under `data.root`; for `synthetic`, a number of samples."""
    weight: Rate = 1.0
    """Weight of the file's points in the loss."""
    limit: Positive | None = None
    """Use only the first N samples."""
    format: Part | None = None
    """File format; null: as in `data`."""
    complete_only: bool | None = None
    """Skip samples that lack a point; null: as in `data`."""
    transforms: list[str | dict[str, Any]] | None = None
    """Augmentation of the file's samples; null: as in `data`."""
    partial: bool | None = None
    """Its images have instances without labels, so that a finder learns nothing from their background."""


# The forms that `file_entries` takes, for the JSON schema.
_TrainFiles = str | int | TrainFile | list[str | int | TrainFile] | None


class Fold(StrictModel):
    """One fold of a cross-validation: fold `index` of `of` validates, the others train."""

    index: Annotated[int, Field(ge=0)]
    """Fold that validates, counted from 0."""
    of: Annotated[int, Field(ge=2)]
    """Number of folds."""

    @model_validator(mode="after")
    def _exists(self) -> Fold:
        if self.index >= self.of:
            raise PydanticCustomError("no_fold", f"index: expected at most {self.of - 1}, found {self.index}")
        return self


class Crop(StrictModel):
    """Crops around boxes (top-down): `model.box_scale` times as large as the box, with the input's aspect ratio."""

    by: Literal["box", "points", "instance"]
    """box: the boxes of the data format; points: boxes around the labelled points, in evaluation too; instance: the
    box where there is one, else that around the points, and about a single point one of the data's median size."""
    shift: Fraction = 0.0
    """In training, move the crop's centre by up to this fraction of its side, in each direction."""
    scale: Fraction = 0.0
    """In training, scale the crop's sides by a random factor from 1 / (1 + scale) to 1 + scale."""


def _crop(value: Any) -> Any:
    """Return `{by: box}` for `box`."""
    return {"by": value} if isinstance(value, str) else value


class DataConfig(WithUnlabelled):
    """The training and validation data."""

    format: Part = "kaggle_csv"
    """Data format: its name, or `{name: …}` with its options."""
    root: FilePath = "."
    """Folder of the files, relative to the working directory."""
    train: Annotated[list[TrainFile], BeforeValidator(file_entries, json_schema_input_type=_TrainFiles)] = Field(
        default_factory=list
    )
    """Training data: one file or a list of files, each a name or a mapping."""
    val: FilePath | int | None = None
    """Validation file; for `synthetic`, a number of samples."""
    fold: Fold | None = None
    """One fold of a cross-validation on the training data, instead of `val`."""
    skeleton: FilePath | list[str] | dict[str, Any] | None = None
    """A shipped name, a YAML file, a list of names, or a mapping with `names`; null: the file's own points."""
    complete_only: bool = False
    """Skip samples that lack a point."""
    crop: Annotated[
        Crop | None, BeforeValidator(_crop, json_schema_input_type=Crop | Literal["box", "points", "instance"] | None)
    ] = None
    """Crop: null for the whole image, or the region around a box. With `model.instances`, around each instance."""
    missing: Literal["unknown", "absent"] = "unknown"
    """What a point without a label says to `model.presence`: nothing, or that it is not there."""
    strict: bool = False
    """Stop with an error at a sample that cannot be used; false: skip it, with a warning."""
    transforms: list[str | dict[str, Any]] = Field(default_factory=list)
    """Augmentation: albumentations by name, in this order; left and right labels swap in mirrored images."""
    device_transforms: bool = False
    """Augment whole batches on the training's device; what it cannot do there is named, and stays on the CPU."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that load and augment samples in the background; 0: none."""
    cache_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Gigabytes of decoded training images to keep in memory that the workers share; 0: none."""

    @field_serializer("train", mode="wrap")
    def _as_given(self, value: list[TrainFile], handler: SerializerFunctionWrapHandler) -> Any:
        entries = handler(value)
        return entries[0] if len(entries) == 1 else entries or None

    def image_bits(self) -> int:
        """Return the bits that 16-bit image files fill: those that `format` states, or else the training files' own.

        They are 16 where neither states them, or the files differ.

        Raises:
            KpnetError: They are none.
        """
        formats = [self.format]
        if "bits" not in split_spec(self.format, "data.format")[1]:
            formats = [entry.format or self.format for entry in self.train]
        found = [split_spec(form, "data.format")[1].get("bits", 16) for form in formats]
        for bits in found:
            check_bits(bits)
        return found[0] if found and found.count(found[0]) == len(found) else 16

    def format_named(self, name: str) -> Part:
        """Return the format of that name with its options: `format`, or else a training file's, or else the name."""
        formats = [self.format, *(entry.format for entry in self.train if entry.format is not None)]
        return next((form for form in formats if split_spec(form, "data.format")[0] == name), name)


class EarlyStopping(StrictModel):
    """Stop after `patience` epochs without a better validation score."""

    patience: Positive = 10
    """Epochs to wait for a better validation score."""


class Freeze(StrictModel):
    """Keep the backbone's first `stages` frozen for `until` epochs."""

    until: Positive | None = None
    """Number of epochs that the stages stay frozen; null: the whole training."""
    stages: Positive | None = None
    """Number of the backbone's stages to freeze, the finest first; null: all."""
    every: Positive | None = None
    """After `until`, unfreeze one more stage every N epochs, last stage first; null: all at once."""
    warmup: NonNegative = 1.0
    """Epochs in which the learning rate of unfrozen stages rises linearly; not used with `schedule: plateau`."""

    @model_validator(mode="after")
    def _ends(self) -> Freeze:
        if self.every is not None and self.until is None:
            raise PydanticCustomError("no_end", "every needs until, the epochs before the first stage is unfrozen")
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> Any:
        """Write what was set: a `warmup` that nobody gave is none beside `schedule: plateau`, in the run's YAML too."""
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}


class LRScale(StrictModel):
    """Learning-rate multipliers per part."""

    backbone: Rate = 1.0
    """Multiplier for the backbone."""


def _freeze(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class TrainConfig(StrictModel):
    """The training of a model."""

    epochs: Positive = 60
    """Passes over the training data."""
    batch_size: Positive = 32
    """Samples per step."""
    optimizer: Optimizer = AdamW(lr=1e-3)
    """Optimizer (default `adamw`)."""
    schedule: Schedule = OneCycle()
    """Learning-rate schedule (default `one_cycle`)."""
    freeze: Annotated[Freeze | None, BeforeValidator(_freeze, json_schema_input_type=Freeze | bool | None)] = None
    """Transfer learning: what part of the backbone is frozen; true: all of it, for the whole training."""
    lr_scale: LRScale = LRScale()
    """Learning-rate multipliers per part, such as `{backbone: 0.1}`."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning-rate decay per backbone stage, counted from the head; 1: none."""
    average: Average | None = None
    """Weight averaging, which the saved model uses; `ema` if no name is given. null (the default): none."""
    compile: bool = False
    """Compile the network and its loss (`torch.compile`); where that fails, they run as they are, with a warning."""
    early_stopping: EarlyStopping | None = None
    """Stop when the validation score no longer improves; null: train for all epochs."""
    clip_norm: Rate | None = None
    """Clip the norm of the gradient to this value; null: no clipping."""
    self_train: SelfTrainingOption = None
    """Self-training (`--self-train`): train twice, the second time on what the first model finds in `data.unlabelled`
    as well; true: with the defaults."""
    unlabelled: UnlabelledTraining | None = None
    """How `data.unlabelled` counts; null: by the defaults."""
    overfit: Optimizer | None = None
    """Optimizer used by `--overfit` instead of the recipe's; null: the recipe's."""
    seed: Seed = 0
    """Random seed of the initial weights, the order of samples and the augmentation."""


class Config(Recipe):
    """The YAML of `kpnet train`."""

    command: ClassVar[str] = "train"

    name: FolderName = "run"
    """Name of the run, which is written to `runs/NAME`."""
    model: ModelConfig
    """The network: backbone, head and input."""
    data: DataConfig = DataConfig()
    """The data to train on and to validate with."""
    train: TrainConfig = TrainConfig()
    """The training: optimizer, schedule, transfer learning."""
    trainer: TrainerConfig = TrainerConfig()
    """Devices, precision, loggers, and how often to validate."""

    @model_validator(mode="after")
    def _model_of_crops(self) -> Self:
        """Copy what the crops are around into the model's config, so that it is known wherever the model is saved.

        A config without training data is that of a model alone, and keeps what the model says. Crops of a model that
        finds instances are jittered by default, as the finder errs.
        """
        if self.model.instances is not None and self.data.crop is None:
            if self.data.train:
                self.data = self.data.model_copy(update={"crop": Crop(by="instance", shift=0.1, scale=0.15)})
            elif self.model.crop is None:
                self.model = self.model.model_copy(update={"crop": "instance"})
        if self.data.train:
            by = None if self.data.crop is None else self.data.crop.by
            self.model = self.model.model_copy(update={"crop": by})
        return self
