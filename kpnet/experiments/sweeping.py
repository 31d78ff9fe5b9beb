"""`sweep`: many values of some keys of one config, on Optuna."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from kpnet.config.schema import Config
from kpnet.config.sweep import Range, SweepConfig
from kpnet.core.errors import KpnetError
from kpnet.experiments.plan import Trial, fingerprint, on_one_device
from kpnet.experiments.runner import exit_with_parent, locked_folder, resumable, run_trial
from kpnet.experiments.sweep_space import config_with_values
from kpnet.experiments.sweep_table import write_tables

SIGNATURE = "kpnet sweep"  # the study's attribute that says which sweep it is
MARK = "sweep.json"  # the sweep, by which a folder is known as one's
CELL = "cell"  # of a grid: the values that were asked for, and not made up by a sampler


@dataclass(frozen=True)
class Study:
    """A sweep in a folder, with its storage (an URL)."""

    sweep: SweepConfig
    config: Config
    out: Path
    url: str

    @property
    def shared(self) -> bool:
        """May other machines be at work in it?"""
        return not self.url.startswith("sqlite:")

    def open(self) -> optuna.Study:
        """The study, made or taken up again; a KpnetError where another sweep wrote it."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            storage=self.url,
            study_name=self.sweep.name,
            direction="maximize",
            load_if_exists=True,
            sampler=_sampler(self.sweep, 0),
            pruner=optuna.pruners.MedianPruner() if self._prunes else optuna.pruners.NopPruner(),
        )
        values = [
            self.sweep.model_dump(mode="json", exclude={"name", "config", "overrides", "trials", "tables", "columns"}),
            fingerprint(self.config),
        ]
        mine = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        theirs = study.user_attrs.get(SIGNATURE, mine)
        if theirs != mine:
            raise KpnetError(f"{self.url}: the study {self.sweep.name} is of another sweep; give another name or --out")
        study.set_user_attr(SIGNATURE, mine)
        return study

    @property
    def _prunes(self) -> bool:
        return self.sweep.prune and self.sweep.method == "bayes"

    def prepare(self) -> None:
        """A grid's cells wait to be taken; of a folder's own study, so do the trials that failed or were killed."""
        study = self.open()
        if self.sweep.method == "grid":
            keys, values = self.sweep.space.keys(), [_labels(v) for v in self.sweep.space.values()]
            for cell in itertools.product(*values):
                _enqueue(study, dict(zip(keys, cell, strict=True)))
        if self.shared:
            return
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
        every = study.get_trials(deepcopy=False)
        good = [_asked(trial) for trial in every if trial.state != TrialState.FAIL]
        for trial in every:
            if trial.state == TrialState.FAIL and _asked(trial) and _asked(trial) not in good:
                _enqueue(study, _asked(trial), again=True)
                good.append(_asked(trial))

    def work(self, console: Console, workers: int) -> None:
        """Take trials and train them, as one of so many workers, until there are enough."""
        study = self.open()
        while (trial := self._next(study)) is not None:
            study.sampler = _sampler(self.sweep, trial.number)
            self._run(study, trial, console, workers)
            write_tables(self.sweep, finished_trials(study), self.out)

    def _next(self, study: optuna.Study) -> optuna.Trial | None:
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if self.sweep.trials is None:
            if not waiting:
                return None
        elif not waiting and len(_counted(study)) >= self.sweep.trials:
            return None
        return study.ask()

    def _run(self, study: optuna.Study, trial: optuna.Trial, console: Console, workers: int) -> None:
        values = {key: _suggest(trial, key, space) for key, space in self.sweep.space.items()}
        if self.sweep.method == "grid" and CELL not in trial.user_attrs:
            study.tell(trial, state=TrialState.FAIL)  # another worker took the last cell
            return
        config = on_one_device(config_with_values(self.sweep, values)).model_copy(
            update={"name": f"{self.sweep.name} {trial.number}"}
        )
        planned = Trial(config.name, config, fingerprint(config))

        def watch(epoch: int, score: float) -> bool:
            trial.report(score, epoch)
            return not trial.should_prune()

        shown = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())
        title = f"[{trial.number + 1}] {shown}"
        outcome = run_trial(planned, self.out, console, title, workers, watch if self._prunes else None)
        trial.set_user_attr("run", outcome.folder.name)
        trial.set_user_attr("values", values)
        trial.set_user_attr("note", outcome.problem or "")
        if outcome.result is not None:
            trial.set_user_attr("rmse_px", outcome.result.measures["rmse_px"])
            study.tell(trial, outcome.result.measures["score"])
        elif outcome.state == "stopped":
            study.tell(trial, state=TrialState.PRUNED)
        elif outcome.state == "diverged":  # a result: as bad as can be
            trial.set_user_attr("diverged", True)
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
    """Train what the sweep says; its finished trials.

    `out` (`runs/<name>`) then holds `sweep.md`, `sweep.csv`, the study and the runs.
    storage: an URL of a database server, by which several machines share the study, each with a folder of its own;
    None: a file in `out`. workers: trainings at once. Started again, it goes on where it was; on a server, without the
    trials that were running when a machine died.
    """
    if storage is not None and storage.startswith("sqlite:"):
        raise KpnetError(f"--storage {storage}: a file is one machine's: leave it out, or give a server's URL")
    console, out = console or Console(), Path(out or Path("runs") / settings.name)
    config = on_one_device(config)
    with locked_folder(out, MARK), resumable():
        study = Study(settings, config, out, storage or f"sqlite:///{out.resolve() / 'study.db'}")
        study.prepare()
        if workers == 1:
            study.work(console, 1)
        else:
            context, method = multiprocessing.get_context("spawn"), multiprocessing.get_start_method()
            crew = [context.Process(target=_work, args=(study, os.getpid(), workers, method)) for _ in range(workers)]
            for process in crew:
                process.start()
            for process in crew:
                process.join()
            if any(process.exitcode for process in crew):
                raise KpnetError(f"{out}: a worker ended before its time; the same command goes on")
        found = finished_trials(study.open())
        write_tables(settings, found, out)
    if not found:
        raise KpnetError(f"{out}: not one trial was finished; see what it said above")
    return found


def _work(study: Study, parent: int, workers: int, method: str) -> None:
    """A worker; it ends with its parent."""
    exit_with_parent(parent)
    multiprocessing.set_start_method(method, force=True)
    study.work(Console(), workers)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """All that came to an end and whose end says something; of the same values, the last."""
    found = {
        json.dumps(t.user_attrs["values"]): t for t in study.get_trials(deepcopy=False) if "values" in t.user_attrs
    }
    return list(found.values())


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that the number of trials counts: all but those that failed."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


def _enqueue(study: optuna.Study, values: dict[str, Any], again: bool = False) -> None:
    study.enqueue_trial(values, {CELL: values}, skip_if_exists=not again)


def _asked(trial: FrozenTrial) -> dict[str, Any]:
    """Its values as Optuna has them; of one that was killed early, those that it was to take."""
    values: dict[str, Any] = trial.user_attrs.get(CELL) or trial.params
    return values


def _sampler(settings: SweepConfig, number: int) -> optuna.samplers.BaseSampler:
    """Of the trial of that number: seeded by it, or each restart and each worker would draw the same again."""
    seed = int(np.random.SeedSequence((settings.seed, number)).generate_state(1)[0])
    if settings.method == "bayes":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _labels(values: list[Any] | Range) -> list[str]:
    """Optuna's choices are text: a list of channels is none of the kinds that it can store."""
    assert isinstance(values, list)
    return [json.dumps(value) for value in values]


def _suggest(trial: optuna.Trial, key: str, space: list[Any] | Range) -> Any:
    if not isinstance(space, Range):
        return json.loads(trial.suggest_categorical(key, _labels(space)))
    if isinstance(space.low, int) and isinstance(space.high, int):
        return trial.suggest_int(key, space.low, space.high, log=space.log)
    return trial.suggest_float(key, space.low, space.high, log=space.log)
