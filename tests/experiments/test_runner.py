"""Running what was planned: what is skipped, what goes on, what fails alone, and who owns the folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError, NotFiniteError
from kpnet.core.outputs import folder_kind
from kpnet.experiments import runner
from kpnet.experiments.plan import Row, Trial, TrialStopped, plan
from kpnet.experiments.result import Result
from kpnet.training.run_folder import check_folder, create_run_folder

QUIET = Console(quiet=True)


@pytest.fixture
def trial(config: Callable[..., Path]) -> Trial:
    return plan([config("a")], [], 1, None)[0].trials[0]


def finish(folder: Path, trial: Trial, score: float = 1.0) -> None:
    """What a finished training leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    points = np.zeros((1, 2, 2))
    arrays = points, points, points[..., 0] == 0, np.zeros(1, int)
    Result(*arrays, ["a", "b"], (8, 8), {"score": score}, {}, {}).save(folder)
    (folder / "trial.json").write_text(json.dumps({"key": trial.key}))


def test_a_new_empty_or_own_folder_is_taken_and_known_again(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "a" / "new", tmp_path / "empty"):
        for _ in range(2):  # made, and taken up again
            with runner.locked_folder(out, "sweep"):
                assert folder_kind(out) == "sweep"
        with pytest.raises(KpnetError, match="than a comparison"), runner.locked_folder(out, "comparison"):
            pytest.fail("it is a sweep")


def test_a_folder_of_something_else_or_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "years.txt").write_text("of work")
    (tmp_path / "file").touch()
    for name in ("thesis", "file"):
        with pytest.raises(KpnetError, match=name), runner.locked_folder(tmp_path / name, "sweep"):
            pytest.fail("it is not ours")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["years.txt"]
    with (
        runner.locked_folder(tmp_path / "out", "sweep"),
        pytest.raises(KpnetError, match="out"),
        runner.locked_folder(tmp_path / "out", "sweep"),
    ):
        pytest.fail("another is at work in it")
    with runner.locked_folder(tmp_path / "out", "sweep"):
        pass


def test_an_interruption_is_one_line() -> None:
    with pytest.raises(KpnetError) as caught, runner.resumable():
        raise KeyboardInterrupt
    assert "\n" not in str(caught.value)


def test_a_trial_is_finished_when_its_own_result_is_there(trial: Trial, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert not runner.finished(folder, trial)
    finish(folder, trial)
    assert runner.finished(folder, trial)
    other = Trial(trial.row, trial.config, trial.key[:12] + "0" * 52)
    assert not runner.finished(folder, other), "only the short key is in the folder's name"
    for text in ("", "{}"):
        (folder / "trial.json").write_text(text)
        assert not runner.finished(folder, trial)
    finish(folder, trial)
    (folder / "result.json").unlink()
    assert not runner.finished(folder, trial)


def test_finished_trials_are_loaded_and_the_others_trained(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def train(given: Trial, folder: Path, output: Any, watch: Any) -> tuple[str, str]:
        trained.append(given.row)
        finish(folder, given, score=2.0)
        return "done", ""

    monkeypatch.setattr(runner, "train_apart", train)
    outcome = runner.run_trial(trial, tmp_path, QUIET, "title")
    assert outcome.result is not None
    assert outcome.result.measures == {"score": 2.0}
    assert outcome.folder == trial.folder(tmp_path / "runs")
    again = runner.run_trial(trial, tmp_path, QUIET, "title")
    assert again.result is not None
    assert trained == ["a"]


def test_a_damaged_result_is_measured_again(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trial.folder(tmp_path / "runs")
    finish(folder, trial)
    (folder / "predictions.npz").write_bytes(b"PK")

    def train(given: Trial, folder: Path, *_: Any) -> tuple[runner.State, str]:
        finish(folder, given, score=2.0)
        return "done", ""

    monkeypatch.setattr(runner, "train_apart", train)
    outcome = runner.run_trial(trial, tmp_path, QUIET, "title")
    assert outcome.result is not None
    assert outcome.result.measures == {"score": 2.0}


@pytest.mark.parametrize("checkpoint", [b"", b"half a checkpoint", b"whole"])
def test_a_damaged_checkpoint_is_no_failure_for_ever(
    checkpoint: bytes, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what a training has left that ended before its first checkpoint: it starts again."""
    started: dict[str, bool] = {}

    def train(config: Config, *, out: Path, resume: bool, force: bool, **_: Any) -> None:
        check_folder(out, config, resume, force)
        started.update(resume=resume, force=force)

    monkeypatch.setattr("kpnet.training.supervised.train", train)
    monkeypatch.setattr(runner, "measure_run", lambda *_, **__: SimpleNamespace(save=lambda _: None))
    folder = tmp_path / "run"
    create_run_folder(folder, trial.config, resume=False)
    (folder / "metrics.csv").write_text("epoch\n0\n1\n")
    if checkpoint == b"whole":
        torch.save({"epoch": 1}, folder / "last.ckpt")
    elif checkpoint:
        (folder / "last.ckpt").write_bytes(checkpoint)
    assert runner.attempt(trial, folder, QUIET) == ("done", "")
    whole = checkpoint == b"whole"
    assert started == {"resume": whole, "force": not whole}


def test_a_failure_is_its_own_row_and_not_the_others(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "train_apart", lambda *_: ("diverged", "too fast"))
    outcome = runner.run_trial(trial, tmp_path, QUIET, "title")
    assert (outcome.state, outcome.problem, outcome.result) == ("diverged", "too fast", None)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_seeds_come_first_and_every_trial_once(
    workers: int, config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []

    def run(trial: Trial, out: Path, console: Console, title: str, workers: int) -> runner.Outcome:
        seen.append((title, f"{trial.row} {trial.config.train.seed}"))
        return runner.Outcome(trial, out)

    monkeypatch.setattr(runner, "run_trial", run)
    rows: list[Row] = plan([f"{config('a')}:3", f"{config('b', 'train.epochs=3')}:1"], [], 1, None)
    outcomes = list(runner.run_trials(rows, tmp_path, QUIET, workers))
    expected = ["a 0", "b 0", "a 1", "a 2"]
    assert sorted(f"{o.trial.row} {o.trial.config.train.seed}" for o in outcomes) == sorted(expected)
    assert [each for _, each in sorted(seen)] == expected
    assert [title[:5] for title, _ in sorted(seen)] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ("done", "")),
        (TrialStopped("enough"), ("stopped", "enough")),
        (NotFiniteError("nan"), ("diverged", "nan")),
        (KpnetError("bad"), ("failed", "bad")),
        (RuntimeError("one\ntwo"), ("failed", "RuntimeError: one")),
    ],
)
def test_what_came_of_a_training(
    error: Exception | None, expected: tuple[str, str], trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: Any) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(runner, "_train_and_measure", train)
    assert runner.attempt(trial, tmp_path / "run", QUIET) == expected


def test_lines_say_whose_they_are_where_several_train(capsys: pytest.CaptureFixture[str]) -> None:
    runner.Output("[1/2] a", False, 2).console().print("epoch 1\nepoch 2")
    assert capsys.readouterr().out == "[1/2] a: epoch 1\n[1/2] a: epoch 2\n"
    runner.Output("[1/2] a", False, 1).console().print("epoch 1")
    assert capsys.readouterr().out == "epoch 1\n"


def dies(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leaves(*_: Any) -> None:
    os._exit(3)


def asks(trial: Trial, folder: Path, pipe: Any, *_: Any) -> None:
    """Two epochs, then what the watch said of them."""
    said = []
    for epoch in range(2):
        pipe.send(("epoch", epoch, 10.0 * epoch))
        said.append(str(pipe.recv()))
    pipe.send(("end", "stopped", " ".join(said)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a forked child stands for the spawned one, which takes seconds")
@pytest.mark.parametrize(
    ("child", "state", "part"),
    [(dies, "failed", "signal 9"), (leaves, "failed", "exit code 3"), (asks, "stopped", "True False")],
)
def test_a_child_that_dies_takes_nothing_with_it_and_one_that_asks_is_answered(
    child: Callable[..., None], state: str, part: str, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(runner.multiprocessing, "get_context", lambda _: forked)
    monkeypatch.setattr(runner, "_work", child)
    asked = []

    def watch(epoch: int, score: float) -> bool:
        asked.append((epoch, score))
        return score < 5

    found, text = runner.train_apart(trial, tmp_path / "run", runner.Output("a", False, 1), watch)
    assert found == state
    assert part in text
    assert asked == ([(0, 0.0), (1, 10.0)] if child is asks else [])
