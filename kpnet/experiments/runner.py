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
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, cast

from filelock import FileLock, Timeout
from rich.console import Console

from kpnet.core.errors import KpnetError, NotFiniteError
from kpnet.core.files import write_json
from kpnet.experiments.plan import Row, Trial
from kpnet.experiments.result import FILE, Result, load_result, measure_run
from kpnet.experiments.watcher import ShouldContinue, TrialStopped

MARK = "comparison.json"


PATIENCE = 30.0  # seconds for a killed comparison's training to notice


State = Literal["done", "failed", "diverged", "stopped"]


@dataclass
class Outcome:
    """Of a trial: its result, or why there is none."""

    trial: Trial
    folder: Path
    result: Result | None = None
    problem: str | None = None
    state: State = "done"


@dataclass(frozen=True)
class Output:
    """What a training says: by itself, as `train` does; beside other workers, lines with its title before each."""

    title: str
    terminal: bool
    workers: int

    def console(self) -> Console:
        if self.workers == 1:
            return Console(force_terminal=self.terminal or None)
        return Console(file=cast(TextIO, self), force_terminal=False, width=200)

    def write(self, text: str) -> None:
        sys.stdout.write("".join(f"{self.title}: {line}" for line in text.splitlines(keepends=True)))

    def flush(self) -> None:
        sys.stdout.flush()


@contextmanager
def locked_folder(out: Path, mark: str) -> Iterator[None]:
    """The folder, made or taken up again, and nobody else's meanwhile; it is known by the file `mark`.

    A KpnetError where it holds something else, or where another comparison is at work in it.
    """
    if out.exists() and not (out.is_dir() and ((out / mark).is_file() or not any(out.iterdir()))):
        raise KpnetError(f"{out}: holds something else; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / mark).is_file():
        write_json(out / mark, {})
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise KpnetError(f"{out}: another kpnet is at work in it; wait for it, or give another --out") from None


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C is a KpnetError that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KpnetError("interrupted; the same command goes on where it was") from None


def run_trials(rows: list[Row], out: Path, console: Console, workers: int) -> Iterator[Outcome]:
    """Every trial's outcome as it comes, those of the first seed first: trained, gone on with, or found finished."""
    rounds = max(len(row.trials) for row in rows)
    order = [row.trials[i] for i in range(rounds) for row in rows if i < len(row.trials)]

    def run(number: int, trial: Trial) -> Outcome:
        title = f"[{number}/{len(order)}] {trial.row}, seed {trial.config.train.seed}"
        return run_trial(trial, out, console, title, workers)

    if workers == 1:
        yield from map(run, range(1, len(order) + 1), order)
        return
    with ThreadPoolExecutor(workers) as pool:  # each waits for a training's process
        every = [pool.submit(run, number, trial) for number, trial in enumerate(order, 1)]
        try:
            for done in as_completed(every):
                yield done.result()
        finally:
            for each in every:
                each.cancel()


def run_trial(
    trial: Trial, out: Path, console: Console, title: str, workers: int = 1, watch: ShouldContinue | None = None
) -> Outcome:
    """The outcome of one trial in a comparison's folder, which so many workers share; `watch` is asked after each
    validation."""
    folder = trial.folder(out / "runs")
    if finished(folder, trial):
        console.print(f"{title}: finished, not repeated", markup=False, highlight=False, soft_wrap=True)
        return Outcome(trial, folder, load_result(folder))
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    state, problem = train_apart(trial, folder, Output(title, console.is_terminal, workers), watch)
    if state == "done":
        return Outcome(trial, folder, load_result(folder))
    console.print(f"{trial.row}: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    return Outcome(trial, folder, problem=problem, state=state)


def finished(folder: Path, trial: Trial) -> bool:
    """Has this very trial a result? Its key is in the folder's name in short, and in the result as a whole."""
    try:
        return bool(json.loads((folder / "trial.json").read_text())["key"] == trial.key) and (folder / FILE).is_file()
    except (OSError, ValueError, KeyError):
        return False


def train_apart(trial: Trial, folder: Path, output: Output, watch: ShouldContinue | None) -> tuple[State, str]:
    """`attempt` in a process of its own: its memory is its own, and what kills it kills it alone."""
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    method = multiprocessing.get_start_method()
    child = context.Process(target=_work, args=(trial, folder, its, os.getpid(), output, watch is not None, method))
    child.start()
    its.close()
    answer: tuple[State, str] | None = None
    with suppress(EOFError, ConnectionError):  # it may die without a word
        while answer is None:
            kind, *told = mine.recv()
            if kind == "epoch":
                assert watch is not None
                mine.send(watch(*told))
            else:
                answer = told[0], told[1]
    child.join()
    if answer is not None:
        return answer
    code = child.exitcode or 0
    why = f"signal {-code}" if code < 0 else f"exit code {code}"
    return "failed", f"the training ended with {why}" + ("; is there enough memory?" if code == -9 else "")


def _work(trial: Trial, folder: Path, pipe: Any, parent: int, output: Output, watched: bool, method: str) -> None:
    """In the child: train or go on, measure, and say what came of it."""
    import torch

    exit_with_parent(parent)
    multiprocessing.set_start_method(method, force=True)  # or loaders' workers would be spawned too, six seconds each
    torch.set_num_threads(max(1, torch.get_num_threads() // output.workers))

    def ask(epoch: int, score: float) -> bool:
        pipe.send(("epoch", epoch, score))
        return bool(pipe.recv())

    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=PATIENCE):
            pipe.send(("end", *attempt(trial, folder, output.console(), ask if watched else None)))
    except KeyboardInterrupt:
        sys.exit(130)


def attempt(trial: Trial, folder: Path, console: Console, watch: ShouldContinue | None = None) -> tuple[State, str]:
    """Train, or go on, and measure; what came of it, and what went wrong, in a line."""
    try:
        _train_and_measure(trial, folder, console, watch)
    except TrialStopped as stop:
        return "stopped", str(stop)
    except NotFiniteError as error:
        return "diverged", str(error)
    except KpnetError as error:
        return "failed", str(error)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0]
    return "done", ""


def _train_and_measure(trial: Trial, folder: Path, console: Console, watch: ShouldContinue | None) -> None:
    from kpnet.experiments.watcher import PruningCallback
    from kpnet.training.supervised import train
    from kpnet.training.trainer import on_gpu

    resume = (folder / "last.ckpt").is_file()
    if folder.exists() and not resume:  # killed before its first epoch's end
        shutil.rmtree(folder)
    watchers = [] if watch is None else [PruningCallback(watch)]
    before = _epochs(folder)
    train(trial.config, out=folder, resume=resume, console=console, callbacks=watchers)
    write_json(folder / "trial.json", {"key": trial.key, "row": trial.row})
    trained = _epochs(folder) > before  # and not only measured: a training's memory cannot be told from that
    measure_run(folder, peak_bytes=_peak_bytes(on_gpu(trial.config.trainer)) if trained else None).save(folder)


def _epochs(run: Path) -> int:
    """Lines of its metrics."""
    path = run / "metrics.csv"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def _peak_bytes(gpu: bool) -> int | None:
    """The most memory that the training held: the GPU's, or that of the process; None on Windows."""
    import torch

    if gpu:
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def exit_with_parent(parent: int) -> None:
    """End with the parent: kill -9 gives it no chance to say so."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
