"""Machines that share a study: one is killed, and another one finishes its trials."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from kpnet.core.errors import KpnetError
from kpnet.experiments import heartbeat as module
from kpnet.experiments.heartbeat import ask, heartbeat, open_storage, retry_stale
from kpnet.experiments.sweep_table import OUTCOME

# Each "machine" is a process with a folder of its own; a trial is not trained, and takes a moment. The victim never
# ends its second trial.
MACHINE = """
import sys, time
from pathlib import Path
from kpnet.experiments import heartbeat, runner, sweeping
from kpnet.experiments.sweep_space import load_sweep

heartbeat.INTERVAL, heartbeat.GRACE, sweeping.POLL = 1, 3, 0.1
name, recipe, url = sys.argv[1:]
taken = []

def run(trial, out, console, title, workers, watch=None):
    lr = trial.config.train.optimizer.lr
    taken.append(lr)
    with open(name + ".log", "a") as log:
        log.write(f"{lr}\\n")
    if name == "victim" and len(taken) == 2:
        Path("hangs").touch()
        time.sleep(1000)
    time.sleep(0.2)
    result = type("Result", (), {"measures": {"score": 1 / lr, "rmse_px": 1.0}})
    return runner.Outcome(trial, trial.folder(out), result)

sweeping.run_trial = run
settings, config = load_sweep(recipe)
sweeping.sweep(settings, config, out=name, storage=url)
"""
RATES = [0.001, 0.002, 0.003, 0.004, 0.005, 0.006]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database server where KPNET_STORAGE names one; else a file, which two processes of one machine may share."""
    return os.environ.get("KPNET_STORAGE", f"sqlite+pysqlite:///{tmp_path / 'study.db'}")


@pytest.mark.slow
def test_a_killed_machine_loses_no_trial(tmp_path: Path, tiny: dict[str, Any], url: str) -> None:
    name = f"try {uuid.uuid4()}"
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    values = {"name": name, "config": str(tmp_path / "tiny.yaml"), "space": {"train.optimizer.lr": RATES}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "machine.py").write_text(MACHINE)

    def machine(which: str) -> subprocess.Popen[str]:
        command = [sys.executable, "machine.py", which, "sweep.yaml", url]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    victim = machine("victim")
    deadline = time.monotonic() + 180
    while not (tmp_path / "hangs").exists():
        assert victim.poll() is None, victim.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    survivor = machine("survivor")
    while not (tmp_path / "survivor.log").exists():  # it works beside the other one, whose trial it leaves alone
        assert survivor.poll() is None, survivor.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    output, _ = survivor.communicate(timeout=120)
    assert survivor.returncode == 0, output

    done, lost = [float(line) for line in (tmp_path / "victim.log").read_text().split()]
    survived = [float(line) for line in (tmp_path / "survivor.log").read_text().split()]
    assert sorted([done, *survived]) == RATES, "each cell once, the lost one too"
    assert survived[-1] == lost
    study = optuna.load_study(study_name=name, storage=url)
    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert sorted(trial.user_attrs[OUTCOME]["values"]["train.optimizer.lr"] for trial in finished) == RATES
    assert all(rate in (tmp_path / "survivor" / "sweep.md").read_text() for rate in map(str, RATES))


def test_a_trial_without_heartbeats_is_tried_again_and_not_for_ever(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name, value in (("INTERVAL", 1), ("GRACE", 1), ("RETRIES", 1)):
        monkeypatch.setattr(module, name, value)
    study = optuna.create_study(storage=open_storage(url), study_name=str(uuid.uuid4()))
    study.enqueue_trial({"x": 0.25})
    for waiting in (1, 0):
        trial = ask(study)
        assert trial.suggest_float("x", 0, 1) == 0.25
        with heartbeat(study, trial):
            time.sleep(2.5)
            retry_stale(study)  # it beats
        assert study.get_trials()[-1].state == TrialState.RUNNING
        time.sleep(2.5)
        retry_stale(study)
        assert len(study.get_trials(states=(TrialState.WAITING,))) == waiting
    assert [each.state for each in study.get_trials()] == [TrialState.FAIL] * 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql+nothing://me:secret@host/db", r"--storage postgresql\+nothing://\*+@host/db: "),
        ("nonsense", "--storage nonsense: "),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line(url: str, message: str) -> None:
    with pytest.raises(KpnetError, match=f"^{message}[^\n]+$"):
        open_storage(url)
