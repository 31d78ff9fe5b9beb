"""Parts of a model that the caller gives as objects, beside those that a config names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kpnet.core.errors import KpnetError
from kpnet.heads import Head

GIVEN = "given as a module"


def part_name(part: nn.Module) -> dict[str, str]:
    """Return what a config says of a part that was given as a module: that it was, and its class."""
    return {"name": GIVEN, "class": f"{type(part).__module__}.{type(part).__qualname__}"}


def is_given(spec: str | Mapping[str, Any]) -> bool:
    """Return whether a config's part was given as a module, so that no config can build it."""
    return isinstance(spec, Mapping) and spec.get("name") == GIVEN


def take_modules(values: dict[str, Any]) -> dict[str, nn.Module]:
    """Take the parts that are modules out of the values of a `model` section.

    Args:
        values: The section; a module in it is replaced by its name.

    Returns:
        The modules by key, `backbone` and `head`.

    Raises:
        KpnetError: A part is neither a name nor a mapping nor a module, or weights are asked for by `pretrained` too.
    """
    modules: dict[str, nn.Module] = {}
    for key, what in (("backbone", "a module from images to feature maps"), ("head", "a kpnet.heads.Head")):
        part = values.get(key)
        if part is None or isinstance(part, (str, Mapping)):
            continue
        if not isinstance(part, nn.Module if key == "backbone" else Head):
            found = f"the class {part.__name__}" if isinstance(part, type) else f"a {type(part).__name__}"
            raise KpnetError(f"{key}: expected a name, a mapping with a name, or {what}, found {found}")
        modules[key], values[key] = part, part_name(part)
    if "backbone" in modules and values.get("pretrained"):
        raise KpnetError("pretrained: the backbone is given as a module: load its weights into it instead")
    return modules
