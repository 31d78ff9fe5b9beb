"""`kpnet compare` and `kpnet report`: from configs to a table and a page."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from rich.console import Console
from support.console import Run

from kpnet import KpnetError
from kpnet.config.loading import load_config
from kpnet.core.locking import LOCK
from kpnet.core.outputs import mark_folder
from kpnet.experiments import runner
from kpnet.experiments.plan import plan

TIMES = ("peak_bytes", "train_images_per_second", "train_seconds", "latency_1", "latency_64")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs are trained in this process; their rows and seeds in order."""
    made: list[str] = []

    def train(trial: Any, folder: Path, output: Any, watch: Any) -> tuple[str, str]:
        made.append(f"{trial.row} {trial.config.train.seed}")
        return runner.attempt(trial, folder, output.console(), watch)

    monkeypatch.setattr(runner, "train_apart", train)
    return made


def records(out: Path) -> dict[str, dict[str, Any]]:
    return {record["row"]: record for record in json.loads((out / "comparison.json").read_text())["rows"]}


def test_a_table_of_configs_and_seeds(kpnet: Run, config: Callable[..., Path], here: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    regression = config("regression", "model.head=regression", "model.pretrained=false")
    done = kpnet("compare", config("heatmap"), regression, "train.epochs=1", "--seeds", 2, "--out", out)
    assert done.code == 0, done
    assert here == ["heatmap 0", "regression 0", "heatmap 1", "regression 1"], "the first seed of all comes first"
    found = records(out)
    assert list(found) == ["heatmap", "regression"]
    for row in found.values():
        assert row["runs"] == 2
        assert row["score"] > 0
        assert row["score_sd"] > 0
        assert row["train_images_per_second"] > 0
        assert row["latency_64"] > row["latency_1"] > 0
        assert row["peak_bytes"] > 1e7
    assert found["regression"]["difference"] == pytest.approx(found["regression"]["score"] - found["heatmap"]["score"])
    (run,) = (out / "runs").glob("heatmap_seed1_*")
    assert load_config(run / "config.yaml").train.epochs == 1
    score = json.loads((run / "result.json").read_text())["measures"]["score"]
    evaluated = json.loads(kpnet("evaluate", run, "--json").out)["score"]
    assert score == pytest.approx(evaluated, rel=1e-5)
    assert (out / "comparison.md").read_text().startswith("| row | runs | score |")

    # Again: nothing is trained. One more config and seed: only that.
    before = (out / "comparison.csv").read_text()
    kpnet("compare", tmp_path / "heatmap.yaml", regression, "train.epochs=1", "--seeds", 2, "--out", out)
    assert len(here) == 4
    assert (out / "comparison.csv").read_text() == before
    kpnet(
        "compare",
        tmp_path / "heatmap.yaml",
        config("wide", "train.batch_size=8"),
        "train.epochs=1",
        "--seeds",
        1,
        "--out",
        out,
    )
    assert here[4:] == ["wide 0"]


def test_a_config_that_fails_is_a_row_that_says_why(
    kpnet: Run, config: Callable[..., Path], here: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    no_file = config("no_file", "data.train=gone.csv")
    diverged = config("diverged", "train.optimizer={name: sgd, lr: 1.0e+30}", "model.head=regression")
    unreadable = tmp_path / "unreadable.yaml"
    unreadable.write_text("model: [")
    done = kpnet("compare", no_file, diverged, config("good"), unreadable, "train.epochs=1", "--seeds", 1, "--out", out)
    assert done.code == 1
    assert done.err.count("\n") == 3
    assert "kpnet: good" not in done.err
    found = records(out)
    assert [found[name]["failed"] for name in ("no_file", "diverged", "good", "unreadable")] == [1, 1, 0, 1]
    assert "gone.csv: no such file" in found["no_file"]["note"]
    assert "seed 0: the loss is not finite" in found["diverged"]["note"]
    (trial,) = plan([diverged], ["train.epochs=1"], 1, None)[0].trials
    assert runner.attempt(trial, tmp_path / "again", Console(quiet=True))[0] == "diverged"
    assert "unreadable.yaml" in found["unreadable"]["note"]
    assert found["good"]["score"] > 0
    assert found["diverged"]["score"] is None
    assert "the loss is not finite" in (out / "comparison.md").read_text()


def test_what_was_trained_before_has_no_peak_memory(
    config: Callable[..., Path], here: list[str], kpnet: Run, tmp_path: Path
) -> None:
    arguments = (config("a"), "train.epochs=1", "--seeds", 1, "--out", tmp_path / "out")
    kpnet("compare", *arguments)
    whole = records(tmp_path / "out")["a"]
    (result,) = (tmp_path / "out").glob("runs/*/result.json")
    result.unlink()
    kpnet("compare", *arguments)
    again = records(tmp_path / "out")["a"]
    assert here == ["a 0", "a 0"]
    assert whole["peak_bytes"] is not None
    assert again["peak_bytes"] is None
    assert again["score"] == whole["score"]


@pytest.mark.slow
def test_two_at_once_make_the_same_table(config: Callable[..., Path], tmp_path: Path) -> None:
    regression = config("b", "model.head=regression")

    def compare(out: str, *more: str) -> str:
        command = [
            "compare",
            f"{config('a')}:2",
            str(regression),
            "train.epochs=1",
            "--seeds",
            "1",
            "--out",
            out,
            *more,
        ]
        done = subprocess.run(
            [sys.executable, "-m", "kpnet.cli", *command], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    compare("one")
    said = compare("two", "--workers", "2")
    one, two = (records(tmp_path / out) for out in ("one", "two"))
    assert list(one) == list(two) == ["a", "b"]
    assert [row["runs"] for row in two.values()] == [2, 1]
    kept = [[{k: v for k, v in row.items() if k not in TIMES} for row in rows.values()] for rows in (one, two)]
    assert kept[0] == kept[1]
    for title in ("[1/3] a, seed 0", "[2/3] b, seed 0", "[3/3] a, seed 1"):
        assert re.search(rf"^{re.escape(title)}: epoch +1/1", said, re.MULTILINE), "a line says whose it is"


def test_folds_hold_each_sample_out_once(
    kpnet: Run, config: Callable[..., Path], here: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = kpnet("compare", config("a", "data.val=null"), "train.epochs=1", "--seeds", 1, "--folds", 3, "--out", out)
    assert done.code == 0, done
    assert records(out)["a"]["runs"] == 3
    results = [runner.load_result(run) for run in sorted((out / "runs").glob("a_seed0_fold*"))]
    assert sorted(len(r.target) for r in results) == [2, 3, 3]
    held = {row.tobytes() for r in results for row in r.target}
    assert len(held) == 8, "each of the 8 training samples is held out in one fold"


def test_a_run_is_found_by_its_key_whatever_its_name(
    kpnet: Run, config: Callable[..., Path], here: list[str], tmp_path: Path, data: Path
) -> None:
    arguments = ("train.epochs=1", "--seeds", 1, "--out", tmp_path / "out")
    kpnet("compare", config("a"), *arguments)
    data.rename(tmp_path / "moved")
    done = kpnet("compare", config("b"), f"data.root={tmp_path / 'moved'}", *arguments)
    assert done.code == 0, done
    assert here == ["a 0"], "the same recipe and data under another name and in another place"
    assert list(records(tmp_path / "out")) == ["b"]


def test_nothing_finished_is_an_error(kpnet: Run, config: Callable[..., Path], here: list[str], tmp_path: Path) -> None:
    bad = config("bad", "train.optimizer={name: sgd, lr: 1.0e+30}", "model.head=regression")
    done = kpnet("compare", bad, "--seeds", 1, "--out", tmp_path / "out")
    assert done.code == 2
    assert "no run was finished; the first one: the loss is not finite" in done.err
    assert (tmp_path / "out" / "comparison.md").exists()


def test_several_devices_are_refused(kpnet: Run, config: Callable[..., Path]) -> None:
    kpnet("compare", config("a"), "trainer.devices=2", "--out", "out").refused("trainer.devices", "found 2")


def test_bad_calls(kpnet: Run, config: Callable[..., Path], tmp_path: Path) -> None:
    path = config("a")
    kpnet("compare", path, path, "--out", "out").refused("a.yaml", "the same config", "leave one out")
    kpnet("compare", "train.epochs=3").refused("give configs")
    kpnet("compare", path, "--seeds", 1, "data.val=null", "--out", "out").refused("data.val is missing", "--folds")
    kpnet("compare", "nothing.yaml", "--out", "out").refused("nothing.yaml", "no such config file")
    assert kpnet("compare", path, "--seeds", 0).code == 2
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    kpnet("compare", path, "--out", "mine").refused("mine", "holds something else", "--out")
    (tmp_path / "other").mkdir()
    mark_folder(tmp_path / "other", "comparison")
    with FileLock(tmp_path / "other" / LOCK):
        kpnet("compare", path, "--out", "other").refused("other", "another kpnet process works in it")


def test_a_report_of_runs_that_exist(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    done = kpnet("report", trained, "--out", "page.html")
    assert done.code == 0, done
    text = (tmp_path / "page.html").read_text()
    assert "<title>tiny</title>" in text
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text), "it needs no other file"
    kpnet("report", tmp_path).refused(str(tmp_path), "not a run")
    assert not (trained / "result.json").exists(), "another's run is left as it is"


def test_a_row_of_other_images_and_versions_is_said_to_be(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained, tmp_path / "other")
    values = yaml.safe_load((trained / "config.yaml").read_text())
    values["name"], values["data"]["val"] = "other", "train.csv"
    (tmp_path / "other" / "config.yaml").write_text(yaml.safe_dump(values))
    result = runner.measure_run(tmp_path / "other")
    result.versions["torch"] = "1.0"
    result.save(tmp_path / "other")
    assert kpnet("report", trained, "other").code == 0
    text = (tmp_path / "report.html").read_text()
    assert "Not shown, as they have other images or points: other." in text
    assert re.search(r"torch [\d.+a-z]+ and 1\.0", text)


def test_a_run_without_metrics(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").unlink()
    kpnet("report", tmp_path / "run").refused("metrics.csv", "no metrics of a run")
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match="no result of a finished run"):
        runner.load_result(tmp_path)


@pytest.mark.slow
def test_killed_at_three_moments(config: Callable[..., Path], tmp_path: Path) -> None:
    """Nothing finished is lost or repeated, and the table is that of the uninterrupted comparison but for times."""
    configs = [config("a", "train.epochs=2"), config("b", "train.epochs=2", "model.head=regression")]

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "kpnet.cli", "compare", *map(str, configs), "--seeds", "1", "--out", str(out)]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)

    out, whole = tmp_path / "killed", tmp_path / "whole"
    moments = ("a_*/last.ckpt", "a_*/result.json", "b_*/last.ckpt")
    finished = None
    for moment in moments:
        process = start(out)
        while not list((out / "runs").glob(moment)):
            with suppress(subprocess.TimeoutExpired):
                assert process.wait(0.05) is None, f"it ended before {moment}"
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = list((out / "runs").glob("a_*/result.json"))
        if found and finished is None:
            finished = found[0].stat().st_mtime_ns
    assert start(out).wait() == 0
    assert start(whole).wait() == 0
    (result,) = (out / "runs").glob("a_*/result.json")
    assert result.stat().st_mtime_ns == finished
    for name, row in records(whole).items():
        steady = {key: value for key, value in row.items() if key not in TIMES}
        assert {key: records(out)[name][key] for key in steady} == steady
