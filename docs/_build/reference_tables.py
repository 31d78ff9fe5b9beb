"""The configuration reference: the JSON schema of the YAML files as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from kpnet.backbones import BACKBONES, Backbone
from kpnet.cli.json_schema import RECIPES, Json, description, json_schema
from kpnet.data import DATASETS, KeypointDataset
from kpnet.heads import HEADS, Head
from kpnet.heads.decoders import DECODERS
from kpnet.heads.decoders.base import Decoder

PARTS: dict[str, tuple[str, Mapping[str, type]]] = {
    "head": ("Heads", HEADS),
    "decoder": ("Decoders", DECODERS),
    "backbone": ("Backbones", BACKBONES),
    "format": ("Data formats", DATASETS),
}
TITLES = {"train": "Training", "pretrain": "Pretraining", "sweep": "Sweeps"}


def config_reference() -> str:
    """Return the Markdown of all keys of each command's YAML, and of all parts with their options."""
    links = {kind: f"[{kind}](#{title.lower().replace(' ', '-')})" for kind, (title, *_) in PARTS.items()} | {
        "transform": "transform"
    }
    lines: list[str] = []
    schemas = {command: json_schema(command) for command in RECIPES}
    for command, schema in schemas.items():
        lines += ["", f"## {TITLES.get(command, command)}: `kpnet {command}`", ""]
        sections = [("", schema), *_sections(schema, schema["$defs"], "", command, links)]
        for title, section in sections:
            lines += ["", f"### {title}", ""] if title else []
            lines += [section.get("description", ""), "", *_table(section, links)]
    for kind, (title, registry) in PARTS.items():
        lines += ["", f"## {title}"]
        for name, cls in sorted(registry.items()):
            options = schemas["train"]["$defs"][f"{kind}.{name}"]
            lines += ["", f"### `{name}` {{ #{kind}-{name} }}", "", description(cls), ""]
            lines += _table(options, links, names=False)
    return "\n".join(lines) + "\n"


def _sections(schema: Json, models: Json, path: str, command: str, links: dict[str, str]) -> Iterator[tuple[str, Json]]:
    """Yield the heading and model of everything that the properties of `schema` refer to; note its place in `links`."""
    for key, value in schema.get("properties", {}).items():
        for name in _references(value):
            if name in links or name not in models or "properties" not in models[name]:
                continue
            model = models[name]
            member = model["properties"].get("name", {}).get("const")
            place = f"{path}.{key}".lstrip(".") + (f": {member}" if member else "")
            anchor = f"{command}-{place}".replace(": ", "-").replace(".", "-")
            links[name] = f"[{member or key}](#{anchor})"
            yield f"`{place}` {{ #{anchor} }}", model
            yield from _sections(model, models, f"{path}.{key}".lstrip("."), command, links)


def _references(value: Any) -> Iterator[str]:
    """Yield the names of the definitions that a schema refers to."""
    if isinstance(value, Mapping):
        if "$ref" in value:
            yield value["$ref"].removeprefix("#/$defs/")
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _table(model: Json, links: dict[str, str], *, names: bool = True) -> list[str]:
    """Return a table with a row per key: type, default and, if the schema has any, descriptions.

    Args:
        model: The schema of a mapping.
        links: Links to the sections of the definitions.
        names: Whether the key `name` gets a row.
    """
    rows = {key: value for key, value in model.get("properties", {}).items() if names or key != "name"}
    if not rows:
        return ["No options." if "name" in model.get("properties", {}) else ""]
    described = any("description" in value for value in rows.values())
    lines = ["| key | type | default |" + " description |" * described, "| --- | --- | --- |" + " --- |" * described]
    for key, value in rows.items():
        cells = [f"`{key}`", _type(value, links), _default(key, value, model)]
        text = value.get("description", "").replace("|", "\\|")
        lines.append("| " + " | ".join(cells + [text] * described) + " |")
    return lines


def _default(key: str, value: Json, model: Json) -> str:
    """Return a key's default as inline YAML, or that it is required."""
    if key in model.get("required", ()):
        return "required"
    if any(key in choice.get("required", ()) for choice in model.get("oneOf", ())):
        return "required, one of the two"
    if "$ref" in value and isinstance(value.get("default"), Mapping):
        return "its defaults"
    empty: Any = {"array": [], "object": {}}.get(value.get("type", ""))
    if "default" not in value and empty is None:
        return ""
    text = yaml.safe_dump(value.get("default", empty), default_flow_style=True, width=1e9, sort_keys=False)
    return f"`{text.removesuffix(chr(10)).removesuffix('...').strip()}`"


def _type(value: Mapping[str, Any], links: dict[str, str]) -> str:
    """Return a type in words: `integer > 0`, `list of number`, links to other sections."""
    if "$ref" in value:
        return links[value["$ref"].removeprefix("#/$defs/")]
    if "const" in value or "enum" in value:
        return ", ".join(f"`{each}`" for each in value.get("enum", [value.get("const")]))
    choices = value.get("anyOf") or value.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_type(each, links) for each in choices))
    kind: Any = value.get("type", "anything")
    if kind == "array":
        if "prefixItems" in value:
            return f"[{', '.join(_type(each, links) for each in value['prefixItems'])}]"
        items = value.get("items")
        return f"list of {_type(items, links) if items else 'values'}"
    if kind == "object" and value.get("properties"):
        return "weights of " + ", ".join(f"`{name}`" for name in value["properties"])
    if kind == "object":
        held = value.get("additionalProperties", True)
        return f"name to {_type(held, links)}" if isinstance(held, Mapping) else "mapping"
    words: dict[Any, str] = {"boolean": "true or false", "string": "text", "null": "null"}
    if isinstance(kind, list):
        return " or ".join(str(words.get(each, each)) for each in kind)
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    bounds = [f"{sign} {value[limit]:g}" for limit, sign in signs.items() if limit in value]
    return " ".join([words.get(kind, kind), ", ".join(bounds)]).strip()
