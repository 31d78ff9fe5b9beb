"""The JSON schema of the YAML files: the typed schema, and the options of every registered part."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

from kpnet.backbones import BACKBONES
from kpnet.config.fields import Recipe
from kpnet.config.pretraining import PretrainConfig
from kpnet.config.schema import Config
from kpnet.config.sweep import SweepConfig
from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.registry import load_plugins
from kpnet.core.skeleton import SkeletonFile
from kpnet.core.validation import options_model
from kpnet.data import DATASETS
from kpnet.data.base import COMMON_ARGUMENTS
from kpnet.data.transforms.augment import GROUPS, supported
from kpnet.heads import HEADS
from kpnet.heads.decoders import DECODERS

Json = dict[str, Any]
RECIPES: dict[str, type[Recipe]] = {recipe.command: recipe for recipe in (Config, PretrainConfig, SweepConfig)}

# Google style, after `inspect.cleandoc`: entries are indented by four spaces, their further lines by more.
_SECTION = re.compile(r"^(?:Args|Attributes|Returns|Yields|Raises|Examples?|Notes?|References?):$", re.MULTILINE)
_ARGS = re.compile(r"^Args:\n((?:(?: .*)?(?:\n|\Z))+)", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(\w+)(?: \([^)]*\))?: *(.*(?:\n+ {5,}.*)*)", re.MULTILINE)

_TEXT: Json = {"type": "string"}


def json_schema(command: str = "train") -> Json:
    """Return the JSON schema (2020-12) of the YAML that `kpnet <command>` takes, every short form included.

    Your own heads, decoders, backbones and data formats are part of it once they are registered.

    Args:
        command: "train", "pretrain" or "sweep".

    Returns:
        The schema, as plain dicts and lists.

    Raises:
        KpnetError: If `command` takes no YAML.

    Example:
        >>> json_schema("train")["title"]
        'kpnet train'
    """
    if command not in RECIPES:
        raise KpnetError(f'no schema of "{command}"{did_you_mean(command, RECIPES)}; there are: {", ".join(RECIPES)}')
    load_plugins()
    schema = RECIPES[command].model_json_schema()
    models: dict[str, Json] = schema["$defs"]
    if command in ("train", "pretrain"):
        models |= _parts("backbone", BACKBONES, libraries=True) | {"transform": _transform()}
    if command == "train":
        models |= _parts("decoder", DECODERS) | _parts("head", HEADS) | {"skeleton": _skeleton()}
        models |= _parts("format", DATASETS, excluded=COMMON_ARGUMENTS)
        formats, skeletons = _ref("format"), [_TEXT, _list(_TEXT), _ref("skeleton")]
        _narrow(models["ModelConfig"], backbone=_ref("backbone"), head=_ref("head"), heads=_mapping(_ref("head")))
        _narrow(
            models["DataConfig"], format=formats, transforms=_list(_ref("transform")), skeleton={"anyOf": skeletons}
        )
        _narrow(models["TrainFile"], format=formats, transforms=_list(_ref("transform")))
    elif command == "pretrain":
        _narrow(models["PretrainModelConfig"], backbone=_ref("backbone"))
        _narrow(models["ImagesConfig"], transforms=_list(_ref("transform")))
    for model in (schema, *models.values()):
        model.pop("title", None)
        for each in model.get("properties", {}).values():
            each.pop("title", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"kpnet {command}", **schema}


def schema_text(command: str = "train") -> str:
    """Return the text of `json_schema(command)`, as `kpnet config --schema` prints it."""
    return json.dumps(json_schema(command), indent=1, ensure_ascii=False) + "\n"


def description(cls: type) -> str:
    """Return the prose of a class's own docstring, without its sections."""
    return _SECTION.split(inspect.cleandoc(cls.__doc__ or ""), maxsplit=1)[0].strip()


def option_texts(cls: type) -> dict[str, str]:
    """Return the entries of the `Args:` sections of a class, its bases and their constructors; its own come first."""
    texts: dict[str, str] = {}
    for each in cls.__mro__[:-1]:
        for docstring in (each.__doc__, getattr(vars(each).get("__init__"), "__doc__", None)):
            section = _ARGS.search(inspect.cleandoc(docstring or ""))
            for name, text in _ENTRY.findall(section[1] if section else ""):
                texts.setdefault(name, " ".join(text.split()))
    return texts


def _ref(name: str) -> Json:
    return {"$ref": f"#/$defs/{name}"}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _mapping(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values, "minProperties": 1}


def _narrow(model: Json, **properties: Json) -> None:
    """Replace the types of properties; whether they may be null, their defaults and descriptions stay."""
    for name, narrow in properties.items():
        wide = model["properties"][name]
        null = {"type": "null"}
        kept = {key: wide[key] for key in ("default", "description") if key in wide}
        model["properties"][name] = ({"anyOf": [narrow, null]} if null in wide.get("anyOf", ()) else narrow) | kept


def _parts(
    kind: str,
    registry: Mapping[str, type],
    *,
    libraries: bool = False,
    excluded: frozenset[str] = frozenset(),
) -> dict[str, Json]:
    """Return definitions: `kind` is a name alone or a mapping of name and options, `kind.NAME` is such a mapping.

    Args:
        kind: Which kind of part, such as "head".
        registry: The parts by name.
        libraries: Whether names from timm and torchvision, with options that those check, are allowed too.
        excluded: Keyword-only parameters that are no options.
    """
    found = {f"{kind}.{name}": _options(name, cls, excluded) for name, cls in sorted(registry.items())}
    alone = [name for name in sorted(registry) if found[f"{kind}.{name}"]["required"] == ["name"]]
    choices: list[Json] = [{"enum": alone}, *map(_ref, found)]
    if libraries:
        other = {"name": {**_TEXT, "not": {"enum": sorted(registry)}}}
        choices += [_TEXT, {"type": "object", "properties": other, "required": ["name"]}]
    return {kind: {"anyOf": choices}, **found}


def _options(name: str, cls: type, excluded: frozenset[str]) -> Json:
    """Return the mapping of a part: its name, and its keyword-only parameters with their texts under `Args:`."""
    options = options_model(cls, excluded).model_json_schema()
    options["description"] = " ".join(description(cls).split())
    options["properties"] = {"name": {"const": name}, **options.get("properties", {})}
    options["required"] = ["name", *options.get("required", ())]
    properties, loss_terms = options["properties"], getattr(cls, "loss_terms", ())
    texts = option_texts(cls)
    for key in texts.keys() & properties.keys():
        properties[key]["description"] = texts[key]
    if "decoder" in properties:
        _narrow(options, decoder=_ref("decoder"))
    if "head" in properties:
        _narrow(options, head=_ref("head"))
    if "heads" in properties:
        _narrow(options, heads=_mapping(_ref("head")))
    if "loss" in properties and loss_terms:
        weights = {each: {"type": "number", "minimum": 0} for each in loss_terms}
        _narrow(options, loss={"type": "object", "properties": weights, "additionalProperties": False})
        if properties["loss"].get("default", 0) is None:
            properties["loss"]["default"] = getattr(cls, "defaults", None)
    return options


def _skeleton() -> Json:
    """Return the skeleton's mapping, in which a name may be a number: 1 is the point "1"."""
    text = json.dumps(SkeletonFile.model_json_schema()).replace(
        json.dumps(_TEXT), json.dumps({"type": ["string", "number"]})
    )
    schema: Json = json.loads(text)
    return schema


def _transform() -> Json:
    """Return the definition of a transform: a name, or a mapping of name to arguments; groups hold transforms."""
    several = _list(_ref("transform"))
    arguments: dict[str, Json] = {name: {"type": ["object", "null"]} for name in supported()}
    for name, keys in GROUPS.items():
        held = {"type": "object", "properties": {**{key: {} for key in keys}, "transforms": several}}
        arguments[name] = {"anyOf": [several, {**held, "required": ["transforms"], "additionalProperties": False}]}
    one = {"type": "object", "properties": arguments, "additionalProperties": False}
    alone = [name for name in arguments if name not in GROUPS]
    return {"anyOf": [{"enum": alone}, {**one, "minProperties": 1, "maxProperties": 1}]}
