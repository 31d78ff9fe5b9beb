"""How kpnet's texts read: docstrings in Google style, and one word for each thing."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

PACKAGES = sorted(
    {path.relative_to(ROOT / "kpnet").parts[0].removesuffix(".py") for path in ROOT.glob("kpnet/**/*.py")}
)
TEXTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("configs/**/*.yaml")),
]
TEXTS += [*sorted(ROOT.glob("examples/**/*.md")), ROOT / "benchmarks" / "README.md"]
# Other words for: image; prediction or output; unfreeze; reported, found or derived.
UNWANTED = re.compile(r"\b(pictures?|answers?|answered|thaws?|thawed|told)\b", re.IGNORECASE)
PUBLIC = json.loads((ROOT / "tests" / "public_api.json").read_text())


def sources(package: str) -> list[Path]:
    return [
        path
        for path in sorted((ROOT / "kpnet").rglob("*.py"))
        if path.relative_to(ROOT / "kpnet").parts[0].removesuffix(".py") == package
    ]


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Place and text of every docstring of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'name', 'module')}", text


@pytest.mark.parametrize("package", PACKAGES)
def test_first_lines_are_sentences(package: str) -> None:
    wrong = []
    for path in sources(package):
        for place, text in docstrings(path):
            first, _, rest = text.partition("\n")
            if not first.endswith((".", "`.")) or first.startswith("Of ") or (rest and not rest.startswith("\n")):
                wrong.append(f"{place}: {first}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_one_word_for_each_thing_in_code(package: str) -> None:
    """In docstrings, messages and comments; names of other libraries stand in backquotes."""
    wrong = []
    for path in sources(package):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type in (tokenize.STRING, tokenize.COMMENT):
                wrong += [
                    f"{path.relative_to(ROOT)}:{token.start[0]}: {w[0]}"
                    for w in UNWANTED.finditer(re.sub(r"`[^`]*`", "", token.string))
                ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "path", [path for path in TEXTS if path.is_file()], ids=lambda path: str(path.relative_to(ROOT))
)
def test_one_word_for_each_thing_in_pages(path: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not [found[0] for found in UNWANTED.finditer(text)]


def ours(function: Any) -> bool:
    """Whether kpnet wrote it: a constructor or method may be another library's."""
    return str(getattr(function, "__module__", "kpnet")).startswith("kpnet")


def callables() -> Iterator[tuple[str, Any]]:
    """The public functions and classes, and the public methods that kpnet's classes define themselves."""
    seen = set()
    for module, names in PUBLIC.items():
        for name, signature in names.items():
            thing = getattr(importlib.import_module(module), name)
            if signature is None or thing in seen or not ours(getattr(thing, "__init__", thing)):
                continue
            seen.add(thing)
            yield f"{module}.{name}", thing
            if inspect.isclass(thing):
                for key, held in vars(thing).items():
                    function = getattr(held, "__func__", held)
                    if inspect.isfunction(function) and not key.startswith("_") and ours(function):
                        yield f"{module}.{name}.{key}", function


@pytest.mark.parametrize(("place", "thing"), [pytest.param(*each, id=each[0]) for each in callables()])
def test_public_names_say_what_they_take_and_give(place: str, thing: Any) -> None:
    """Args names every parameter, Returns is there where something is returned; an inherited docstring counts."""
    owner = thing.__init__ if inspect.isclass(thing) else thing
    text = inspect.getdoc(thing) or ""
    if inspect.isclass(thing) and "Args:" not in text and "Attributes:" not in text:
        text += "\n" + (inspect.getdoc(thing.__init__) or "")
    assert text, "no docstring"
    parameters = [
        p
        for n, p in inspect.signature(owner).parameters.items()
        if n not in ("self", "cls") and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    section = re.search(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    named = re.findall(r"^ {4}\*{0,2}(\w+)(?: \([^)]*\))?:", section[1], re.MULTILINE) if section else []
    missing = [p.name for p in parameters if p.name not in named]
    assert not missing, f"{place}: Args lacks {', '.join(missing)}"
    returns = inspect.signature(thing).return_annotation if not inspect.isclass(thing) else None
    if returns not in (None, "None", inspect.Signature.empty):
        assert re.search(r"^(Returns|Yields):", text, re.MULTILINE), f"{place}: no Returns"
