"""Read and write YAML configs, with overrides from the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from kpnet.config.fields import Recipe
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.resources import shipped_configs
from kpnet.core.validation import explain_validation_error


def run_config(run: Path) -> Config | None:
    """Return the config of a run folder, or of the folder of one of its models; None if there is none."""
    saved = (run.parent if run.name in ("final", "best") else run) / "config.yaml"
    return load_config(saved) if saved.is_file() else None


S = TypeVar("S", bound=Recipe)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 loader for floats: PyYAML reads 1e-3 as a string (YAML 1.1)."""


class _Dumper(yaml.SafeDumper):
    """YAML dumper that quotes what `_Loader` would take for a number."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


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
    """Return a deep copy of plain dicts and lists, so that overrides never reach the caller's."""
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
