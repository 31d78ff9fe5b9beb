"""Registries from name to class, and building a class from its YAML entry."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from kpnet.core.errors import KpnetError, did_you_mean, first_line, show
from kpnet.core.validation import check_options

GROUP = "kpnet.plugins"

_log = logging.getLogger("kpnet")


@functools.cache
def load_plugins() -> tuple[str, ...]:
    """Import, once, the modules that installed packages name under the entry point `kpnet.plugins`.

    Importing such a module registers its parts. A package that cannot be imported is logged as a warning; the parts of
    the others, and kpnet's own, are not affected.

    Returns:
        A line for each package that cannot be imported.
    """
    failures = []
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            package = entry.dist.name if entry.dist is not None else entry.name
            reason = first_line(f"{type(error).__name__}: {error}")
            failures.append(f"{package}: its parts for kpnet ({entry.value}) cannot be loaded: {reason}")
            _log.warning(failures[-1])
    return tuple(failures)


T = TypeVar("T", bound=type)


class Registry(dict[str, T], Generic[T]):
    """Dict from name to class, filled by a decorator.

    A registered class takes positional parameters from kpnet (channels, strides, …). Its keyword-only parameters are
    its options, which a config may set; `**options` stands for those of the class that it inherits from.

    Args:
        kind: What the classes are, for messages, such as `"head"`.

    Example:
        ```python
        from kpnet.heads import HEADS, Head

        @HEADS.register("my_head")
        class MyHead(Head): ...
        ```
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[T], T]:
        """Return a class decorator that registers a class under `name`.

        Args:
            name: The name that a config uses for the class.

        Returns:
            The decorator; it returns the class unchanged.

        Raises:
            KpnetError: If the name is registered already.
        """

        def add(cls: T) -> T:
            if name in self:
                raise KpnetError(f'{self.kind} "{name}" is registered already, by {self[name].__qualname__}')
            self[name] = cls
            return cls

        return add

    def find(self, name: str) -> T:
        """Return the class that is registered under `name`, by kpnet or by an installed plugin.

        Args:
            name: The registered name.

        Returns:
            The class.

        Raises:
            KpnetError: If the name is unknown; the message lists the known ones.
        """
        if name not in self:
            load_plugins()
        if name not in self:
            failures = "".join(f"; {failure}" for failure in load_plugins())
            raise KpnetError(
                f'unknown {self.kind} "{name}"{did_you_mean(name, self)}; there are: '
                f"{', '.join(sorted(self))}{failures}"
            )
        return self[name]

    def build(self, spec: str | Mapping[str, Any], *given: Any) -> Any:
        """Build an instance from a config entry.

        Args:
            spec: A name, or a mapping `{"name": …, option: …}`. Options are checked against the class's signature.
            *given: Positional arguments from kpnet.

        Returns:
            The instance.

        Raises:
            KpnetError: If the name or an option is unknown, or an option has a wrong type.
        """
        name, options = split_spec(spec, self.kind)
        cls = self.find(name)
        return cls(*given, **check_options(cls, options, f'{self.kind} "{name}"'))


def split_spec(spec: str | Mapping[str, Any], kind: str) -> tuple[str, dict[str, Any]]:
    """Split `"resnet18"` or `{"name": "resnet18", …}` into the name and its options."""
    if isinstance(spec, str):
        return spec, {}
    options = dict(spec)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise KpnetError(f'{kind}: expected a name or a mapping with a "name", found {show(dict(spec))}')
    return name, options
