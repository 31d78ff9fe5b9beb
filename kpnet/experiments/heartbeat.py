"""Trials of a study that several machines share: which machine still works on one, and which died."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from kpnet.core.display import redact
from kpnet.core.errors import KpnetError, first_line

INTERVAL = 15  # seconds between the heartbeats of a trial
GRACE = 90  # seconds without one after which its machine counts as dead
RETRIES = 3  # times that a trial is tried again: one that kills its machine would kill them all


def open_storage(url: str) -> RDBStorage:
    """Open the storage of a study that machines share, with Optuna's heartbeat and retry.

    Args:
        url: URL of a database server.

    Raises:
        KpnetError: The server does not respond, or its driver is not installed.
    """
    try:
        with _quiet():
            return RDBStorage(
                url,
                heartbeat_interval=INTERVAL,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
            )
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise KpnetError(f"--storage {redact(url)}: {first_line(error)}") from None


@contextmanager
def heartbeat(study: optuna.Study, trial: optuna.Trial) -> Iterator[None]:
    """Send heartbeats while a trial runs: Optuna sends them in `study.optimize` alone."""
    storage = study._storage
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(INTERVAL):
            with suppress(Exception):  # the server may be away for a moment; the next one counts
                storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]

    storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
    thread = threading.Thread(target=beat, name="kpnet-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def ask(study: optuna.Study) -> optuna.Trial:
    """Take the next trial of a study, without the warning that nothing beats: `heartbeat` does."""
    with _quiet():
        return study.ask()


def retry_stale(study: optuna.Study) -> None:
    """Enqueue the trials again whose machine sends no heartbeat any more."""
    with _quiet():
        optuna.storages.fail_stale_trials(study)


def expect_heartbeats(study: optuna.Study, seen: set[int]) -> None:
    """Let a trial become stale whose machine died before its first heartbeat: Optuna takes those without for alive.

    Args:
        study: The study.
        seen: Trials that were seen running; new ones are added, and get one heartbeat.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial._trial_id not in seen:
            seen.add(trial._trial_id)
            study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide that Optuna calls its heartbeat experimental, and made for `study.optimize`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage")
        yield
