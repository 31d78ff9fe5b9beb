"""The schema of a sweep's YAML."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from kpnet.config.fields import Positive, Recipe, StrictModel


class Range(StrictModel):
    """A range of numbers."""

    low: int | float
    """The least; whole numbers alone are tried where both ends are whole."""
    high: int | float
    """The greatest."""
    log: bool = False
    """Drawn by ratios, as learning rates are."""

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
        spans = [key for key, values in self.space.items() if isinstance(values, Range)]
        if spans:
            raise PydanticCustomError("span", "a grid needs lists, and {key} has a range", {"key": spans[0]})
        return self
