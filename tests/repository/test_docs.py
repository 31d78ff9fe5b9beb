"""Every code block of the README and the docs runs as it stands, in a small world; every name in them exists."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.console import Run
from support.hub_server import Hub
from support.paths import ROOT
from support.small_world import make_world, without_downloads, without_epochs

import kpnet as package
from kpnet.backbones import BACKBONES
from kpnet.cli.json_schema import json_schema
from kpnet.config.loading import load_config
from kpnet.config.pretraining import load_pretrain_config
from kpnet.core.registry import GROUP
from kpnet.core.yaml import parse_yaml
from kpnet.data import DATASETS
from kpnet.data.transforms.augment import Augment
from kpnet.experiments.sweep_space import load_sweep
from kpnet.experiments.table import HEADINGS, cells
from kpnet.heads import HEADS
from kpnet.models.build import build_model
from kpnet.training.pretraining import METHODS

FILES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def _registries() -> Iterator[None]:
    """What a block registers is gone after it."""
    before = [(registry, dict(registry)) for registry in (HEADS, BACKBONES, DATASETS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)  # type: ignore[arg-type]


@pytest.mark.usefixtures("_registries")
@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if BLOCK.search(text)])
def test_blocks_run(
    page: str, world: Path, kpnet: Run, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after another, in one folder; Python goes on where the block before it ended."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    for revision in ("main", "v1"):
        hub.add("me/faces", world / "runs/facial_heatmap/final", revision)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    without_downloads(monkeypatch)
    names: dict[str, Any] = {}
    for block in BLOCK.finditer(PAGES[page]):
        language, text = block.groups()
        line = PAGES[page].count("\n", 0, block.start()) + 2
        try:
            if language == "python":
                exec(compile("\n" * (line - 1) + text, page, "exec"), names)
            elif language == "sh":
                with monkeypatch.context() as patch:
                    without_epochs(patch)
                    for command in text.replace("$PWD", str(tmp_path)).replace("\\\n", "").splitlines():
                        run_command(shlex.split(command, comments=True), kpnet)
            elif language == "yaml":
                build_yaml(text)
            else:
                assert language == "json", f"no test of {language or 'plain'} blocks"
                json.loads(text)
        except Exception as error:
            error.add_note(f"in the {language} block at {page}:{line}")
            raise


def run_command(words: list[str], kpnet: Run) -> None:
    """A line of a shell block; of a program that is not kpnet, that what it names is there."""
    target = words[-1] if ">" in words else None
    name, *arguments = words[: words.index(">")] if target else words
    if name == "kpnet":
        result = kpnet(*arguments)
        assert result.code == 0, result
        if target:
            Path(target).write_text(result.out)
    elif name == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif name == "tensorboard":
        assert Path(arguments[arguments.index("--logdir") + 1]).is_dir()
    else:
        assert [name, *arguments] == ["pip", "install", "."]


def build_yaml(text: str) -> None:
    """A whole config, or sections of one: schema, model and transforms; or a sweep."""
    if "space" in parse_yaml(text, "docs", "a config"):
        Path("sweep.yaml").write_text(text)
        load_sweep("sweep.yaml")
        return
    values = {"model": {"backbone": "conv_sandwich", "head": "heatmap"}, **parse_yaml(text, "docs", "a config")}
    command = "pretrain" if "images" in values.get("data", {}) else "train"
    jsonschema.Draft202012Validator(json_schema(command)).validate(values)
    if command == "pretrain":
        pretraining = load_pretrain_config(values)
        METHODS[pretraining.model.method](pretraining.model)
        return
    config = load_config(values)
    count = None if config.data.skeleton is not None else 15
    model = build_model(values, num_keypoints=count) if count else build_model(values)
    Augment(config.data.transforms, model.skeleton if count is None else package.Skeleton.load("facial15"))


def test_every_public_name_is_in_the_reference() -> None:
    listed = set(re.findall(r"^::: (\S+)$", "\n".join(PAGES.values()), re.MULTILINE))
    for name in package.__all__:
        public = getattr(package, name)
        place = f"{public.__module__}.{name}" if hasattr(public, "__module__") else public.__name__
        assert any(each == place or each.startswith(f"{place}.") for each in listed), name


@pytest.mark.parametrize("page", PAGES)
def test_names_exist(page: str) -> None:
    """Dotted names of kpnet, files of the checkout, and tests, wherever a page has them in code."""
    for name in re.findall(r"`([^`\n]+)`", BLOCK.sub("", PAGES[page])):
        path, _, test = name.partition("::")
        if name == GROUP:
            continue  # the entry points' group, no module
        if re.fullmatch(r"kpnet(\.\w+)+", name):
            resolve(name)
        elif re.fullmatch(r"(tests|configs|benchmarks|docs|kpnet)/[\w/]+\.\w+", path):
            assert (ROOT / path).is_file(), name
            assert not test or re.search(rf"def {test}\(", (ROOT / path).read_text()), name


def resolve(name: str) -> Any:
    """A module, or what is in one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        parent, _, last = name.rpartition(".")
        return getattr(resolve(parent), last)


def test_the_readmes_measures_are_those_of_the_file() -> None:
    """The README has three of the rows; the page of results has the whole table, which its build reads."""
    text = "| row |" + PAGES["README.md"].partition("| row |")[2].partition("\n\n")[0]
    headings = [cell.strip() for cell in text.splitlines()[0].split("|")[1:-1]]
    records = json.loads((ROOT / "benchmarks" / "results" / "shipped" / "comparison.json").read_text())["rows"]
    later = dict.fromkeys(("found_ap", "found_ap_sd"))  # a measure that is younger than the file
    measured = [dict(zip(HEADINGS, cells({**later, **record}), strict=True)) for record in records]
    rows = table(text)
    assert len(rows) == 3
    assert all(row in [[each[heading] for heading in headings] for each in measured] for row in rows)
    assert "<!-- generated: shipped -->" in PAGES["docs/results.md"].splitlines()


def table(text: str) -> list[list[str]]:
    """The cells of a Markdown table, but for its first line."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[1:] if line.startswith("|")][
        1:
    ]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere_and_nothing_is_left_to_fill_in(page: str) -> None:
    text = BLOCK.sub("", PAGES[page])
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or ((ROOT / page).parent / target).exists(), target
    assert "@@" not in text
