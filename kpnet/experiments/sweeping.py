"""Sweeps: search over values of a config's keys, with Optuna."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from kpnet.config.schema import Config
from kpnet.config.sweep import Range, SweepConfig
from kpnet.core.allocator import keep_freed_memory
from kpnet.core.console import PlainConsole
from kpnet.core.errors import KpnetError
from kpnet.experiments.heartbeat import ask, expect_heartbeats, heartbeat, open_storage, retry_stale
from kpnet.experiments.plan import Trial, fingerprint, on_one_device
from kpnet.experiments.runner import Outcome, State, exit_with_parent, locked_folder, resumable, run_trial
from kpnet.experiments.sweep_space import config_with_values
from kpnet.experiments.sweep_table import OUTCOME, finished_trials, write_tables

SIGNATURE = "kpnet sweep"  # attribute of the study that holds the sweep's hash
MAX_FAILURES = 10  # in a row, of a random or Bayesian search
POLL = 2.0  # seconds between two looks at the trials of other machines
CELL = "cell"  # attribute of a grid's trial: the values that were enqueued, not drawn by a sampler


@dataclass(frozen=True)
class Study:
    """A sweep in a folder, with the URL of its storage."""

    sweep: SweepConfig
    config: Config
    out: Path
    url: str

    @property
    def shared(self) -> bool:
        """Whether other machines may work on the study."""
        return not self.url.startswith("sqlite:")

    def open(self) -> optuna.Study:
        """Create or reopen the study; raise KpnetError if another sweep wrote it."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            storage=open_storage(self.url) if self.shared else self.url,
            study_name=self.sweep.name,
            direction="maximize",
            load_if_exists=True,
            sampler=_sampler(self.sweep, 0),
            pruner=optuna.pruners.MedianPruner() if self._prunes else optuna.pruners.NopPruner(),
        )
        values = [
            self.sweep.model_dump(mode="json", exclude={"name", "config", "overrides", "trials", "tables", "columns"}),
            fingerprint(self.config),
            OUTCOME,  # studies that hold their outcomes in another way
        ]
        signature = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        if study.user_attrs.get(SIGNATURE, signature) != signature:
            raise KpnetError(
                f"{self.url}: the study {self.sweep.name} belongs to another sweep; give another name or --out"
            )
        study.set_user_attr(SIGNATURE, signature)
        return study

    @property
    def _prunes(self) -> bool:
        return self.sweep.prune and self.sweep.method == "bayes"

    def prepare(self) -> None:
        """Enqueue a grid's cells and, if no other machine works on it, the trials that failed or were killed.

        On a study that machines share, those that were killed are the ones that send no heartbeat.
        """
        study = self.open()
        if self.sweep.method == "grid":
            keys, values = self.sweep.space.keys(), [_labels(v) for v in self.sweep.space.values()]
            for cell in itertools.product(*values):
                _enqueue(study, dict(zip(keys, cell, strict=True)))
        if self.shared:
            retry_stale(study)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if self.shared and running:
            return
        for trial in running:
            study.tell(trial.number, state=TrialState.FAIL)
        every = study.get_trials(deepcopy=False)
        good = [_requested_values(trial) for trial in every if trial.state != TrialState.FAIL]
        for trial in every:
            if trial.state == TrialState.FAIL and _requested_values(trial) and _requested_values(trial) not in good:
                _enqueue(study, _requested_values(trial), again=True)
                good.append(_requested_values(trial))

    def work(self, console: Console, workers: int) -> None:
        """Take trials and train them, as one of several workers, until there are enough, or too many failed in a row.

        Trials that failed do not count, and values are drawn until there are enough: without an end, if all fail.
        """
        study = self.open()
        failed = 0
        while (trial := self._next(study)) is not None:
            study.sampler = _sampler(self.sweep, trial.number)
            failed = failed + 1 if self._run(study, trial, console, workers) == "failed" else 0
            write_tables(self.sweep, finished_trials(study), self.out)
            if failed == MAX_FAILURES and self.sweep.method != "grid":
                text = f"{self.out}: {failed} trials failed in a row, so no more are tried"
                console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
                return

    def _next(self, study: optuna.Study) -> optuna.Trial | None:
        """Return the next trial; None if there are enough. Trials of other machines are waited for: one may die."""
        seen: set[int] = set()
        while True:
            if self.shared:
                retry_stale(study)
            waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if waiting or (self.sweep.trials is not None and len(_counted(study)) < self.sweep.trials):
                return ask(study)
            if not self.shared or not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                return None
            expect_heartbeats(study, seen)
            time.sleep(POLL)

    def _has_enough(self, study: optuna.Study, number: int) -> bool:
        """Return whether the trials before this number, which no cell or retry asked for, are enough."""
        if self.sweep.trials is None:
            return True
        return sum(trial.number < number for trial in _counted(study)) >= self.sweep.trials

    def _run(self, study: optuna.Study, trial: optuna.Trial, console: Console, workers: int) -> State:
        if CELL not in trial.user_attrs and self._has_enough(study, trial.number):
            study.tell(trial, state=TrialState.FAIL)  # another worker took the last one
            return "stopped"
        values = {key: _suggest(trial, key, space) for key, space in self.sweep.space.items()}
        config = on_one_device(config_with_values(self.sweep, values)).model_copy(
            update={"name": f"{self.sweep.name} {trial.number}"}
        )
        planned = Trial(config.name, config, fingerprint(config))

        def watch(epoch: int, score: float) -> bool:
            try:
                trial.report(score, epoch)
            except UpdateFinishedTrialError:  # this machine was away, and another one has the trial now
                return False
            return not trial.should_prune()

        shown = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())
        title = f"[{trial.number + 1}] {shown}"
        with heartbeat(study, trial) if self.shared else nullcontext():
            outcome = run_trial(planned, self.out, console, title, workers, watch if self._prunes else None)
        try:
            self._record(study, trial, outcome, values)
        except UpdateFinishedTrialError:
            console.print(f"{title}: another machine has taken it, as this one sent no heartbeat", style="yellow")
            return "stopped"
        return outcome.state

    def _record(self, study: optuna.Study, trial: optuna.Trial, outcome: Outcome, values: dict[str, Any]) -> None:
        """Store what came of a trial: in one attribute, as other workers read the study at any time."""
        measures = outcome.result.measures if outcome.result is not None else {}
        trial.set_user_attr(
            OUTCOME,
            {
                "values": values,
                "run": outcome.folder.name,
                "note": outcome.problem or "",
                "rmse_px": measures.get("rmse_px"),
                "state": outcome.state,
            },
        )
        if measures:
            study.tell(trial, measures["score"])
        elif outcome.state == "stopped":
            study.tell(trial, state=TrialState.PRUNED)
        elif outcome.state == "diverged":  # counts as the worst possible result
            study.tell(trial, 0.0)
        else:
            study.tell(trial, state=TrialState.FAIL)


def sweep(
    settings: SweepConfig,
    config: Config,
    *,
    out: str | Path | None = None,
    storage: str | None = None,
    workers: int = 1,
    console: Console | None = None,
) -> list[FrozenTrial]:
    """Search over values of config keys.

    An interrupted sweep continues where it stopped. On a database server, the other machines take up the trials of one
    that died, and each ends when no trial is left to take up.

    Args:
        settings: The sweep.
        config: The config that it varies.
        out: Folder for `sweep.md`, `sweep.csv`, the study and `runs/`; None is `runs/<name>`.
        storage: URL of a database server that several machines share, each with a folder of its own; None uses a file
            in `out`.
        workers: Trainings to run at the same time.
        console: Where to print; None is the terminal.

    Returns:
        The finished trials.

    Raises:
        KpnetError: If a trial asks for several devices, every trial fails or diverges, `out` holds something else,
            `storage` is a file, or the study belongs to another sweep.
    """
    if storage is not None and storage.startswith("sqlite:"):
        raise KpnetError(
            f"--storage {storage}: a file cannot be shared by machines; leave it out, or give a server's URL"
        )
    console, out = console or PlainConsole(), Path(out or Path("runs") / settings.name)
    config = on_one_device(config)
    with locked_folder(out, "sweep"), resumable():
        study = Study(settings, config, out, storage or f"sqlite:///{out.resolve() / 'study.db'}")
        study.prepare()
        if workers == 1:
            study.work(console, 1)
        else:
            context, method = multiprocessing.get_context("spawn"), multiprocessing.get_start_method()
            arguments = (study, os.getpid(), workers, method)
            processes = [context.Process(target=_work, args=arguments) for _ in range(workers)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                raise KpnetError(f"{out}: a worker ended too early; the same command continues")
        found = finished_trials(study.open())
        write_tables(settings, found, out)
    without = [trial for trial in found if trial.user_attrs[OUTCOME]["state"] in ("failed", "diverged")]
    if len(without) == len(found):
        last = f"trial {without[-1].number}: {without[-1].user_attrs[OUTCOME]['note']}" if without else "none was begun"
        raise KpnetError(f"{out}: no trial was finished; the last one: {last}")
    return found


def _work(study: Study, parent: int, workers: int, method: str) -> None:
    """Work on the study in a process that ends with its parent."""
    exit_with_parent(parent)
    keep_freed_memory()
    multiprocessing.set_start_method(method, force=True)
    study.work(PlainConsole(), workers)


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count towards `trials`: all but those that failed."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


def _enqueue(study: optuna.Study, values: dict[str, Any], again: bool = False) -> None:
    study.enqueue_trial(values, {CELL: values}, skip_if_exists=not again)


def _requested_values(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's values as Optuna has them; for one that was killed early, those it was enqueued with."""
    values: dict[str, Any] = trial.user_attrs.get(CELL) or trial.params
    return values


def _sampler(settings: SweepConfig, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of one trial, seeded by its number: with one seed, each restart would draw the same again."""
    seed = int(np.random.SeedSequence((settings.seed, number)).generate_state(1)[0])
    if settings.method == "bayes":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _labels(values: list[Any] | Range) -> list[str]:
    """Return a list of values as text, as Optuna stores no choices that are lists, such as channels."""
    assert isinstance(values, list)
    return [json.dumps(value) for value in values]


def _suggest(trial: optuna.Trial, key: str, space: list[Any] | Range) -> Any:
    """Draw a value of a key, and note it in the trial."""
    if not isinstance(space, Range):
        return json.loads(trial.suggest_categorical(key, _labels(space)))
    if isinstance(space.low, int) and isinstance(space.high, int):
        return trial.suggest_int(key, space.low, space.high, log=space.log)
    return trial.suggest_float(key, space.low, space.high, log=space.log)
