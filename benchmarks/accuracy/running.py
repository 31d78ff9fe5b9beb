"""What the accuracy benchmarks share: the `kpnet` command, their result tables, and their command line."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
