"""YAML: plain values alone, each read as YAML 1.2 says, and whatever is wrong told with its line."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kpnet import KpnetError
from kpnet.core.resources import shipped_configs, shipped_skeletons
from kpnet.core.yaml import parse_yaml, read_yaml, write_yaml


def parse(text: str) -> Any:
    return parse_yaml(text, "a.yaml", "a config")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("true", True),
        ("~", None),
        ("", None),
        ("# nothing", None),
        # What YAML 1.1 takes for something else.
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("2020-13-45", "2020-13-45"),
        ("no", "no"),
        ("1_000", "1_000"),
        ("=", "="),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("{1: a, no: b, ~: c}", {"1": "a", "no": "b", "~": "c"}),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}, e: {b: 3, <<: *x}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}, "e": {"b": 3}}),
        ("%YAML 1.2\n---\na: |\n  x\n  y\n...\n", {"a": "x\ny\n"}),
    ],
)
def test_plain_values(text: str, value: Any) -> None:
    assert parse(text) == value
    assert type(parse(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb:\n  c: 1\n  d: 1\n  c: 2", [":5:", '"c"', "twice", "line 3"]),
        ("train: {}\ndata: {}\ntrain: {}", [":3:", '"train"', "line 1"]),
        ("a: 1\nb: !!bool a", [":2:", '"a"', '"!!bool"']),
        ("a: 1\nb: !!python/object/apply:os.system [x]", [":2:", "python/object", "not supported"]),
        ("a: 1\nb: !mine c", [":2:", '"!mine"', "not supported"]),
        ("a: 1\nb: !!binary aGk=", [":2:", '"!!binary"']),
        ("a: 1\nb: " + "1" * 5000, [":2:", "5000 digits"]),
        ("a: 1\nb: &x [*x]", [":2:", '"*x"', "holds itself"]),
        ("a: 1\nb: *gone", [":2:", '"*gone"', "anchor"]),
        ("a: 1\nb: " + "[" * 100_000, [":2:", "levels of nesting"]),
        ("a: 1\nb: " + "{a: " * 60 + "1" + "}" * 60, [":2:", "levels of nesting"]),
        ("a: 1\nb:\n\tc: 1", [":3:", "spaces, not tabs"]),
        ("a: 1\nb: \x1b", [":2:", r'"\x1b"']),
        ("a: 1\nb: \udce9", [":2:", "not Unicode"]),
        ('a: 1\nb: "\\0"', [":2:", "NUL"]),
        ("a: 1\n? [b]\n: c", [":2:", "key"]),
        ("a: 1\n---\nb: 1", [":2:", "second document"]),
        ("a: 1\nb: [1, 2", ["not YAML"]),
        ("a: 1\n<<: 3", [":2:", "mapping"]),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_is_not_plain(text: str, expected: list[str]) -> None:
    with pytest.raises(KpnetError, match=r"^a\.yaml.*: not YAML: .*; expected a config$") as caught:
        parse(text)
    for word in expected:
        assert word in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", ["list", "mapping", "merge"])
def test_a_bomb_is_not_blown_up(kind: str) -> None:
    """Twelve lines that stand for 10^12 values."""
    inner = {"list": "[{}]", "mapping": "{{{}}}", "merge": "{{{}}}"}[kind]
    lines = ["a0: &a0 {b: x}"]
    for i in range(1, 13):
        aliases = [f"*a{i - 1}"] * 10
        if kind != "list":
            aliases = [f"k{k}: {alias}" for k, alias in enumerate(aliases)]
        if kind == "merge":
            aliases[0] = f"<<: *a{i - 1}"
        lines.append(f"a{i}: &a{i} {inner.format(', '.join(aliases))}")
    with pytest.raises(KpnetError, match=r"^a\.yaml:\d+: not YAML: more than .* values"):
        parse("\n".join(lines))


def test_a_large_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("#" * (2**22 + 1))
    with pytest.raises(KpnetError, match=r"a\.yaml: 4\.0 MiB"):
        read_yaml(path, "a config")
    monkeypatch.setattr("kpnet.core.yaml.MAX_VALUES", 1000)
    assert len(parse("[" + "1," * 999 + "]")) == 999
    with pytest.raises(KpnetError, match="more than 1,000 values"):
        parse("[" + "1," * 1000 + "]")


def test_an_alias_is_a_copy() -> None:
    values = parse("{a: &x {b: [1]}, c: *x}")
    values["a"]["b"].append(2)
    assert values["c"] == {"b": [1]}


@pytest.mark.parametrize("path", [*shipped_configs().values(), *shipped_skeletons().values()], ids=lambda p: p.stem)
def test_shipped_files_read_as_with_pyyaml(path: Path) -> None:
    with path.open(encoding="utf-8") as file:
        loaded = yaml.safe_load(file)  # the recipes write 1.0e-3, which YAML 1.1 takes for a number, too
    assert read_yaml(path, "YAML") == loaded


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.sampled_from(
    [
        "1e-3",
        "010",
        "0o17",
        "0x1",
        "1_0",
        "12:30",
        "no",
        "2020-01-01",
        "~",
        "",
        "<<",
        "=",
        ".5",
        "+1",
        " x ",
        "a: b",
        "#",
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert parse(write_yaml(value)) == value


@given(st.text(max_size=60) | st.text("[]{}:,-?&*!|>'\"%@`#\n\t <a1.~", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(KpnetError):
        parse(text)


def test_scalars_as_the_text_that_stands_there() -> None:
    text = "[true, ~, 1.10, 007, 2020-01-02, 'x', 0x1, 1_1, .inf]"
    expected = ["true", "~", "1.10", "007", "2020-01-02", "x", "0x1", "1_1", ".inf"]
    assert parse_yaml(text, "a", "a list", scalars_as_text=True) == expected
