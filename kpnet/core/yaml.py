"""Read and write YAML: plain values alone, bounded, and without YAML's surprises.

Dates stay text, and numbers and booleans are those of YAML 1.2: `1e-3` is a number, `no` and `12:30` are text. Keys
are text. A key that stands twice, a tag that is not plain YAML and an alias that holds itself are errors. All that is
needed of aliases and merge keys (`<<`) works; each alias is a copy of its own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from kpnet.core.display import display_name
from kpnet.core.errors import KpnetError
from kpnet.core.reading import read_text

MAX_BYTES = 2**22
MAX_DEPTH = 50
MAX_VALUES = 200_000  # aliases counted as often as they are used
MAX_DIGITS = 300  # no float has more before its point

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
# The plain scalars of YAML 1.2's core schema, https://yaml.org/spec/1.2.2/#1032-tag-resolution
_PLAIN = {
    "null": re.compile(r"(~|null|Null|NULL|)$"),
    "bool": re.compile(r"(true|True|TRUE|false|False|FALSE)$"),
    "int": re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"),
    "float": re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
}


def read_yaml(path: Path, expected: str) -> Any:
    """Read a YAML file.

    Args:
        path: The file.
        expected: What the file should be, for the error, such as `"a YAML config"`.

    Returns:
        Its values: dicts with text keys, lists, text, numbers, booleans and None.

    Raises:
        KpnetError: The file cannot be read, or it is not plain YAML; the message names the file and the line.
    """
    return _parse(read_text(path, expected, MAX_BYTES), str(path), expected, lines=True)


def parse_yaml(text: str, where: str, expected: str, *, scalars_as_text: bool = False) -> Any:
    """Parse YAML, as `read_yaml` does.

    Args:
        text: The YAML.
        where: The file or option that it is from, for the error.
        expected: What it should be, for the error.
        scalars_as_text: Keep numbers, booleans and nulls as the text that stands there.

    Returns:
        Its values.

    Raises:
        KpnetError: It is not plain YAML.
    """
    if len(text) > MAX_BYTES:
        raise KpnetError(f"{where}: more than {MAX_BYTES // 2**20} MiB; expected {expected}")
    return _parse(text, where, expected, lines="\n" in text, scalars_as_text=scalars_as_text)


def _parse(text: str, where: str, expected: str, lines: bool, scalars_as_text: bool = False) -> Any:
    try:
        return _Reader(text, scalars_as_text).document()
    except _NotPlainYamlError as error:
        line = f":{error.line + 1}" if lines and error.line is not None else ""
        raise KpnetError(f"{where}{line}: not YAML: {error}; expected {expected}") from None


def write_yaml(values: Any, **options: Any) -> str:
    """Return values as YAML that `read_yaml` and other readers read alike, keys in their order.

    Args:
        values: Dicts, lists, text, numbers, booleans and None.
        **options: Options of `yaml.dump`.

    Returns:
        The YAML.
    """
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, **options))


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes what YAML 1.2 takes for a number, too."""


for _name in ("int", "float"):
    _Dumper.add_implicit_resolver(_TAG + _name, _PLAIN[_name], list("-+.0123456789"))


class _NotPlainYamlError(Exception):
    def __init__(self, problem: str, line: int | None) -> None:
        super().__init__(problem)
        self.line = line


class _Reader:
    """Builds the values of one document from the parser's events, so that nothing grows before it is counted."""

    def __init__(self, text: str, scalars_as_text: bool = False) -> None:
        self.text, self.scalars_as_text = text, scalars_as_text
        self.events = self._events()
        self.count = 0
        self.anchors: dict[str, tuple[Any, int] | None] = {}  # value and its number of values; None: not complete yet

    def _events(self) -> Iterator[Any]:
        try:
            yield from yaml.parse(self.text, Loader=_LOADER)
        except UnicodeEncodeError as error:  # a lone surrogate
            self._fail("it has a character that is not Unicode", self.text.count("\n", 0, error.start))
        except yaml.reader.ReaderError as error:
            char = chr(error.character) if isinstance(error.character, int) else str(error.character)
            found = self.text.find(char)
            line = self.text.count("\n", 0, found) if found >= 0 else None
            self._fail(f'the control character "{display_name(char)}" is not allowed', line)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            tab = mark and re.match(r" *\t", "".join(self.text.split("\n")[mark.line : mark.line + 1]))
            self._fail(f"{error.problem}{'; indent with spaces, not tabs' if tab else ''}", mark and mark.line)

    def _fail(self, problem: str, event: Any) -> NoReturn:
        raise _NotPlainYamlError(problem, event if event is None or isinstance(event, int) else _line(event))

    def document(self) -> Any:
        """Return the values of the only document; None if there is none."""
        value: Any = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._fail("a second document begins here", event)
            elif isinstance(event, yaml.NodeEvent):
                value = self._value(event, 0)
        return value

    def _value(self, event: Any, depth: int) -> Any:
        self.count += 1
        if depth > MAX_DEPTH:
            self._fail(f"more than {MAX_DEPTH} levels of nesting", event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        start, anchor = self.count, event.anchor
        if anchor is not None:
            self.anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(event, depth)
        else:
            value = self._mapping(event, depth)
        if anchor is not None:
            self.anchors[anchor] = value, self.count - start + 1
        self._bounded(event)
        return value

    def _bounded(self, event: Any) -> None:
        if self.count > MAX_VALUES:
            self._fail(f"more than {MAX_VALUES:,} values, aliases counted as often as they are used", event)

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self.anchors:
            self._fail(f'the alias "*{display_name(event.anchor)}" has no anchor before it', event)
        held = self.anchors[event.anchor]
        if held is None:
            self._fail(f'the alias "*{display_name(event.anchor)}" holds itself', event)
        value, size = held
        self.count += size
        self._bounded(event)
        return copy.deepcopy(value)

    def _sequence(self, start: Any, depth: int) -> list[Any]:
        self._check_tag(start, "seq")
        values = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            values.append(self._value(event, depth + 1))
        return values

    def _mapping(self, start: Any, depth: int) -> dict[str, Any]:
        self._check_tag(start, "map")
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self._fail("a key is a list or a mapping, expected text", event)
            key, line = event.value, _line(event)
            self._scalar(event)  # the same checks as for a value
            if key in lines:
                self._fail(f'the key "{display_name(key)}" stands twice, in line {lines[key] + 1} too', event)
            lines[key] = line
            if key == "<<" and event.implicit[0]:
                merged = self._merge(event, depth)
            else:
                values[key] = self._value(next(self.events), depth + 1)
        return merged | values

    def _merge(self, key: Any, depth: int) -> dict[str, Any]:
        held = self._value(next(self.events), depth + 1)
        mappings = held if isinstance(held, list) else [held]
        if not all(isinstance(each, dict) for each in mappings):
            self._fail('"<<" takes a mapping or a list of mappings', key)
        return {name: value for each in reversed(mappings) for name, value in each.items()}

    def _check_tag(self, event: Any, expected: str) -> None:
        if event.tag not in (None, "!", _TAG + expected):
            self._fail(f'the tag "{display_name(_shown(event.tag))}" is not supported', event)

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if "\0" in text:
            self._fail("a text has a NUL character", event)
        if event.tag in (None, "!") and self.scalars_as_text:
            return text
        if event.tag in (None, "!"):
            kind = next((k for k, p in _PLAIN.items() if p.match(text)), "str") if event.implicit[0] else "str"
        else:
            kind = event.tag.removeprefix(_TAG)
            if event.tag != _TAG + kind or kind not in (*_PLAIN, "str"):
                self._fail(f'the tag "{display_name(_shown(event.tag))}" is not supported', event)
            if kind != "str" and not _PLAIN[kind].match(text) and not (kind == "float" and _PLAIN["int"].match(text)):
                self._fail(f'"{display_name(text)}" is no value of the tag "{_shown(event.tag)}"', event)
        if kind in ("int", "float") and len(text) > MAX_DIGITS:
            self._fail(f"a number of {len(text)} digits", event)
        return _convert(kind, text)


def _line(event: Any) -> int:
    return int(event.start_mark.line)


def _convert(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _shown(tag: str) -> str:
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag
