"""What the accuracy benchmarks share: the `kpnet` command, their result tables, and their command line."""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

RESULTS = Path(__file__).parents[1] / "results"


def kpnet(*arguments: object, threads: int) -> str:
    """Run the `kpnet` command in a process of its own and return what it prints on stdout."""
    command = [sys.executable, "-m", "kpnet.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def append_row(path: Path, row: Mapping[str, Any], columns: Sequence[str] | None = None) -> None:
    """Append a row to a CSV file, with the header first where the file is new. `columns` default to the row's keys."""
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(columns or row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def split_folder(arguments: Sequence[str], key: str, default: str) -> tuple[str, list[str]]:
    """Split positional arguments into the folder that `key=FOLDER` names (or the default) and the others."""
    folders = [argument.removeprefix(f"{key}=") for argument in arguments if argument.startswith(f"{key}=")]
    return (folders[0] if folders else default), [a for a in arguments if not a.startswith(f"{key}=")]


def is_asked_for(name: str, asked: Sequence[str]) -> bool:
    """Whether a row is named by one of the arguments, in full or up to a space; with no arguments every row is."""
    return not asked or any(name == each or name.startswith(f"{each} ") for each in asked)


def children_minutes() -> float:
    """Return the processor time of the commands that have ended, in minutes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) / 60


def rows_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of `[shared=FOLDER] [ROW ...] [--threads N] [--list]`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="*", metavar="shared=FOLDER | ROW")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="list the rows and whether they are measured")
    return parser


def shared_and_asked(
    parser: argparse.ArgumentParser, given: argparse.Namespace, names: Sequence[str]
) -> tuple[Path, list[str]]:
    """Return the folder of the data and the rows that are asked for; a row that is not among `names` is an error."""
    shared, asked = split_folder(given.arguments, "shared", "../shared")
    for each in asked:
        if not any(is_asked_for(name, [each]) for name in names):
            parser.error(f'no row "{each}"; there are: {", ".join(names)}')
    return Path(shared).resolve(), asked


def measure_seeds(
    names: Sequence[str],
    asked: Sequence[str],
    seeds: Sequence[int],
    table: Path,
    measure: Callable[[str, int], dict[str, Any]],
    *,
    only_list: bool,
) -> None:
    """Measure the rows that are asked for and that the table lacks, seed by seed, or list them."""
    for seed in seeds:
        for name in (each for each in names if is_asked_for(each, asked)):
            known = pd.read_csv(table) if table.exists() else pd.DataFrame({"row": [], "seed": []})
            done = ((known.row == name) & (known.seed == seed)).any()
            if done or only_list:
                print(f"{'measured' if done else 'not yet '}  {name}, seed {seed}")
                continue
            found = measure(name, seed)
            append_row(table, found)
            print(json.dumps(found), flush=True)
