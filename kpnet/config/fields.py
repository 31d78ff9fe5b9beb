"""Building blocks of the config schema: bounded numbers, named parts, strict models."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from kpnet.core.files import expand_path

Positive = Annotated[int, Field(gt=0, lt=2**31)]
Side = Annotated[int, Field(gt=0, le=2**13)]
Channels = Annotated[int, Field(gt=0, le=2**16)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # as numpy's
# float32, in which torch computes, ends at 3e38.
Number = Annotated[float, Field(ge=-1e30, le=1e30)]
NonNegative = Annotated[float, Field(ge=0, le=1e30)]
Rate = Annotated[float, Field(gt=0, le=1e30)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# A part chosen by name: "resnet18", or {"name": …} with its options, which the part checks itself.
Part = str | dict[str, Any]


MAX_NAME = 150  # bytes; file systems take 255, and a comparison appends seed, fold and hash


def _folder_name(value: str) -> str:
    """Raise if a name cannot be that of one folder in `runs/`."""
    odd = any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") for c in value)
    if odd or value in ("", ".", "..") or value != value.strip():
        raise PydanticCustomError("folder_name", "expected the name of one folder, as the run goes to runs/NAME")
    if len(value.encode()) > MAX_NAME:
        raise PydanticCustomError("folder_name", "expected a name of at most {most} bytes", {"most": MAX_NAME})
    return value


FolderName = Annotated[str, AfterValidator(_folder_name)]
# With `~` and `$VAR` expanded. An empty one would mean the working folder.
FilePath = Annotated[str, Field(min_length=1), AfterValidator(expand_path)]


def square(value: Any) -> Any:
    """Return one number as both sides."""
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass(frozen=True)
class ShortForm:
    """Validator of a union: `adam` stands for `{name: adam}`, and options alone for those of the default."""

    default: str

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return {"name": self.default, **value} if isinstance(value, Mapping) else value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the same two short forms: the names that need no option, and a member without its name."""
        members: dict[str, str] = handler(schema)["discriminator"]["mapping"]
        alone = []
        for name, reference in members.items():
            member = handler.resolve_ref_schema({"$ref": reference})
            needed = [key for key in member.get("required", ()) if key != "name"]
            alone += [] if needed else [name]
            member["required"] = needed if name == self.default else ["name", *needed]
        choices: list[dict[str, Any]] = [{"$ref": reference} for reference in members.values()]
        return {"anyOf": [*choices, {"enum": alone}] if alone else choices}


ImageSize = Annotated[tuple[Side, Side], BeforeValidator(square, json_schema_input_type=tuple[Side, Side] | Side)]


class StrictModel(BaseModel):
    """Model that refuses unknown keys.

    The string under a field is its description, in the JSON schema and in the reference.
    """

    model_config = ConfigDict(
        extra="forbid", protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )


class FileEntry(StrictModel):
    """An entry of a list of files: a subclass has the key `file`, and options. A file alone is written as its name."""

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> Any:
        values = {key: value for key, value in handler(self).items() if key in self.model_fields_set}
        return values["file"] if len(values) == 1 else values


def file_entries(value: Any) -> list[Any]:
    """Return one file or a list of them, each a name or a mapping, as a list of mappings."""
    entries = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return [entry if isinstance(entry, (Mapping, FileEntry)) else {"file": entry} for entry in entries]


class Recipe(StrictModel):
    """A whole YAML, for `kpnet <command>`."""

    command: ClassVar[str]
