"""`kpnet sweep`: grids, draws, a killed study taken up again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import yaml
from support.console import Run

from kpnet import KpnetError
from kpnet.core.console import PlainConsole
from kpnet.experiments import runner
from kpnet.experiments.heartbeat import ask
from kpnet.experiments.plan import on_one_device
from kpnet.experiments.sweep_space import load_sweep
from kpnet.experiments.sweep_table import OUTCOME, finished_trials, records, to_markdown, write_tables
from kpnet.experiments.sweeping import Study, sweep

LR = "train.optimizer.lr"


@pytest.fixture
def recipe(tmp_path: Path, tiny: dict[str, Any]) -> Callable[..., Path]:
    """`recipe(space, key=…)`: the file of a sweep over the tiny config."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))

    def write(space: dict[str, Any], **others: Any) -> Path:
        values = {"name": "try", "config": str(tmp_path / "tiny.yaml"), "overrides": ["train.epochs=1"], "space": space}
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({**values, **others}, sort_keys=False))
        return path

    return write


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """(lr, stride) of what was tried. Not trained: the score is 100 at lr 0.01 and less beside it; 1.0 diverges."""
    tried: list[tuple[float, int]] = []

    def run(trial: Any, out: Path, console: Any, title: str, workers: int, watch: Any = None) -> runner.Outcome:
        lr, head = trial.config.train.optimizer.lr, trial.config.model.head
        tried.append((lr, head["stride"]))
        if lr == 1.0:
            return runner.Outcome(trial, trial.folder(out), problem="the loss is not finite", state="diverged")
        score = 100 / (1 + abs(lr - 0.01) * 100)
        if watch is not None and not all(watch(epoch, score) for epoch in range(5)):
            return runner.Outcome(trial, trial.folder(out), problem="stopped after epoch", state="stopped")
        result: Any = type("Result", (), {"measures": {"score": score, "rmse_px": 1.0}})
        return runner.Outcome(trial, trial.folder(out), result)

    monkeypatch.setattr("kpnet.experiments.sweeping.run_trial", run)
    return tried


GRID = {"model.head.stride": [4, 2], LR: [0.01, 1.0, 0.02]}


def test_a_grid_tries_every_cell_once(recipe: Callable[..., Path], scored: list[Any], tmp_path: Path) -> None:
    settings, config = load_sweep(recipe(GRID, tables="model.head.stride"))
    trials = sweep(settings, config, out=tmp_path / "out")
    assert sorted(scored) == [(lr, stride) for lr in (0.01, 0.02, 1.0) for stride in (2, 4)]
    rows = records(settings, trials)
    assert [(row["model.head.stride"], row[LR]) for row in rows] == [
        (s, lr) for s in (4, 2) for lr in (0.01, 1.0, 0.02)
    ]
    assert [row["state"] for row in rows] == ["complete", "diverged", "complete"] * 2
    table = "| lr | score |\n| --- | --- |\n| 0.01 | 100.00 |\n| 1 | diverged |\n| 0.02 | 50.00 |\n"
    assert to_markdown(settings, rows) == f"stride: 4\n\n{table}\nstride: 2\n\n{table}"
    assert (tmp_path / "out" / "sweep.md").read_text() == to_markdown(settings, rows)
    assert list(pd.read_csv(tmp_path / "out" / "sweep.csv").score.fillna(-1)) == [100, -1, 50] * 2
    sweep(settings, config, out=tmp_path / "out")
    assert len(scored) == 6, "a finished grid is not tried again"


def test_columns_order_the_table_and_leave_the_study(
    recipe: Callable[..., Path], scored: list[Any], tmp_path: Path
) -> None:
    sweep(*load_sweep(recipe(GRID)), out=tmp_path / "out")
    sweep(*load_sweep(recipe(GRID, columns=[LR, "model.head.stride"])), out=tmp_path / "out")
    assert len(scored) == 6
    table = (tmp_path / "out" / "sweep.md").read_text()
    assert table.startswith(
        "| lr | stride | score |\n| --- | --- | --- |\n| 0.01 | 4 | 100.00 |\n| 1 | 4 | diverged |\n"
    )


def test_a_killed_sweep_goes_on(
    recipe: Callable[..., Path], scored: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, config = load_sweep(recipe(GRID))
    whole = [row["score"] for row in records(settings, sweep(settings, config, out=tmp_path / "whole"))]
    scored.clear()
    run = Study._run

    def killed(self: Study, *taken: Any) -> None:
        if len(scored) == 2:
            raise SystemError("power")
        run(self, *taken)

    with monkeypatch.context() as patch:
        patch.setattr(Study, "_run", killed)
        with pytest.raises(SystemError):
            sweep(settings, config, out=tmp_path / "out")
    trials = sweep(settings, config, out=tmp_path / "out")
    assert len(scored) == len(set(scored)) == 6
    assert [row["score"] for row in records(settings, trials)] == whole


def test_two_workers_try_no_more_than_there_are_to_be(
    recipe: Callable[..., Path], scored: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker takes the last trial between the count and the question."""
    settings, config = load_sweep(recipe({LR: [0.01, 0.02]}, method="random", trials=1))

    def second(study: optuna.Study) -> optuna.Trial:
        ask(study)
        return ask(study)

    monkeypatch.setattr("kpnet.experiments.sweeping.ask", second)
    study = Study(settings, config, tmp_path, f"sqlite:///{tmp_path / 'study.db'}")
    study.prepare()
    study.work(PlainConsole(), 2)
    assert not scored
    assert [trial.state.name for trial in study.open().get_trials()] == ["RUNNING", "FAIL"]


def test_workers_read_what_others_are_writing_and_a_sweep_is_killed_between(
    recipe: Callable[..., Path], scored: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any of a trial's writes, another worker's tables show ended trials alone, and the sweep can be killed."""
    settings, config = load_sweep(recipe({LR: [0.01, 1.0]}))
    whole = records(settings, sweep(settings, config, out=tmp_path / "whole"))
    writes: list[str] = []
    last = 0

    def watched(name: str, owner: Any) -> Callable[..., Any]:
        write = getattr(owner, name)

        def call(*given: Any, **named: Any) -> Any:
            answer = write(*given, **named)
            study = optuna.load_study(study_name="try", storage=f"sqlite:///{tmp_path / str(last) / 'study.db'}")
            assert all(row in whole for row in write_tables(settings, finished_trials(study), tmp_path / str(last)))
            writes.append(name)
            if len(writes) == last:
                raise SystemError("power")
            return answer

        return call

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", watched("set_user_attr", optuna.Trial))
        patch.setattr(optuna.Study, "tell", watched("tell", optuna.Study))
        sweep(settings, config, out=tmp_path / "0")
        count = len(writes)
        for last in range(1, count + 1):
            writes.clear()
            with pytest.raises(SystemError):
                sweep(settings, config, out=tmp_path / str(last))
    for last in range(1, count + 1):
        url = f"sqlite:///{tmp_path / str(last) / 'study.db'}"
        study = Study(settings, on_one_device(config), tmp_path / str(last), url)
        study.prepare()  # as a machine that ends then
        assert all(row in whole for row in records(settings, finished_trials(study.open())))
        found = records(settings, sweep(settings, config, out=tmp_path / str(last)))
        same = (LR, "score", "state", "note")
        assert [[row.get(key) for key in same] for row in found] == [[row.get(key) for key in same] for row in whole]


def test_machines_share_a_study_by_its_storage(
    kpnet: Run, recipe: Callable[..., Path], scored: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two folders as if on two machines; the first dies in its third cell, before its first heartbeat."""
    for name, value in (("heartbeat.INTERVAL", 1), ("heartbeat.GRACE", 2), ("sweeping.POLL", 0.1)):
        monkeypatch.setattr(f"kpnet.experiments.{name}", value)
    path, url = recipe(GRID), f"sqlite+pysqlite:///{tmp_path / 'shared.db'}"  # with a driver, as a server's URL
    run = Study._run

    def killed(self: Study, *taken: Any) -> None:
        if len(scored) == 2:
            raise SystemError("power")
        run(self, *taken)

    with monkeypatch.context() as patch:
        patch.setattr(Study, "_run", killed)
        assert kpnet("sweep", path, "--storage", url, "--out", "one").code == 70  # an unforeseen error
    done = kpnet("sweep", path, "--storage", url, "--out", "two")
    assert (done.code, done.err) == (0, "")
    assert len(scored) == len(set(scored)) == 6
    assert done.out.count("| 100.00 |") + done.out.count("| 50.00 |") + done.out.count("| diverged |") == 6
    states = [trial.state.name for trial in optuna.load_study(study_name="try", storage=url).trials]
    assert sorted(states) == ["COMPLETE"] * 6 + ["FAIL"]
    assert not list(tmp_path.glob("*/study.db")), "the study is in the storage alone"

    url = f"sqlite:///{tmp_path / 'mine.db'}"
    kpnet("sweep", path, "--storage", url, "--out", "three").refused(f"--storage {url}", "a file cannot be shared")
    assert not (tmp_path / "three").exists()
    assert not (tmp_path / "mine.db").exists()


def test_bayes_is_optunas_and_stops_the_bad(recipe: Callable[..., Path], scored: list[Any], tmp_path: Path) -> None:
    space = {LR: {"low": 1e-4, "high": 0.5, "log": True}, "model.head.stride": [4]}
    settings, config = load_sweep(recipe(space, method="bayes", trials=30))
    trials = sweep(settings, config, out=tmp_path / "out")
    rows = records(settings, trials)
    assert len(trials) == 30
    assert rows[0]["score"] == max(row["score"] or 0 for row in rows)
    assert abs(rows[0][LR] - 0.01) < 0.003
    assert any(row["state"] == "pruned" and row["score"] is None for row in rows)
    url = f"sqlite:///{tmp_path / 'out' / 'study.db'}"
    study = Study(settings, on_one_device(config), tmp_path / "out", url).open()
    assert isinstance(study.sampler, optuna.samplers.TPESampler)


def test_random_draws_are_those_of_the_seed(recipe: Callable[..., Path], scored: list[Any], tmp_path: Path) -> None:
    space = {LR: {"low": 0.001, "high": 0.1}, "model.head.stride": [4]}
    for out in ("a", "b"):
        sweep(*load_sweep(recipe(space, method="random", trials=5)), out=tmp_path / out)
    assert scored[:5] == scored[5:]
    assert len(set(scored)) == 5
    sweep(*load_sweep(recipe(space, method="random", trials=7)), out=tmp_path / "a")
    assert len(scored) == 12, "more trials of the same sweep go on with it"
    assert len(set(scored)) == 7, "and none is drawn again"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each trial that is trained fails; True for those that come later."""
    fails: list[bool] = []
    trained: list[Any] = []

    def run(trial: Any, out: Path, *_: Any) -> runner.Outcome:
        trained.append(trial)
        if len(trained) > len(fails) or fails[len(trained) - 1]:
            return runner.Outcome(trial, trial.folder(out), problem="no memory", state="failed")
        result: Any = type("Result", (), {"measures": {"score": 1.0, "rmse_px": 1.0}})
        return runner.Outcome(trial, trial.folder(out), result)

    monkeypatch.setattr("kpnet.experiments.sweeping.run_trial", run)
    return fails


DRAWN = {LR: {"low": 0.001, "high": 0.1}}


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_search_whose_trials_all_fail_ends(
    method: str, kpnet: Run, recipe: Callable[..., Path], failing: list[bool], tmp_path: Path
) -> None:
    done = kpnet("sweep", recipe(DRAWN, method=method, trials=3), "--out", "out")
    assert done.code == 2
    assert "10 trials failed in a row" in done.out
    assert "no trial was finished" in done.err
    assert "no memory" in done.err


@pytest.mark.parametrize(("rates", "code"), [([1.0, 0.01], 0), ([1.0], 2)])
def test_a_trial_that_diverged_counts_as_the_worst_but_is_no_result(
    rates: list[float], code: int, kpnet: Run, recipe: Callable[..., Path], scored: list[Any]
) -> None:
    done = kpnet("sweep", recipe({LR: rates}), "--out", "out")
    assert done.code == code, done
    assert ("no trial was finished; the last one: trial 0: the loss is not finite" in done.err) == bool(code)


def test_a_search_with_some_failures_ends_with_all_its_trials(
    kpnet: Run, recipe: Callable[..., Path], failing: list[bool]
) -> None:
    failing += [True, False, *[True] * 9, False, True, False]
    done = kpnet("sweep", recipe(DRAWN, method="random", trials=3), "--out", "out")
    assert done.code == 1
    assert done.err.count("no memory") == 11
    assert done.out.count("| 1.00 |") == 3


def test_a_grid_tries_every_cell_whatever_fails(
    kpnet: Run, recipe: Callable[..., Path], failing: list[bool], tmp_path: Path
) -> None:
    failing += [*[True] * 12, False]
    done = kpnet("sweep", recipe({LR: [0.001 * (i + 1) for i in range(13)]}), "--out", "out")
    assert done.code == 1
    assert len(pd.read_csv("out/sweep.csv")) == 13


def test_whole_numbers_stay_whole(recipe: Callable[..., Path]) -> None:
    space = {"train.batch_size": {"low": 2, "high": 8}}
    settings, _ = load_sweep(recipe(space, method="random", trials=1))
    assert isinstance(settings.space["train.batch_size"].low, int)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("space", "others", "message"),
    [
        ({}, {}, "space is empty"),
        ({"train.optimizer.lrr": [1]}, {}, 'train.optimizer.lrr (did you mean "train.optimizer.lr"?)'),
        ({"model.head.strid": [4]}, {}, 'model.head.strid (did you mean "model.head.stride"?)'),
        ({LR: [0.1, "fast"]}, {}, LR),
        ({LR: []}, {}, LR),
        ({LR: {"low": 1, "high": 2}}, {}, "a grid needs lists"),
        ({LR: {"low": 2, "high": 1}}, {"method": "random", "trials": 1}, "low < high"),
        ({LR: [0.1]}, {"method": "random"}, "trials is missing"),
        ({LR: [0.1]}, {"trials": 3}, "a grid tries every cell"),
        ({LR: [0.1]}, {"tables": "train.epochs"}, "tables: expected a key of space"),
        ({LR: [0.1]}, {"columns": ["train.epochs"]}, f"columns: expected each of {LR}, once"),
        ({LR: [0.1]}, {"config": "facial_heatmop"}, 'did you mean "facial_heatmap"'),
    ],
)
def test_bad_sweeps(recipe: Callable[..., Path], space: dict[str, Any], others: dict[str, Any], message: str) -> None:
    with pytest.raises(KpnetError) as caught:
        load_sweep(recipe(space, **others))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_study_of_another_sweep(recipe: Callable[..., Path], scored: list[Any], tmp_path: Path) -> None:
    sweep(*load_sweep(recipe(GRID)), out=tmp_path / "out")
    with pytest.raises(KpnetError, match="the study try belongs to another sweep"):
        sweep(*load_sweep(recipe({LR: [0.01], "model.head.stride": [4]})), out=tmp_path / "out")
    assert len(scored) == 6


def test_several_devices_are_refused(recipe: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match=r"trainer\.devices: each run is trained on one device, found 2"):
        sweep(*load_sweep(recipe(GRID), ["trainer.devices=2"]), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_slides_grid() -> None:
    settings, config = load_sweep("i2dl_grid", ["data.root=somewhere"])
    cells = 1
    for values in settings.space.values():
        cells *= len(values)  # type: ignore[arg-type]
    assert cells == 16
    assert (config.train.epochs, config.data.root) == (8, "somewhere")
    with pytest.raises(KpnetError, match=r'unknown sweep "i2dl_grd" .did you mean "i2dl_grid"'):
        load_sweep("i2dl_grd")


@pytest.mark.slow
def test_two_workers_share_the_cells(kpnet: Run, recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Real trainings, two at once; a rate that diverges is a result."""
    path = recipe({LR: [1e-3, 1e30], "train.batch_size": [4, 8]})
    done = kpnet("sweep", path, "--workers", 2, "--out", tmp_path / "out")
    assert done.code == 0, done
    rows = pd.read_csv(tmp_path / "out" / "sweep.csv")
    assert list(rows[LR]) == [1e-3, 1e-3, 1e30, 1e30]
    assert list(rows.state) == ["complete", "complete", "diverged", "diverged"]
    assert (rows.score[:2] > 0).all()
    study = optuna.load_study(study_name="try", storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}")
    assert len([t for t in study.trials if OUTCOME in t.user_attrs]) == 4
    assert "| 1e+30 | 4 | diverged |" in done.out
