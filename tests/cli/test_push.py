"""`kpnet push`, and commands that are given a model of the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.console import Run
from support.hub_server import Hub


@pytest.fixture
def pushed(kpnet: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, trained: Path) -> str:
    """The address of the finished run on the hub."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    done = kpnet("push", trained, "me/tiny", "--data-licence", "CC0")
    assert done.code == 0, done.err
    assert done.out.startswith(f"{hub.url}/me/tiny/commit/")
    assert "--licence" in done.err
    assert "--data-licence" not in done.err
    return "hf://me/tiny"


def test_commands_take_the_address(kpnet: Run, pushed: str, trained: Path, data: Path, tmp_path: Path) -> None:
    measured = [json.loads(kpnet("evaluate", run, data / "val.csv", "--json").out) for run in (trained, pushed)]
    assert measured[0]["rmse_px"] == measured[1]["rmse_px"]
    done = kpnet("predict", pushed, data / "val.csv")
    assert done.code == 0, done.err
    assert (tmp_path / "predictions/predictions.csv").is_file()
    assert kpnet("info", pushed).code == 0
    kpnet("evaluate", pushed).refused("hf://me/tiny: no validation data", "give a file of labels")
    kpnet("report", pushed).refused("hf://me/tiny: expected a run folder")
    kpnet("visualize", pushed).refused("kpnet visualize hf://me/tiny photo.jpg")
    kpnet("calibrate", pushed, data / "val.csv").refused("hf://me/tiny", "save a copy")
    kpnet("predict", "hf://me/tiny@v1", data / "val.csv").refused("hf://me/tiny@v1", 'no revision "v1"')


def test_a_training_starts_from_it(kpnet: Run, pushed: str, recipe: Path) -> None:
    done = kpnet("train", recipe, f"model.pretrained={pushed}", "train.epochs=1", "data.val=null")
    assert done.code == 0, done.err
    assert f"pretrained: {pushed}: " in done.out


def card_of(hub: Hub) -> str:
    return hub.repos["me/tiny"]["main"]["README.md"].decode()


def test_a_model_that_was_calibrated_is_measured_again(
    kpnet: Run,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    run_copy: Path,
    make_csv: Callable[[int, int], str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert kpnet("push", run_copy, "me/tiny").code == 0
    before = card_of(hub)
    (tmp_path / "held_out.csv").write_text(make_csv(20, 2))
    done = kpnet("calibrate", run_copy, tmp_path / "held_out.csv")
    assert done.code == 0, done.err
    done = kpnet("push", run_copy, "me/tiny")
    assert done.code == 0, done.err
    assert "not measured again" not in done.err
    after = card_of(hub)
    assert "- Calibrated: on" in after
    reliability = [text.partition("## Reliability")[2].partition("## Data")[0] for text in (before, after)]
    assert reliability[0]
    assert reliability[1]
    assert reliability[0] != reliability[1]


def test_a_record_without_reliability_is_not_measured_again(
    kpnet: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, run_copy: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    record = json.loads((run_copy / "final/measures.json").read_text())
    del record["measures"]["reliability"]
    (run_copy / "final/measures.json").write_text(json.dumps(record))
    monkeypatch.delattr("kpnet.evaluation.run_data.build_val")  # which measuring it again would call
    done = kpnet("push", run_copy, "me/tiny")
    assert done.code == 0, done.err
    assert "validation images of the training" in card_of(hub)


def test_without_a_record_and_its_data_it_is_not_measured(
    kpnet: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, run_copy: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    (run_copy / "final/measures.json").unlink()
    (run_copy / "config.yaml").unlink()
    done = kpnet("push", run_copy, "me/tiny")
    assert done.code == 0, done.err
    why = f"{run_copy}: no validation data in its config"
    assert f"kpnet: not measured again for the card: {why}; measure it in Python: " in done.err
    assert f"model.push_to_hub('me/tiny', measures=kpnet.evaluate('{run_copy}', DATA))" in done.err
    assert "give a file of labels" not in done.err
    assert "Not measured" in card_of(hub)


def test_without_a_token(kpnet: Run, hub: Hub, trained: Path) -> None:
    kpnet("push", trained, "me/tiny").refused("HF_TOKEN")
