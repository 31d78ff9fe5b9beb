"""Training what a comparison has planned, each run in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from kpnet.comparison.plan import Row, Trial
from kpnet.comparison.result import FILE, Result, load_result, measure_run
from kpnet.errors import KpnetError
from kpnet.files import write_atomic

MARK = "comparison.json"  # by which a folder is known as a comparison's
PATIENCE = 30.0  # seconds for a killed comparison's training to notice


@dataclass
class Outcome:
    """Of a trial: its result, or why there is none."""

    trial: Trial
    folder: Path
    result: Result | None = None
    problem: str | None = None


@contextmanager
def comparison_folder(out: Path) -> Iterator[None]:
    """The folder, made or taken up again, and nobody else's meanwhile.

    A KpnetError where it holds something else, or where another comparison is at work in it.
    """
    if out.exists() and not (out.is_dir() and ((out / MARK).is_file() or not any(out.iterdir()))):
        raise KpnetError(f"{out}: holds something else than a comparison; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / MARK).is_file():
        write_atomic(out / MARK, b"{}\n")
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise KpnetError(f"{out}: another comparison is at work in it; wait for it, or give another --out") from None


def run_trials(rows: list[Row], out: Path, console: Console) -> Iterator[Outcome]:
    """Every trial's outcome, those of the first seed first: trained, gone on with, or found finished."""
    trials = [trial for row in rows for trial in row.trials]
    rounds = max(len(row.trials) for row in rows)
    order = [row.trials[i] for i in range(rounds) for row in rows if i < len(row.trials)]
    for number, trial in enumerate(order, 1):
        folder = out / "runs" / trial.folder
        title = f"[{number}/{len(trials)}] {trial.row}, seed {trial.config.train.seed}"
        if finished(folder, trial):
            console.print(f"{title}: finished, not repeated", highlight=False, soft_wrap=True)
            yield Outcome(trial, folder, load_result(folder))
            continue
        console.print(title, highlight=False, soft_wrap=True)
        yield _train(trial, folder, console)


def finished(folder: Path, trial: Trial) -> bool:
    """Has this very trial a result? Its key is in the folder's name in short, and in the result as a whole."""
    try:
        return bool(json.loads((folder / "trial.json").read_text())["key"] == trial.key) and (folder / FILE).is_file()
    except (OSError, ValueError, KeyError):
        return False


def _train(trial: Trial, folder: Path, console: Console) -> Outcome:
    """In a process of its own: its memory is its own, and what kills it kills it alone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(trial, folder, sender, os.getpid(), console.is_terminal))
    child.start()
    sender.close()
    try:
        problem = receiver.recv()
    except EOFError:
        problem = None
    child.join()
    if problem is None and child.exitcode:
        why = f"signal {-child.exitcode}" if child.exitcode < 0 else f"exit code {child.exitcode}"
        hint = "; is there enough memory?" if child.exitcode == -9 else ""
        problem = f"the training ended with {why}{hint}"
    if problem is not None:
        console.print(f"{trial.row}: {problem}", style="red", highlight=False, soft_wrap=True)
        return Outcome(trial, folder, problem=problem)
    return Outcome(trial, folder, load_result(folder))


def _work(trial: Trial, folder: Path, sender: Any, parent: int, terminal: bool) -> None:
    """In the child: train or go on, measure, and send None, or what went wrong."""
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=PATIENCE):
            problem = attempt(trial, folder, Console(force_terminal=terminal or None))
    except KeyboardInterrupt:
        sys.exit(130)
    sender.send(problem)


def attempt(trial: Trial, folder: Path, console: Console) -> str | None:
    """Train, or go on, and measure; what went wrong, in a line."""
    try:
        _train_and_measure(trial, folder, console)
    except KpnetError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def _train_and_measure(trial: Trial, folder: Path, console: Console) -> None:
    from kpnet.engine.training import train

    resume = (folder / "last.ckpt").is_file()
    if folder.exists() and not resume:  # killed before its first epoch's end
        shutil.rmtree(folder)
    train(trial.config, out=folder, resume=resume, console=console)
    write_atomic(folder / "trial.json", json.dumps({"key": trial.key, "row": trial.row}).encode())
    measure_run(folder, peak_bytes=_peak_bytes()).save(folder)


def _peak_bytes() -> int | None:
    """The most memory that the training held: of the GPU's where there is one, else of the process; None on Windows."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _follow(parent: int) -> None:
    """End with the parent: kill -9 gives it no chance to say so."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
