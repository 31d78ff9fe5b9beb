"""Names to classes, and how a class is built from its YAML entry."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.validation import check_options

GROUP = "kpnet.plugins"


@functools.cache
def load_plugins() -> None:
    """Import, once, what installed packages name under the entry point `kpnet.plugins`: modules that register parts.

    A KpnetError names a package whose module cannot be imported.
    """
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist is not None else entry.name
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise KpnetError(f"{package}: its parts for kpnet ({entry.value}) cannot be loaded: {reason}") from None


T = TypeVar("T", bound=type)


class Registry(dict[str, T], Generic[T]):
    """A dict from name to class, filled by a decorator.

    A registered class takes positional parameters from kpnet (channels, strides, …);
    its keyword-only parameters are its options, the ones that a config may set; `**options` stands for
    those of the class that it inherits from.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator. Registering a name twice is a KpnetError."""

        def add(cls: T) -> T:
            if name in self:
                raise KpnetError(f'{self.kind} "{name}" is registered already, by {self[name].__qualname__}')
            self[name] = cls
            return cls

        return add

    def find(self, name: str) -> T:
        """The class of `name`, of another package's too (`kpnet.plugins`); a KpnetError that lists what there is."""
        if name not in self:
            load_plugins()
        if name not in self:
            raise KpnetError(
                f'unknown {self.kind} "{name}"{did_you_mean(name, self)}; there are: {", ".join(sorted(self))}'
            )
        return self[name]

    def build(self, spec: str | Mapping[str, Any], *given: Any) -> Any:
        """Build from a name or `{"name": …, option: …}`; options are checked against the signature."""
        name, options = split_spec(spec, self.kind)
        cls = self.find(name)
        return cls(*given, **check_options(cls, options, f'{self.kind} "{name}"'))


def split_spec(spec: str | Mapping[str, Any], kind: str) -> tuple[str, dict[str, Any]]:
    """`"resnet18"` or `{"name": "resnet18", …}` as (name, options)."""
    if isinstance(spec, str):
        return spec, {}
    options = dict(spec)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise KpnetError(f'{kind}: expected a name or a mapping with a "name", found {dict(spec)!r}')
    return name, options
