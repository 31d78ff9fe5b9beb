"""The pages for contributors: what they name exists, their drawing is that of the floors, their skeletons work."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository.test_floors import FLOORS
from support.paths import ROOT

import kpnet

SVG = ROOT / "docs" / "images" / "floors.svg"
GUIDES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "contributing").glob("*.md"))]
OTHERS = [ROOT / "SECURITY.md", ROOT / "benchmarks" / "README.md", *sorted(ROOT.glob("examples/*/README.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in [*GUIDES, *OTHERS]}
TOP = r"(?:kpnet|tests|docs|benchmarks|examples|configs|\.github)"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    """Paths in backquotes, but for those with a <placeholder>; and relative links."""
    text = BLOCK.sub("", PAGES[page])
    paths = re.findall(rf"`({TOP}/[^`\s]*)`", text) + re.findall(r"\b(benchmarks/\w+/\w+\.py)\b", text)
    paths += re.findall(r"`([A-Z][\w.]+\.(?:md|cff)|Makefile|constraints\.txt|pyproject\.toml|LICENSE)`", text)
    missing = [path for path in paths if "<" not in path and not (ROOT / path.partition("::")[0]).exists()]
    folder = (ROOT / page).parent
    links = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("https://")]
    assert not missing + [target for target in links if not (folder / target).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", PAGES[page], re.MULTILINE))
    assert named <= targets()


def test_workflows_call_targets_that_exist_and_say_that_they_have_not_been_run() -> None:
    assert {path.name for path in WORKFLOWS} == {"docs.yml", "release.yml", "test.yml"}
    for path in WORKFLOWS:
        text = path.read_text()
        assert "has not been run" in text.splitlines()[0]
        jobs = yaml.safe_load(text)["jobs"]
        commands = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
        named = {name for command in commands for name in re.findall(r"^make ([\w-]+)", command, re.MULTILINE)}
        assert named
        assert named <= targets()


def test_the_workflows_test_the_pythons_that_are_promised() -> None:
    test = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    versions = test["test"]["strategy"]["matrix"]["python-version"]
    lowest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert lowest is not None
    assert versions[0] == lowest[1] == test["lowest"]["steps"][1]["with"]["python-version"]


def test_issue_forms_have_what_they_need() -> None:
    for name in ("bug_report", "feature_request"):
        form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
        assert form["name"]
        assert form["description"]
        for field in form["body"]:
            assert field["type"] == "textarea"
            assert field["attributes"]["label"]
    assert len({field["id"] for field in form["body"]}) == len(form["body"])


def test_the_citation_is_of_this_version() -> None:
    """The keys that CFF 1.2.0 requires, and no other than it knows."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == kpnet.__version__
    assert citation["license"] == "MIT"
    assert all(author.keys() == {"name"} for author in citation["authors"])  # an entity, no person


def test_pre_commit_runs_the_tools_of_the_environment() -> None:
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    local = {hook["id"]: hook["entry"] for repo in repos if repo["repo"] == "local" for hook in repo["hooks"]}
    assert set(local) == {"ruff", "ruff-format", "mypy"}
    assert all(entry.startswith(".venv/bin/") for entry in local.values())


def test_the_changelog_has_the_headings_that_are_kept() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[0] == "Unreleased"
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds


def test_the_table_has_every_package_on_its_floor() -> None:
    text = PAGES["docs/contributing/architecture.md"]
    found = [(int(floor), name) for floor, names in re.findall(r"^\| (\d+) \| (.*?) \|", text, re.MULTILINE)
             for name in re.findall(r"`kpnet\.(\w+)`", names)]  # fmt: skip
    assert sorted(found) == sorted((floor, name) for floor, names in enumerate(FLOORS, 1) for name in names)


def test_the_drawing_has_every_package_on_its_floor() -> None:
    """A number and the names behind it, from the top floor down."""
    floors: dict[int, set[str]] = {}
    for kind, text in re.findall(r'<text class="(floor|name)"[^>]*>(\w+)</text>', SVG.read_text()):
        if kind == "floor":
            floors[int(text)] = set()
        else:
            floors[min(floors)].add(text)
    assert floors == {floor: set(names) for floor, names in enumerate(FLOORS, 1)}


def test_benchmarks_are_all_listed_and_shown_where_it_is_said() -> None:
    text = PAGES["benchmarks/README.md"]
    helpers = {"running.py", "memory.py"}
    for script in sorted((ROOT / "benchmarks").glob("*/*.py")):
        assert script.name in helpers or f"benchmarks/{script.parent.name}/{script.name}" in text, script
    for row in re.findall(r"^\| `.*$", text, re.MULTILINE):
        for name in re.findall(r"`benchmarks/results/(\w+)(?:\.csv|/)`", row):
            page = re.search(r"`(docs/\S+\.md)`", row)
            assert page is not None
            if name != "transfer_points":  # the errors of each point, which no page shows
                assert f"<!-- generated: {name} -->" in (ROOT / page[1]).read_text(), (name, page[1])


def skeletons() -> dict[str, tuple[bool, str]]:
    """The files of the page on adding a part: by path, whether the text is added to a file, and the text."""
    found: dict[str, tuple[bool, str]] = {}
    for language, text in BLOCK.findall(PAGES["docs/contributing/adding_a_part.md"]):
        assert language == "python"
        first, _, rest = text.partition("\n")
        named = re.fullmatch(r"# (added to )?(\S+\.py)", first)
        assert named is not None, first
        found[named[2]] = (named[1] is not None, rest)
    return found


REGISTERED = {  # what the page says to edit by hand: file, and what is put in place of what, or at the end
    "kpnet/heads/__init__.py": ("", "from kpnet.heads import average\n"),
    "kpnet/backbones/__init__.py": ("", "from kpnet.backbones import strided\n"),
    "kpnet/data/__init__.py": ("", "from kpnet.data.formats.points_jsonl import PointsJSONL\n"),
    "kpnet/data/formats/detect.py": ('".npz": "npz",', '".npz": "npz", ".jsonl": "points_jsonl",'),
    "kpnet/data/convert.py": (
        "WRITERS: Mapping[str, Writer] = {\n",
        "from kpnet.data.formats.points_jsonl import write_points_jsonl  # noqa: E402\n"
        "WRITERS: Mapping[str, Writer] = {\n"
        '    "points_jsonl": Writer(write_points_jsonl, boxes=False, visibility=False),\n',
    ),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the skeletons of the page in it."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("kpnet", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    shutil.copytree(ROOT / "configs", root / "configs")
    for name, (added, text) in skeletons().items():
        path = root / name
        assert path.exists() == added, name
        path.write_text((path.read_text() + "\n\n" if added else "") + text)
    for name, (old, new) in REGISTERED.items():
        text = (root / name).read_text()
        assert old in text, name
        (root / name).write_text(text.replace(old, new) if old else text + new)
    return root


def run(copy: Path, *command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_skeletons_pass_their_tests_and_the_contracts(copy: Path) -> None:
    own = [name for name in skeletons() if name.startswith("tests/")]
    assert len(own) == 4
    run(copy, "pytest", "-p", "no:cacheprovider", *own)
    contracts = ["tests/heads/test_contract.py", "tests/data/test_convert.py", "tests/repository/test_floors.py"]
    run(copy, "pytest", "-p", "no:cacheprovider", *contracts, "-k", "average or two_folders or upward or circle")


def test_the_skeletons_are_formatted_and_linted(tmp_path: Path) -> None:
    files: list[Any] = []
    for number, (name, (_, text)) in enumerate(skeletons().items()):
        files.append(tmp_path / str(number) / Path(name).name)
        files[-1].parent.mkdir()
        files[-1].write_text(text)
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    ignored = ["--ignore", "I001"]  # which packages are the repository's own is not known there
    run(tmp_path, "ruff", "check", *config, *ignored, *map(str, files))
    run(tmp_path, "ruff", "format", "--check", *config, *map(str, files))
