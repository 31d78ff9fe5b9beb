"""What a comparison trains: rows, seeds, folds, and the hash that a trial is known by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from kpnet.config.loading import load_config
from kpnet.core.errors import KpnetError
from kpnet.experiments.plan import Trial, fingerprint, on_one_device, plan, split_seeds, unique_name


def test_a_config_with_seeds_of_its_own(config: Callable[..., Path]) -> None:
    three, one = plan([f"{config('a')}:3", config("b", "train.epochs=3")], [], 1, None)
    assert [trial.config.train.seed for trial in three.trials] == [0, 1, 2]
    assert [trial.config.train.seed for trial in one.trials] == [0]
    (absent,) = [row for row in plan([config("c"), "nothing.yaml:0"], [], 1, None) if row.problem]
    assert "nothing.yaml:0" in str(absent.problem)


def test_what_a_run_is_known_by(config: Callable[..., Path], data: Path) -> None:
    def key(*overrides: str) -> str:
        return fingerprint(load_config(config("a"), overrides))

    first = key()
    assert key("name=b", "data.workers=1") == first
    assert len({first, key("train.seed=1"), key("train.epochs=3"), key("trainer={}")}) == 4
    (data / "val.csv").write_text((data / "train.csv").read_text())
    assert key() != first


def test_weights_and_skeleton_are_known_by_what_is_in_them(config: Callable[..., Path], tmp_path: Path) -> None:
    weights = tmp_path / "source" / "final" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"some weights")
    skeleton = tmp_path / "skeleton.yaml"
    skeleton.write_text("names: [left_eye, right_eye, nose]")

    def key() -> str:
        return fingerprint(
            load_config(config("a"), [f"model.pretrained={tmp_path / 'source'}", f"data.skeleton={skeleton}"])
        )

    first = key()
    skeleton.write_text("names: [left_eye, right_eye, nose]\npairs: [[left_eye, right_eye]]")
    second = key()
    weights.write_bytes(b"other weights")
    assert len({first, second, key()}) == 3


def test_names_that_two_configs_share(config: Callable[..., Path], tmp_path: Path) -> None:
    config("a")
    (tmp_path / "b.yaml").write_text((tmp_path / "a.yaml").read_text().replace("epochs: 2", "epochs: 3"))
    assert [row.name for row in plan([tmp_path / "a.yaml", tmp_path / "b.yaml"], [], 1, None)] == ["a", "a (2)"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.yaml:5", ("a.yaml", 5)),
        ("a.yaml", ("a.yaml", None)),
        ("a:0", ("a:0", None)),
        ("C:\\a.yaml", ("C:\\a.yaml", None)),
        ("dir:2/a.yaml:10", ("dir:2/a.yaml", 10)),
    ],
)
def test_seeds_behind_a_config(text: str, expected: tuple[str, int | None]) -> None:
    assert split_seeds(text) == expected


def test_unique_names() -> None:
    taken: list[str] = []
    for expected in ("a", "a (2)", "a (3)"):
        taken.append(unique_name("a", taken))
        assert taken[-1] == expected
    assert unique_name("b", taken) == "b"


def test_seeds_and_folds_of_a_row(config: Callable[..., Path]) -> None:
    (row,) = plan([config("a", "train.seed=4", "data.val=null")], [], 2, 3)
    found = []
    for trial in row.trials:
        fold = trial.config.data.fold
        assert fold is not None
        assert fold.of == 3
        found.append((trial.config.train.seed, fold.index))
    assert found == [(4, 0), (4, 1), (4, 2), (5, 0), (5, 1), (5, 2)]
    assert len({trial.key for trial in row.trials}) == 6
    assert all(trial.key == fingerprint(trial.config) for trial in row.trials)
    assert all(trial.config.trainer.devices == 1 for trial in row.trials)


def test_a_trials_folder_says_what_it_is_and_is_found_by_its_key(config: Callable[..., Path], tmp_path: Path) -> None:
    (row,) = plan([config("a", "data.val=null")], [], 1, 2)
    trial = Trial("with/slash and space", row.trials[1].config, row.trials[1].key)
    folder = trial.folder(tmp_path / "runs")
    assert folder == tmp_path / "runs" / f"with-slash-and-space_seed0_fold2of2_{trial.key[:12]}"
    moved = tmp_path / "runs" / f"another_{trial.key[:12]}"
    moved.mkdir(parents=True)
    assert trial.folder(tmp_path / "runs") == moved


def test_a_folder_of_data_is_known_by_its_labels_and_the_sizes_of_its_images(
    config: Callable[..., Path], tmp_path: Path
) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    given = load_config(config("a"), [f"data.root={tmp_path}", "data.train=faces", "data.val=null", "data.format=pts"])
    keys = []
    for name, text in (("a.pts", "1 2"), ("a.pts", "1 3"), ("a.png", "xy"), ("a.png", "yx"), ("a.png", "xyz")):
        (faces / name).write_text(text)
        keys.append(fingerprint(given))
    assert len(set(keys)) == 4
    assert keys[2] == keys[3], "an image is known by its size alone"
    assert len(keys[0]) == hashlib.sha256().digest_size * 2


def test_what_is_refused_and_what_is_a_row_with_a_problem(config: Callable[..., Path]) -> None:
    good, bad = config("good"), config("bad", "data.train=gone.csv")
    rows = plan([good, bad], [], 1, None)
    assert [bool(row.trials) for row in rows] == [True, False]
    assert "gone.csv" in str(rows[1].problem)
    with pytest.raises(KpnetError, match=r"gone\.csv"):
        plan([bad], [], 1, None)
    with pytest.raises(KpnetError, match=r"good\.yaml.*same config"):
        plan([good, good], [], 1, None)
    with pytest.raises(KpnetError, match=r"data\.val"):
        plan([config("no_val", "data.val=null")], [], 1, None)
    assert on_one_device(load_config(good, ["trainer={devices: 1}"])).trainer.devices == 1
    with pytest.raises(KpnetError, match="devices"):
        on_one_device(load_config(good, ["trainer={devices: 2}"]))
