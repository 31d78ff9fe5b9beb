"""The typed schema of the YAML: what may stand in it, and what a key is where it is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# A part chosen by name: "resnet18", or {"name": …} with its options, which the part checks itself.
Part = str | dict[str, Any]


def square(value: Any) -> Any:
    """One number for both sides."""
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


def _named(default: str) -> Callable[[Any], Any]:
    """`adam` for `{name: adam}`, and the default's name where only options are given."""

    def name(value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": default, **value} if isinstance(value, Mapping) else value

    return name


def _path(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Recipe(Strict):
    """A whole YAML, for `kpnet <command>`."""

    command: ClassVar[str]


class ModelConfig(Strict):
    """What `build_model` needs. `heads: {coarse: …, fine: …}` is short for the head `multi` of these."""

    backbone: Part
    head: Part
    num_keypoints: Positive | None = None  # None: as many as the skeleton has
    in_channels: Positive = 3
    input_size: Annotated[tuple[Positive, Positive], BeforeValidator(square)] = (96, 96)  # H, W; or one number
    pretrained: Annotated[bool | str, BeforeValidator(_path)] = False  # true: the library's own download; or a path
    mean: list[float] | None = None  # of images in [0, 1], per channel or one for all; None: the backbone's
    std: list[Rate] | None = None

    @model_validator(mode="before")
    @classmethod
    def _several_heads(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "heads" not in values:
            return values
        if "head" in values:
            raise PydanticCustomError("two_heads", "give either head or heads, not both")
        rest = {k: v for k, v in values.items() if k != "heads"}
        return {**rest, "head": {"name": "multi", "heads": values["heads"]}}


class TrainFile(Strict):
    """One file of the training data. What it leaves out is as in the data section."""

    file: str | int  # under root; a number of samples for synthetic
    weight: Rate = 1.0  # of each of its points in the loss
    limit: Positive | None = None  # its first so many samples alone
    format: str | None = None
    complete_only: bool | None = None
    transforms: list[str | dict[str, Any]] | None = None

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> Any:
        values = {key: value for key, value in handler(self).items() if key in self.model_fields_set}
        return values["file"] if len(values) == 1 else values


def _files(value: Any) -> Any:
    """One file, or a list of them, each a name alone or a mapping, as a list of mappings."""
    entries = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return [entry if isinstance(entry, (Mapping, TrainFile)) else {"file": entry} for entry in entries]


class Fold(Strict):
    """Of a cross-validation: one of so many parts of the training data is held out, and validates."""

    index: Annotated[int, Field(ge=0)]  # from 0
    of: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _exists(self) -> Fold:
        if self.index >= self.of:
            raise PydanticCustomError("no_fold", f"index: expected at most {self.of - 1}, found {self.index}")
        return self


class DataConfig(Strict):
    """Where samples come from."""

    format: str = "kaggle_csv"
    root: str = "."
    train: Annotated[list[TrainFile], BeforeValidator(_files)] = []  # or one; or its name alone
    val: str | int | None = None  # as TrainFile.file
    fold: Fold | None = None  # in place of val
    skeleton: str | list[str] | dict[str, Any] | None = None
    complete_only: bool = False
    transforms: list[str | dict[str, Any]] = []
    workers: Annotated[int, Field(ge=0)] = 0

    @field_serializer("train", mode="wrap")
    def _as_given(self, value: list[TrainFile], handler: SerializerFunctionWrapHandler) -> Any:
        entries = handler(value)
        return entries[0] if len(entries) == 1 else entries or None


class SGD(Strict):
    name: Literal["sgd"] = "sgd"
    lr: Rate
    momentum: Annotated[float, Field(ge=0)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class Adam(Strict):
    name: Literal["adam"] = "adam"
    lr: Rate
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class AdamW(Adam):
    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: Annotated[float, Field(ge=0)] = 0.01


class Constant(Strict):
    name: Literal["constant"] = "constant"


class OneCycle(Strict):
    """Up to the optimizer's lr and down to nearly 0, each step (Smith 2018)."""

    name: Literal["one_cycle"] = "one_cycle"
    warmup: Fraction = 0.3  # share of the steps
    start_factor: Annotated[float, Field(gt=0, le=1)] = 0.04
    final_factor: Annotated[float, Field(gt=0, le=1)] = 1e-5


class Cosine(Strict):
    """Linear warm-up, then half a cosine to `final_factor` of the lr, each step."""

    name: Literal["cosine"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    final_factor: Annotated[float, Field(ge=0, le=1)] = 0.0


class Plateau(Strict):
    """lr times `factor` after `patience` epochs without a better validation loss."""

    name: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Positive = 10


class EMA(Strict):
    """Exponential moving average of the weights, each step."""

    name: Literal["ema"] = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99


class SWA(Strict):
    """Mean of the weights at the ends of the last epochs, from `start`, a share of them, on (Izmailov et al. 2018)."""

    name: Literal["swa"] = "swa"
    start: Fraction = 0.75


class EarlyStopping(Strict):
    """Stop after `patience` epochs without a better validation score."""

    patience: Positive = 10


Optimizer = Annotated[SGD | Adam | AdamW, Field(discriminator="name"), BeforeValidator(_named("adamw"))]
Schedule = Annotated[
    Constant | OneCycle | Cosine | Plateau, Field(discriminator="name"), BeforeValidator(_named("one_cycle"))
]
Average = Annotated[EMA | SWA, Field(discriminator="name"), BeforeValidator(_named("ema"))]


class Freeze(Strict):
    """The backbone's first `stages` (None: all) rest until epoch `until` (None: for good).

    every: from then on one more stage thaws each so many epochs, the last first; None: all at once.
    warmup: epochs in which the rate of what thaws rises linearly to its own; with `schedule: plateau`, none.
    """

    until: Positive | None = None
    stages: Positive | None = None
    every: Positive | None = None
    warmup: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _ends(self) -> Freeze:
        if self.every is not None and self.until is None:
            raise PydanticCustomError("no_end", "every needs until, the epoch at which the first stage thaws")
        return self


class LRScale(Strict):
    """Times the optimizer's lr."""

    backbone: Rate = 1.0


def _freeze(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class TrainConfig(Strict):
    """How the model is trained."""

    epochs: Positive = 60
    batch_size: Positive = 32
    optimizer: Optimizer = AdamW(lr=1e-3)
    schedule: Schedule = OneCycle()
    freeze: Annotated[Freeze | None, BeforeValidator(_freeze)] = None  # true: the whole backbone, for good
    lr_scale: LRScale = LRScale()
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the lr, for each of the backbone's maps from the head
    average: Average | None = None
    early_stopping: EarlyStopping | None = None
    clip_norm: Rate | None = None
    overfit: Optimizer | None = None  # of its own for `--overfit`, where the recipe's would saturate
    seed: int = 0


class Config(Recipe):
    """The whole YAML. `trainer` is handed to Lightning's Trainer as it is, but for `precision: auto`: bfloat16
    autocast where the hardware computes in it, and 32 bits elsewhere."""

    command: ClassVar[str] = "train"

    name: str = "run"
    model: ModelConfig
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    trainer: dict[str, Any] = {}
