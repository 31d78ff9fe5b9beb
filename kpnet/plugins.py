"""Parts from other packages: heads, backbones and data formats that an installed package registers."""

from __future__ import annotations

import functools
from importlib.metadata import entry_points

from kpnet.errors import KpnetError

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
