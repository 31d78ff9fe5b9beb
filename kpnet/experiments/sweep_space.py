"""The YAML of a sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from kpnet.config import flatten, load_as, load_config
from kpnet.errors import KpnetError, nearest
from kpnet.model import build_model
from kpnet.schema import Config, Positive, Recipe, Strict


class Span(Strict):
    """A range of numbers."""

    low: int | float
    """The least; whole numbers alone are tried where both ends are whole."""
    high: int | float
    """The greatest."""
    log: bool = False
    """Drawn by ratios, as learning rates are."""

    @model_validator(mode="after")
    def _rises(self) -> Span:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise PydanticCustomError("span", "expected low < high, and low > 0 with log")
        return self


def _kind(value: Any) -> str:
    return "list" if isinstance(value, (list, tuple)) else "range"


Choices = Annotated[
    Annotated[list[Any], Field(min_length=1), Tag("list")] | Annotated[Span, Tag("range")], Discriminator(_kind)
]


class SweepConfig(Recipe):
    """Keys of a config, and what to try for each."""

    command: ClassVar[str] = "sweep"

    name: str = "sweep"
    """The study's, and its folder's: `runs/<name>`."""
    config: str
    """A YAML file, or a recipe's name."""
    overrides: list[str] = Field(default_factory=list)
    """Of the config, as on the command line."""
    method: Literal["grid", "random", "bayes"] = "grid"
    """`bayes` is Optuna's tree-structured Parzen estimator."""
    trials: Positive | None = None
    """How many, of `random` and `bayes`."""
    prune: bool = True
    """Does `bayes` stop what is worse than the median of the others at its epoch?"""
    seed: int = 0
    """Of the draws."""
    tables: str | None = None
    """A key with a list, for one table for each of its values."""
    columns: list[str] | None = None
    """Of the table, from the left; null: the order of `space`."""
    space: dict[str, Choices]
    """Each key's list of values, or range where the method is not `grid`."""

    @model_validator(mode="after")
    def _fits(self) -> SweepConfig:
        if not self.space:
            raise PydanticCustomError("empty", "space is empty: name keys and what to try for each")
        if self.tables is not None and not isinstance(self.space.get(self.tables), list):
            raise PydanticCustomError("tables", "tables: expected a key of space that has a list")
        shown = sorted(set(self.space) - {self.tables})
        if self.columns is not None and sorted(self.columns) != shown:
            raise PydanticCustomError("columns", "columns: expected each of {keys}, once", {"keys": ", ".join(shown)})
        if self.method != "grid":
            if self.trials is None:
                raise PydanticCustomError("trials", "trials is missing: how many are to be tried?")
            return self
        if self.trials is not None:
            raise PydanticCustomError("trials", "trials: a grid tries every cell; leave it out, or method: random")
        spans = [key for key, values in self.space.items() if isinstance(values, Span)]
        if spans:
            raise PydanticCustomError("span", "a grid needs lists, and {key} has a range", {"key": spans[0]})
        return self


def load_sweep(source: str | Path, overrides: Sequence[str] = ()) -> tuple[SweepConfig, Config]:
    """A sweep from its YAML, or the name of a shipped one, and the config that it starts from.

    overrides: of that config, after the sweep's own. A KpnetError names the key that no config has.
    """
    sweep = load_as(SweepConfig, _shipped(str(source)))
    sweep = sweep.model_copy(update={"overrides": [*sweep.overrides, *overrides]})
    config = load_config(sweep.config, sweep.overrides)
    for key, values in sweep.space.items():
        _check(sweep, config, key, [values.low, values.high] if isinstance(values, Span) else values)
    return sweep, config


def apply(sweep: SweepConfig, values: dict[str, Any]) -> Config:
    """The config with these values of the space's keys."""
    return load_config(sweep.config, [*sweep.overrides, *(f"{key}={json.dumps(v)}" for key, v in values.items())])


def _check(sweep: SweepConfig, config: Config, key: str, values: list[Any]) -> None:
    for value in values:
        try:
            tried = apply(sweep, {key: value})
            if key.startswith("model."):
                build_model(tried, num_keypoints=tried.model.num_keypoints or 1)
        except KpnetError as error:
            known = list(flatten(config.model_dump()))
            hint = "" if key in known else nearest(key, known)
            raise KpnetError(f"sweep {sweep.name}: {key}{hint}: {error}") from None


def _shipped(source: str) -> str:
    """The path of a sweep that comes with kpnet, by its name; else what was given."""
    if Path(source).is_file() or Path(source).suffix:
        return source
    here = Path(__file__).parents[1]
    folder = next((f for f in (here / "configs", here.parent / "configs") if f.is_dir()), here) / "sweeps"
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if source not in known:
        raise KpnetError(
            f'unknown sweep "{source}"{nearest(source, known)}; there are: {", ".join(known)}; or give a YAML'
        )
    return str(known[source])
