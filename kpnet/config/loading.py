"""Read and write YAML configs, with overrides from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kpnet.config.fields import Recipe
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError, did_you_mean, shorten, show
from kpnet.core.files import expand_path
from kpnet.core.resources import shipped_configs
from kpnet.core.validation import explain_validation_error
from kpnet.core.yaml import parse_yaml, read_yaml, write_yaml


def run_config(run: Path) -> Config | None:
    """Return the config of a run folder, of the folder of one of its models, or of a file in them; None without one."""
    folder = (run.parent if run.is_file() else run).resolve()
    saved = (folder.parent if folder.name in ("final", "best") else folder) / "config.yaml"
    return load_config(saved) if saved.is_file() else None


S = TypeVar("S", bound=Recipe)


_EXPECTED = "a YAML config"


def list_configs() -> list[str]:
    """Return the names of the shipped recipes."""
    return list(shipped_configs())


def config_text(name: str) -> str:
    """Return the YAML text of a shipped recipe."""
    recipes = shipped_configs()
    if name not in recipes:
        raise KpnetError(f'unknown config "{name}"{did_you_mean(name, recipes)}; there are: {", ".join(recipes)}')
    return recipes[name].read_text(encoding="utf-8")


def load_config(source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> Config:
    """Load the config of a training.

    Args:
        source: A YAML file, the name of a shipped recipe, a mapping or a config.
        overrides: Overrides `key.path=value`, such as `train.epochs=10`, with values read as YAML.

    Returns:
        The typed config.

    Raises:
        KpnetError: If the file or a key is wrong; the message names both.
    """
    return load_as(Config, source, overrides)


def load_as(schema: type[S], source: str | Path | Mapping[str, Any] | S, overrides: Sequence[str] = ()) -> S:
    """Load a config of any schema, as `load_config` does."""
    if isinstance(source, BaseModel):
        where, values = "config", source.model_dump()
    elif isinstance(source, Mapping):
        where, values = "config", _plain(source)
    else:
        values, where = _read(source)
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
        raise KpnetError(explain_validation_error(error, where, schema, values)) from None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def to_yaml(values: Mapping[str, Any] | BaseModel) -> str:
    """Return a config as YAML text, its keys in the schema's order."""
    plain = values.model_dump(mode="json") if isinstance(values, BaseModel) else dict(values)
    return write_yaml(plain, width=120, default_flow_style=None)


def _read(source: str | Path) -> tuple[dict[str, Any], str]:
    """Return the values of a file or a shipped recipe, and its name for messages."""
    path = Path(expand_path(source))
    if path.is_file():
        values = read_yaml(path, _EXPECTED)
    elif path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or path.exists():
        problem = "not a config file" if path.exists() else "no such config file"
        raise KpnetError(f"{path}: {problem}; kpnet's own are: {', '.join(list_configs())}")
    else:
        values = parse_yaml(config_text(str(source)), str(source), _EXPECTED)
    if not isinstance(values, dict):
        raise KpnetError(f"{path}: expected a mapping with model: and data:, found {type(values).__name__}")
    return values, str(path)


def _plain(values: Any) -> Any:
    """Return a deep copy of plain dicts and lists, so that overrides never reach the caller's."""
    if isinstance(values, Mapping):
        return {str(k): _plain(v) for k, v in values.items()}
    if isinstance(values, (list, tuple)):
        return [_plain(v) for v in values]
    return values.model_dump() if isinstance(values, BaseModel) else values


def _override(values: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    if not sign or not all(key.split(".")):
        raise KpnetError(f'override "{shorten(text)}": expected key.path=value, e.g. train.epochs=10')
    parsed = parse_yaml(value, f'override "{shorten(text)}"', "key.path=value, e.g. train.epochs=10")
    *path, last = key.split(".")
    place = values
    for part in path:
        inner = place.get(part)
        if isinstance(inner, str):  # a part given by its name alone, or a training file
            inner = {"file" if key.startswith("data.train.") else "name": inner}
        place[part] = inner = {} if inner is None else inner
        if not isinstance(inner, dict):
            raise KpnetError(f'override "{shorten(text)}": "{shorten(part)}" holds {show(inner)}, not a mapping')
        place = inner
    place[last] = parsed  # a mapping replaces what was there: another optimizer, head, … has other options
