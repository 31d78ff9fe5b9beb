"""Change the code a little, at random, and tell which changes no test notices: `make mutants`.

A mutant is one change of one comparison, operator, constant, `not`, `and` or `or` in one module, run against that
module's own tests. Torch and the other libraries are imported once; each mutant runs in a fork, which compiles the
changed module in place of the one on disk. Each result is a line of the log at once, and a mutant that is in the log is
not run again.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    *("coordinates", "decoding", "losses", "metrics", "oks", "uncertainty", "smoothing", "core/skeleton"),
    *("heads/*", "heads/decoders/*", "models/calibration", "models/receptive_field", "inference/tracks"),
    *("evaluation/reliability", "evaluation/accumulators", "data/cropping", "data/formats/*", "data/transforms/*"),
    *("training/optim", "training/freezing", "training/weight_averaging"),
]
LIBRARIES = [
    *("torch", "torchvision", "timm", "lightning", "albumentations", "cv2", "scipy", "pandas", "matplotlib.pyplot"),
    *("pydantic", "hypothesis", "typer", "rich"),
]
# Tests of a module at another path than its own: what moves an image, and what is written and read back.
WRITERS = ("coco", "deeplabcut", "kaggle_csv", "npz", "points_csv", "pts", "writing")
FURTHER = {f"data/formats/{name}": "data/test_convert.py" for name in WRITERS}
FURTHER["data/transforms/matrices"] = "data/transforms/test_augment.py"
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the changed copies of one node of a syntax tree."""
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            new.ops = [COMPARISONS[type(op)]()]
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(new.op) in OPERATORS:
            new.op = OPERATORS[type(new.op)]()
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            new = new.operand
        case ast.Constant(value=bool()):
            new.value = not new.value
        case ast.Constant(value=int() | float()):
            new.value += 1
        case ast.IfExp():
            new.body, new.orelse = new.orelse, new.body
        case _:
            return
    yield new


def nodes(parent: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, Any]]:
    """Yield each node below `parent` but annotations and messages, with its own parent, field, and index there."""
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "type_params", "exc", "format_spec") or isinstance(parent, ast.JoinedStr):
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST):
                yield parent, field, index, node
                yield from nodes(node)


def mutants(path: Path) -> list[tuple[str, str]]:
    """The mutants of a module, each as its name and its source."""
    tree = ast.parse(path.read_text())
    found = []
    for parent, field, index, node in list(nodes(tree)):
        for new in changes(node):
            siblings = getattr(parent, field)
            setattr(parent, field, new if index is None else [*siblings[:index], new, *siblings[index + 1 :]])
            name = (
                f"{path.relative_to(ROOT)}:{node.lineno}:{node.col_offset}: {ast.unparse(node)} -> {ast.unparse(new)}"
            )
            found.append((name, ast.unparse(ast.fix_missing_locations(tree))))
            setattr(parent, field, siblings)
    return found


def own_tests(path: Path) -> list[str]:
    """The tests at the module's own path, else those of its package that import it, else those of its package.

    Those of `FURTHER` are added.
    """
    module = path.relative_to(ROOT / "kpnet").with_suffix("")
    here = ROOT / "tests" / module.parent
    own = [here / f"test_{module.name}.py", here / module.name]
    importing = f"from kpnet.{'.'.join(module.parts)} import"
    named = [each for each in here.glob("test_*.py") if importing in each.read_text()]
    package = [here.with_name(f"test_{here.name}.py"), here]
    found = [each for each in own if each.exists()] or named or [each for each in package if each.exists()][:1]
    further = [ROOT / "tests" / FURTHER[str(module)]] if str(module) in FURTHER else []
    return sorted(map(str, [*found, *further]))


def passes(path: Path, source: str, tests: list[str], seconds: float) -> bool:
    """Whether `tests` pass within a time with `source` in place of the module at `path`."""
    child = os.fork()
    if not child:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        read = SourceFileLoader.get_code

        def get_code(loader: SourceFileLoader, name: str) -> object:
            return compile(source, str(path), "exec") if loader.path == str(path) else read(loader, name)

        SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]
        code = pytest.main([*tests, "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--hypothesis-seed=0"])
        os._exit(int(code))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=MODULES, help="patterns below kpnet/, without .py")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=ROOT / "mutants.jsonl")
    options = parser.parse_args()
    paths = sorted({each for name in options.modules for each in (ROOT / "kpnet").glob(f"{name}.py")})
    every = [(path, *mutant) for path in paths for mutant in mutants(path)]
    chosen = random.Random(options.seed).sample(every, min(options.count, len(every)))
    known = {}
    if options.log.exists():
        known = {entry["mutant"]: entry["killed"] for entry in map(json.loads, options.log.read_text().splitlines())}
    for library in LIBRARIES:
        importlib.import_module(library)
    print(f"{len(chosen)} of {len(every)} mutants of {len(paths)} modules", flush=True)
    clean: dict[Path, float] = {}
    for path, name, source in sorted(chosen):
        if name in known:
            continue
        tests = own_tests(path)
        if path not in clean:
            begin = time.monotonic()
            if not passes(path, path.read_text(), tests, 600):
                sys.exit(f"the tests of {path} fail before any change: {' '.join(tests)}")
            clean[path] = time.monotonic() - begin
        known[name] = not passes(path, source, tests, 20 + 5 * clean[path])
        with options.log.open("a") as log:
            log.write(json.dumps({"mutant": name, "killed": known[name]}) + "\n")
        print("killed  " if known[name] else "SURVIVED", name, flush=True)
    print(
        f"{sum(known[name] for _, name, _ in chosen)} of {len(chosen)} mutants are killed by the tests of their module"
    )


if __name__ == "__main__":
    main()
