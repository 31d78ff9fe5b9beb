"""Where tests lie: `tests/a/test_b.py` tests `kpnet/a/b.py`, so that its path says what has failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.paths import ROOT

TESTS, PACKAGE = ROOT / "tests", ROOT / "kpnet"
ELSEWHERE = ("integration", "repository", "robustness", "support")  # several packages, the repository, helpers

# Files that test no single module, by what they test.
SEVERAL = {
    # What every part of a registry promises.
    "backbones/test_contract.py": "every backbone",
    "heads/test_contract.py": "every head",
    "data/formats/test_contract.py": "every data format",
    "data/formats/test_damaged_files.py": "damaged files, in every data format",
    "heads/test_weights.py": "the weights of points, in every head's loss",
    # One subject of a package.
    "labelling/test_page.py": "the labelling page in a browser",
    "config/test_training_files.py": "data.train in the schema and when it is loaded",
    "core/test_registry_plugins.py": "entry points of the registry",
    "models/test_foreign_weights.py": "models on weights of timm",
    # Subjects of the command line, over its subcommands.
    "cli/test_commands.py": "train, evaluate, calibrate and resuming",
    "cli/test_bad_input.py": "bad files and configs",
    "cli/test_failures.py": "full disks, divergence, interruptions",
    "cli/test_outputs.py": "which files the commands write, and which they leave alone",
    "cli/test_other_formats.py": "data of another format than the model's",
}
FOUND = sorted(
    path.relative_to(TESTS) for path in TESTS.rglob("test_*.py") if path.relative_to(TESTS).parts[0] not in ELSEWHERE
)


def candidates(path: Path) -> list[Path]:
    """The modules and packages that a test file may be the test of.

    `tests/a/test_b.py`: the module `kpnet/a/b.py` or the package `kpnet/a/b/`; or the module `kpnet/a.py`, where the
    tests of one module fill a folder.
    """
    name = path.stem.removeprefix("test_")
    found = [PACKAGE / path.parent / f"{name}.py", PACKAGE / path.parent / name / "__init__.py"]
    return found if path.parent == Path() else [*found, (PACKAGE / path.parent).with_suffix(".py")]


@pytest.mark.parametrize("path", FOUND, ids=str)
def test_every_test_lies_at_the_path_of_what_it_tests(path: Path) -> None:
    here = [each for each in candidates(path) if each.is_file()]
    if path.as_posix() in SEVERAL:
        assert (PACKAGE / path.parent).is_dir()
    else:
        assert here, f"tests/{path}: there is no {' or '.join(str(e.relative_to(ROOT)) for e in candidates(path))}"


def test_the_exceptions_are_needed() -> None:
    assert {path.as_posix() for path in FOUND} >= SEVERAL.keys()
    unneeded = [name for name in SEVERAL if any(each.is_file() for each in candidates(Path(name)))]
    assert not unneeded


def test_beside_the_tests_lie_no_other_modules() -> None:
    """A file that pytest does not find by its name would test nothing."""
    others = [
        path.relative_to(TESTS).as_posix()
        for path in TESTS.rglob("*.py")
        if path.relative_to(TESTS).parts[0] != "support"
        and not path.name.startswith("test_")
        and path.name != "conftest.py"
    ]
    assert not others
