"""Train the trials of a comparison, each in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, cast

from rich.console import Console

from kpnet.core.allocator import keep_freed_memory
from kpnet.core.console import PlainConsole
from kpnet.core.errors import KpnetError, NotFiniteError, UserInterruptError, first_line
from kpnet.core.files import write_json
from kpnet.core.locking import LOCK, locked
from kpnet.core.outputs import check_writable, folder_kind, is_occupied, mark_folder
from kpnet.experiments.plan import Row, ShouldContinue, Trial, TrialStopped
from kpnet.experiments.result import FILE, Result, load_result, measure_run

PATIENCE = 30.0  # seconds that a killed comparison's training has to notice and end

State = Literal["done", "failed", "diverged", "stopped"]


@dataclass
class Outcome:
    """What came of a trial: its result, or the problem."""

    trial: Trial
    folder: Path
    result: Result | None = None
    problem: str | None = None
    state: State = "done"


@dataclass(frozen=True)
class Output:
    """Where a training prints: to the terminal, or, beside other workers, with its title before each line."""

    title: str
    terminal: bool
    workers: int

    def console(self) -> Console:
        if self.workers == 1:
            return PlainConsole(force_terminal=self.terminal or None)
        return PlainConsole(file=cast(TextIO, self), force_terminal=False, width=200)

    def write(self, text: str) -> None:
        sys.stdout.write("".join(f"{self.title}: {line}" for line in text.splitlines(keepends=True)))

    def flush(self) -> None:
        sys.stdout.flush()


@contextmanager
def locked_folder(out: Path, kind: str) -> Iterator[None]:
    """Create or reopen a folder, and lock it for this process.

    Args:
        out: The folder.
        kind: What its marker states, such as "comparison".

    Raises:
        KpnetError: If it holds something else, or another process works in it.
    """
    check_writable(out)
    if is_occupied(out) and folder_kind(out) != kind:
        raise KpnetError(f"{out}: holds something else than a {kind}; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    mark_folder(out, kind)
    with locked(out / LOCK, out):
        yield


@contextmanager
def resumable() -> Iterator[None]:
    """Turn Ctrl-C into a KpnetError that says how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        raise UserInterruptError("interrupted; the same command continues where it stopped") from None


def run_trials(rows: list[Row], out: Path, console: Console, workers: int) -> Iterator[Outcome]:
    """Train or continue every trial that is not finished, the first seeds first; yield each outcome as it comes."""
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
    """Train, continue or find one trial.

    Args:
        trial: The trial.
        out: The comparison's folder.
        console: Where to print.
        title: What to call the trial there.
        workers: How many trainings share the machine.
        watch: Decides after each validation whether the training continues.

    Returns:
        Its outcome.
    """
    folder = trial.folder(out / "runs")
    if finished(folder, trial):
        with suppress(KpnetError):  # a damaged result is measured again
            result = load_result(folder)
            console.print(f"{title}: already finished", markup=False, highlight=False, soft_wrap=True)
            return Outcome(trial, folder, result)
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    state, problem = train_apart(trial, folder, Output(title, console.is_terminal, workers), watch)
    if state == "done":
        return Outcome(trial, folder, load_result(folder))
    console.print(f"{trial.row}: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    return Outcome(trial, folder, problem=problem, state=state)


def finished(folder: Path, trial: Trial) -> bool:
    """Return whether the folder holds a result of this very trial: its name has only the beginning of the key."""
    try:
        return bool(json.loads((folder / "trial.json").read_text())["key"] == trial.key) and (folder / FILE).is_file()
    except (OSError, ValueError, KeyError):
        return False


def train_apart(trial: Trial, folder: Path, output: Output, watch: ShouldContinue | None) -> tuple[State, str]:
    """Run `attempt` in a process of its own, so that its memory is measured alone, and a crash ends only that trial."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    method = multiprocessing.get_start_method()
    child = context.Process(target=_work, args=(trial, folder, theirs, os.getpid(), output, watch is not None, method))
    child.start()
    theirs.close()
    end: tuple[State, str] | None = None
    with suppress(EOFError, ConnectionError):  # the child may be killed
        while end is None:
            kind, *values = ours.recv()
            if kind == "epoch":
                assert watch is not None
                ours.send(watch(*values))
            else:
                end = values[0], values[1]
    child.join()
    if end is not None:
        return end
    code = child.exitcode or 0
    why = f"signal {-code}" if code < 0 else f"exit code {code}"
    return "failed", f"the training ended with {why}" + ("; is there enough memory?" if code == -9 else "")


def _work(trial: Trial, folder: Path, pipe: Any, parent: int, output: Output, watched: bool, method: str) -> None:
    """Run `attempt` in the child process, and send its outcome to the parent."""
    import torch

    exit_with_parent(parent)
    keep_freed_memory()
    multiprocessing.set_start_method(method, force=True)  # spawned loader workers would take six seconds each
    torch.set_num_threads(max(1, torch.get_num_threads() // output.workers))

    def ask(epoch: int, score: float) -> bool:
        pipe.send(("epoch", epoch, score))
        return bool(pipe.recv())

    try:
        with locked(folder.with_name(f".{folder.name}.lock"), folder, PATIENCE):
            pipe.send(("end", *attempt(trial, folder, output.console(), ask if watched else None)))
    except KeyboardInterrupt:
        sys.exit(130)


def attempt(trial: Trial, folder: Path, console: Console, watch: ShouldContinue | None = None) -> tuple[State, str]:
    """Train or continue a trial, and measure it; return how it ended, and the problem in one line."""
    try:
        _train_and_measure(trial, folder, console, watch)
    except TrialStopped as stop:
        return "stopped", str(stop)
    except NotFiniteError as error:
        return "diverged", str(error)
    except KpnetError as error:
        return "failed", str(error)
    except Exception as error:
        return "failed", first_line(error, with_type=True)
    return "done", ""


def _train_and_measure(trial: Trial, folder: Path, console: Console, watch: ShouldContinue | None) -> None:
    from kpnet.experiments.watcher import PruningCallback
    from kpnet.training.supervised import train
    from kpnet.training.trainer import on_gpu

    resume = _can_resume(folder, console)
    restart = is_occupied(folder) and not resume
    watchers = [] if watch is None else [PruningCallback(watch)]
    before = _epochs(folder)
    train(trial.config, out=folder, resume=resume, force=restart, console=console, callbacks=watchers)
    write_json(folder / "trial.json", {"key": trial.key, "row": trial.row})
    trained = _epochs(folder) > before  # a run that is only measured does not show its training's memory
    measure_run(folder, peak_bytes=_peak_bytes(on_gpu(trial.config.trainer)) if trained else None).save(folder)


def _can_resume(folder: Path, console: Console) -> bool:
    """Return whether a trial has a checkpoint to go on from; one that cannot be read is reported, and no failure."""
    from kpnet.training.run_folder import trained_epochs

    checkpoint = folder / "last.ckpt"
    if not checkpoint.is_file():
        return False
    try:
        trained_epochs(checkpoint)
    except KpnetError as error:
        console.print(f"{error}: the training starts again", style="yellow", markup=False, soft_wrap=True)
        return False
    return True


def _epochs(run: Path) -> int:
    """Return the number of lines in the run's metrics."""
    path = run / "metrics.csv"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def _peak_bytes(gpu: bool) -> int | None:
    """Return the peak memory of the training, on the GPU or of the process; None on Windows."""
    import torch

    if gpu:
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def exit_with_parent(parent: int) -> None:
    """Exit when the parent process dies; with kill -9 it cannot say so itself."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
