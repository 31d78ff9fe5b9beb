"""Check options and configs with pydantic, and explain what is wrong in one line."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import ErrorDetails

from kpnet.core.errors import KpnetError, did_you_mean, show

# Old name to new name of keys that saved models and YAML files from before the first release may still hold.
RENAMED_KEYS = dict(  # noqa: C408 (keywords, as these are names)
    answer="primary",
    stem="input",
    log_factors="log_scales",
    power="exponent",
    tail="dof",
    first="index_base",
    share="ratio",
)


_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


def check_bits(bits: Any) -> None:
    """Raise KpnetError unless `bits` is a whole number from 8 to 16."""
    if bits not in range(8, 17):
        raise KpnetError(f"bits: expected 8 to 16, the bits that the values of 16-bit images fill, found {show(bits)}")


@functools.cache
def options_model(part: Callable[..., Any], given: frozenset[str] = frozenset()) -> type[BaseModel]:
    """Return a pydantic model of the keyword-only parameters of a class or function, without those in `given`."""
    fields: dict[str, Any] = {}
    constructors = [vars(base)["__init__"] for base in getattr(part, "__mro__", ()) if "__init__" in vars(base)]
    for function in constructors or [part]:
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters.values()
        for p in parameters:
            if p.kind is p.KEYWORD_ONLY and p.name not in given:
                fields.setdefault(p.name, (hints.get(p.name, Any), ... if p.default is p.empty else p.default))
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return create_model(part.__name__, __config__=_STRICT, **fields)


def check_options(
    part: Callable[..., Any], options: Mapping[str, Any], where: str, given: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Check the options of a class or function, and convert them to the annotated types.

    Args:
        part: The class or function; its keyword-only parameters are the options.
        options: Names and values.
        where: Start of an error message, such as `head "heatmap"`.
        given: Keyword-only parameters that kpnet gives itself, which are no options.

    Returns:
        The options that were set, converted.

    Raises:
        KpnetError: If an option is unknown, missing or of a wrong type.
    """
    model = options_model(part, given)
    try:
        checked = model.model_validate(dict(options))
    except ValidationError as error:
        raise KpnetError(explain_validation_error(error, where, model, options)) from None
    return {name: getattr(checked, name) for name in checked.model_fields_set}


def explain_validation_error(error: ValidationError, where: str, model: type[BaseModel], values: Any) -> str:
    """Return one line about the first of pydantic's errors: the key, what was found and what was expected.

    An unknown key that was renamed comes before all others, as it may be why another one is missing.
    """
    errors = error.errors(include_url=False)
    renamed = next(filter(None, (_renamed(each, model, values) for each in errors)), None)
    if renamed is not None:
        return f"{where}: {renamed}"
    first = errors[0]
    parts = [str(p) for p in first["loc"]]
    key = ".".join(_keys(first["loc"], values, missing=first["type"] == "missing"))
    if first["type"] == "extra_forbidden":
        choices = _fields_at(model, parts[:-1])
        known = ", ".join(sorted(choices)) or "none"
        return f'{where}: unknown key "{key}"{did_you_mean(parts[-1], choices)}; known here: {known}'
    if first["type"] == "missing":
        return f'{where}: "{key}" is missing'
    if first["type"] == "union_tag_invalid":
        tag, tags = first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f'{where}: {key}.name: unknown "{tag}"{did_you_mean(tag, tags)}; there are: {", ".join(tags)}'
    return f"{where}: {key or 'value'}: {first['msg']}, found {show(first['input'])}"


def _renamed(error: ErrorDetails, model: type[BaseModel], values: Any) -> str | None:
    """Return the message for a key under its old name, found as an unknown key or where the new one is missing."""
    *path, key = [str(part) for part in error["loc"]] or [""]
    old: str | None
    if error["type"] == "extra_forbidden" and RENAMED_KEYS.get(key) in _fields_at(model, path):
        old = key
    elif error["type"] == "missing" and isinstance(error["input"], Mapping):
        old = next((old for old, new in RENAMED_KEYS.items() if new == key and old in error["input"]), None)
    else:
        old = None
    if old is None:
        return None
    place = ".".join([*_keys(error["loc"][:-1], values, missing=False), old])
    return f'unknown key "{place}": it is called "{RENAMED_KEYS[old]}" now'


def _keys(loc: tuple[int | str, ...], values: Any, *, missing: bool) -> list[str]:
    """Return the user's own keys of pydantic's path, which also names the alternatives of a union."""
    keys = []
    for part in loc:
        held = isinstance(values, Mapping) and part in values
        if held or (isinstance(values, (list, tuple)) and isinstance(part, int) and part < len(values)):
            keys.append(str(part))
            values = values[part]
    return [*keys, str(loc[-1])] if missing else keys


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Return the fields of the nested model that the path leads to; a tag of a union selects its member."""
    members = [model]
    for part in path:
        field = model.model_fields.get(part)
        if field is not None:
            members = _models(field.annotation)
            model = members[0] if members else model
        else:
            model = next((m for m in members if _tag(m) == part), model)
    return list(model.model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in an annotation, however deeply its unions are nested."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models(inner)]


def _tag(model: type[BaseModel]) -> str | None:
    name = model.model_fields.get("name")
    return None if name is None else str(name.default)
