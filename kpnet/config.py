"""The typed schema of the one YAML, its loading, and overrides from the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from kpnet.errors import KpnetError, nearest
from kpnet.registry import describe

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


S = TypeVar("S", bound=Recipe)


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


class DataConfig(Strict):
    """Where samples come from."""

    format: str = "kaggle_csv"
    root: str = "."
    train: Annotated[list[TrainFile], BeforeValidator(_files)] = []  # or one; or its name alone
    val: str | int | None = None  # as TrainFile.file
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


class _Loader(yaml.SafeLoader):
    """PyYAML reads 1e-3 as a string (YAML 1.1); here it is the number it looks like (YAML 1.2)."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would take for a number."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def _recipes() -> dict[str, Path]:
    """The shipped YAMLs: beside this file once installed, in configs/ of a checkout."""
    here = Path(__file__).parent
    folder = next((f for f in (here / "configs", here.parent / "configs") if f.is_dir()), here)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def list_configs() -> list[str]:
    """Names of the recipes that come with kpnet."""
    return list(_recipes())


def config_text(name: str) -> str:
    """The YAML text of a shipped recipe."""
    recipes = _recipes()
    if name not in recipes:
        raise KpnetError(f'unknown config "{name}"{nearest(name, recipes)}; there are: {", ".join(recipes)}')
    return recipes[name].read_text(encoding="utf-8")


def load_config(source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> Config:
    """A typed config from a YAML file, the name of a shipped recipe, a mapping or a Config.

    overrides: `key.path=value`, values read as YAML. A KpnetError names the file and key of what is wrong.
    """
    return load_as(Config, source, overrides)


def load_as(schema: type[S], source: str | Path | Mapping[str, Any] | S, overrides: Sequence[str] = ()) -> S:
    """As `load_config`, of any schema."""
    if isinstance(source, BaseModel):
        where, values = "config", source.model_dump()
    elif isinstance(source, Mapping):
        where, values = "config", _plain(source)
    else:
        where = str(source)
        values = _parse(*_read(source))
    for text in overrides:
        _override(values, text)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        for command, section, key in (("train", "model", "head"), ("pretrain", "data", "images")):
            held = values.get(section)
            if command != schema.command and isinstance(held, Mapping) and key in held:
                what = f"a config of kpnet {command}, not of kpnet {schema.command}"
                raise KpnetError(f"{where}: {what}: it has {section}.{key}") from None
        raise KpnetError(describe(error, where, schema, values)) from None


def to_yaml(values: Mapping[str, Any] | BaseModel) -> str:
    """YAML text in the schema's order."""
    plain = values.model_dump(mode="json") if isinstance(values, BaseModel) else dict(values)
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, width=120, default_flow_style=None)


def _read(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError:
            raise KpnetError(f"{path}: not a text file; expected a YAML config") from None
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise KpnetError(f"{path}: no such config file; kpnet's own are: {', '.join(list_configs())}")
    return config_text(str(source)), str(source)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise KpnetError(f"{where}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(values, dict):
        raise KpnetError(f"{where}: expected a mapping with model: and data:, found {type(values).__name__}")
    return values


def _plain(values: Any) -> Any:
    """A deep copy with plain dicts and lists, so that overrides never reach the caller's."""
    if isinstance(values, Mapping):
        return {str(k): _plain(v) for k, v in values.items()}
    if isinstance(values, (list, tuple)):
        return [_plain(v) for v in values]
    return values.model_dump() if isinstance(values, BaseModel) else values


def _override(values: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    if not sign or not all(key.split(".")):
        raise KpnetError(f'override "{text}": expected key.path=value, e.g. train.epochs=10')
    try:
        parsed = yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise KpnetError(f'override "{text}": the value is not YAML') from None
    *path, last = key.split(".")
    place = values
    for part in path:
        inner = place.get(part)
        if isinstance(inner, str):  # a part given by its name alone, or a training file
            inner = {"file" if key.startswith("data.train.") else "name": inner}
        place[part] = inner = {} if inner is None else inner
        if not isinstance(inner, dict):
            raise KpnetError(f'override "{text}": "{part}" holds {inner!r}, not a mapping')
        place = inner
    place[last] = parsed  # a mapping replaces what was there: another optimizer, head, … has other options
