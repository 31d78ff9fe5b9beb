"""The schema of a sweep's YAML."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from kpnet.config.fields import FilePath, FolderName, Positive, Recipe, Seed, StrictModel


class Range(StrictModel):
    """A range of numbers."""

    low: int | float
    """Lower bound. If both bounds are whole numbers, only whole numbers are tried."""
    high: int | float
    """Upper bound."""
    log: bool = False
    """Sample on a logarithmic scale, as for learning rates."""

    @model_validator(mode="after")
    def _rises(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise PydanticCustomError("span", "expected low < high, and low > 0 with log")
        return self


def _kind(value: Any) -> str:
    return "list" if isinstance(value, (list, tuple)) else "range"


Choices = Annotated[
    Annotated[list[Any], Field(min_length=1), Tag("list")] | Annotated[Range, Tag("range")], Discriminator(_kind)
]


class SweepConfig(Recipe):
    """The YAML of `kpnet sweep`: keys of a config, and the values to try for each."""

    command: ClassVar[str] = "sweep"

    name: FolderName = "sweep"
    """Name of the study, which is written to `runs/NAME`."""
    config: FilePath
    """Config to vary: a YAML file or the name of a recipe."""
    overrides: list[str] = Field(default_factory=list)
    """Overrides of the config, as on the command line: `key.path=value`."""
    method: Literal["grid", "random", "bayes"] = "grid"
    """Search method: grid, random, or bayes (Optuna's tree-structured Parzen estimator)."""
    trials: Positive | None = None
    """Number of trials of `random` and `bayes`."""
    prune: bool = True
    """With `bayes`, stop a trial that is worse than the median of the others at the same epoch."""
    seed: Seed = 0
    """Random seed of the search."""
    tables: str | None = None
    """A key of `space` with a list of values: write one table for each of them."""
    columns: list[str] | None = None
    """Keys in the order of the table's columns, from the left; null: the order of `space`."""
    space: dict[str, Choices]
    """For each key, a list of values to try, or a range where the method is not `grid`."""

    @model_validator(mode="after")
    def _fits(self) -> SweepConfig:
        if not self.space:
            raise PydanticCustomError("empty", "space is empty: name keys and what to try for each")
        if self.tables is not None and not isinstance(self.space.get(self.tables), list):
            raise PydanticCustomError("tables", "tables: expected a key of space that has a list")
        keys = sorted(set(self.space) - {self.tables})
        if self.columns is not None and sorted(self.columns) != keys:
            raise PydanticCustomError("columns", "columns: expected each of {keys}, once", {"keys": ", ".join(keys)})
        if self.method != "grid":
            if self.trials is None:
                raise PydanticCustomError("trials", "trials is missing: give the number of trials")
            return self
        if self.trials is not None:
            raise PydanticCustomError("trials", "trials: a grid tries every cell; leave it out, or set method: random")
        spans = [key for key, values in self.space.items() if isinstance(values, Range)]
        if spans:
            raise PydanticCustomError("span", "a grid needs lists, but {key} has a range", {"key": spans[0]})
        return self
