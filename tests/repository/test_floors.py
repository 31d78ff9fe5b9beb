"""The floors: a package imports only what lies beneath it, and no modules import each other in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from support.paths import ROOT

FLOORS = (  # docs/contributing/architecture.md draws them
    ("core", "coordinates", "oks"),
    ("config", "decoding", "metrics", "rendering", "smoothing", "uncertainty"),
    ("backbones", "data", "losses"),
    ("heads",),
    ("models",),
    ("plot",),
    ("inference",),
    ("evaluation",),
    ("training",),
    ("experiments", "export", "labelling"),
    ("cli",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
FACE = "kpnet"  # kpnet/__init__.py imports lazily from all floors


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in sorted((ROOT / "kpnet").rglob("*.py"))}


def imported(module: str) -> set[str]:
    """The modules of kpnet that a module's imports name, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES and name not in (FACE, module)}


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_package_has_a_floor() -> None:
    assert {room(name) for name in MODULES if name != FACE} == set(FLOOR)


def test_nothing_imports_upward() -> None:
    upward = [
        f"{module} imports {other}"
        for module in MODULES
        if module != FACE
        for other in imported(module)
        if room(other) != room(module) and FLOOR[room(other)] >= FLOOR[room(module)]
    ]
    assert not upward


def test_no_circle() -> None:
    TopologicalSorter({name: imported(name) for name in MODULES if name != FACE}).prepare()


def test_the_face_is_imported_for_its_version_alone() -> None:
    """A module that imports `kpnet` itself would reach any floor through it."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == FACE:
                names = {alias.name for alias in node.names} - {"__version__"}
                assert all(f"{FACE}.{name}" in MODULES for name in names), f"{module}:{node.lineno}: {names}"
