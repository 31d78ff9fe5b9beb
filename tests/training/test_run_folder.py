"""The run folder: when it may be written, resumed and deleted, and what a refusal leaves untouched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.marker import Marker

from kpnet.config.loading import load_config
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError
from kpnet.training.run_folder import (
    RUN_FILES,
    check_folder,
    claim_run_folder,
    create_run_folder,
    is_demo,
    is_main_process,
)

Tree = Callable[[Path], dict[str, bytes | None]]


def config(*overrides: str) -> Config:
    model = {"backbone": "conv_sandwich", "head": "heatmap"}
    return load_config({"name": "r", "model": model, "train": {"epochs": 3, "seed": 5}}, overrides)


def saved(folder: Path, *overrides: str) -> Path:
    """A run that was interrupted."""
    create_run_folder(folder, config(*overrides), force=False)
    torch.save({"epoch": 1, "weights": torch.zeros(2)}, folder / "last.ckpt")
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refused(folder: Path, given: Config, *, resume: bool = False, force: bool = False) -> str:
    with pytest.raises(KpnetError) as caught:
        check_folder(folder, given, resume, force)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_folder_is_named_after_the_run_and_not_made_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert claim_run_folder(config(), None, resume=False, force=False) == Path("runs/r")
    assert claim_run_folder(config(), "elsewhere", resume=False, force=False) == Path("elsewhere")
    assert not list(tmp_path.iterdir())


def test_draws_are_the_seeds_from_then_on(tmp_path: Path) -> None:
    draws = []
    for seed in (5, 5, 6):
        claim_run_folder(config(f"train.seed={seed}"), tmp_path / "run", resume=False, force=False)
        draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_new_or_empty_folder_is_free_and_gets_the_config(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "new"):
        check_folder(folder, config(), False, False)
        create_run_folder(folder, config("train.epochs=7"), force=False)
        assert names(folder) == {".kpnet", "config.yaml"}
        values = yaml.safe_load((folder / "config.yaml").read_text())
        assert values["train"]["epochs"] == 7
        assert load_config(folder / "config.yaml") == config("train.epochs=7")


def test_an_existing_run_needs_force_or_resume(tmp_path: Path, tree: Tree) -> None:
    run = saved(tmp_path / "run")
    before = tree(run)
    message = refused(run, config())
    assert "--force" in message
    assert "--resume" in message
    refused(run, config(), resume=True, force=True)
    assert tree(run) == before
    check_folder(run, config(), False, True)
    assert tree(run) == before, "checked and not deleted yet"
    create_run_folder(run, config("train.epochs=9"), force=True)
    assert names(run) == {".kpnet", "config.yaml"}


@pytest.mark.parametrize("content", ["thesis.txt", "config.yaml", "last.ckpt", "final/model.safetensors", ".kpnet"])
def test_force_deletes_no_folder_that_is_no_run(content: str, tmp_path: Path, tree: Tree) -> None:
    """A DeepLabCut project has a config.yaml too, and a saved model has a model.safetensors."""
    place = tmp_path / "project" / content
    place.parent.mkdir(parents=True)
    place.write_text('{"kpnet": "0.1.0", "kind": "sweep"}')
    before = tree(tmp_path)
    for force in (False, True):
        message = refused(tmp_path / "project", config(), force=force)
        assert "project: " in message
        assert "--out" in message
    assert "expected a folder" in refused(place, config(), force=True)
    assert tree(tmp_path) == before


def test_force_deletes_what_a_run_wrote_and_keeps_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = saved(tmp_path / "run")
    written = [*(name.replace("*", "0") for name in RUN_FILES), "final/model.yaml"]
    for name in written:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("of the run")
    others = ["notes.txt", "final/labels.csv", "my images/a.png", "tensorboard/notes.txt", "old.ckpt"]
    for name in others:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    create_run_folder(run, config(), force=True)
    left = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert left == {*others, ".kpnet", "config.yaml"}
    assert not (run / "best").exists(), "empty folders of the run go too"
    (warning,) = caplog.messages
    assert "kept" in warning
    assert "final" in warning


def test_force_deletes_links_and_never_what_they_lead_to(tmp_path: Path, tree: Tree) -> None:
    elsewhere = saved(tmp_path / "elsewhere")
    for name in ("final", "data"):
        (elsewhere / name).mkdir()
        (elsewhere / name / "model.safetensors").write_text("precious")
    run = saved(tmp_path / "run")
    (run / "last.ckpt").unlink()
    for name in ("last.ckpt", "final", "data"):
        (run / name).symlink_to(elsewhere / name)
    before = tree(elsewhere)
    (tmp_path / "link").symlink_to(run)
    check_folder(tmp_path / "link", config(f"model.pretrained={elsewhere}"), False, True)  # is not deleted
    create_run_folder(tmp_path / "link", config("train.epochs=9"), force=True)
    assert tree(elsewhere) == before
    assert names(run) == {".kpnet", "config.yaml", "data"}
    assert (tmp_path / "link").is_symlink(), "the run is written where the link leads"


@pytest.mark.parametrize("what", ["data.train", "data.val", "model.pretrained"])
def test_force_deletes_nothing_that_the_training_reads(what: str, tmp_path: Path, tree: Tree) -> None:
    run = saved(tmp_path / "run")
    (run / "final").mkdir()
    for name in ("final/model.safetensors", "predictions.npz"):
        (run / name).write_text("data")
    (tmp_path / "link.npz").symlink_to(run / "predictions.npz")
    values = {"data.train": "run/predictions.npz", "data.val": "link.npz", "model.pretrained": f"{run}"}
    before = tree(tmp_path)
    given = config(f"data.root={tmp_path}", f"{what}={values[what]}")
    assert "the training reads it" in refused(run, given, force=True)
    assert tree(tmp_path) == before


def test_an_earlier_demo_is_known_by_its_name_and_its_data(tmp_path: Path) -> None:
    demo = config("name=demo", "data.format=synthetic")
    for overrides, same in (
        (["name=demo", "data.format=synthetic", "train.epochs=9"], True),
        (["name=demo"], False),
        (["data.format=synthetic"], False),
    ):
        folder = tmp_path / "-".join(overrides)
        create_run_folder(folder, config(*overrides), force=False)
        assert is_demo(folder, demo) is same
        (folder / ".kpnet").unlink()
        assert not is_demo(folder, demo)


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path: Path, tree: Tree) -> None:
    (tmp_path / "file").touch()
    before = tree(tmp_path)
    for name in ("file", "file/run", "x" * 300, "a\0b"):
        refused(tmp_path / name, config())
    assert tree(tmp_path) == before


def test_resume_needs_a_checkpoint(tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    check_folder(run, config(), True, False)
    (run / "last.ckpt").unlink()
    assert "last.ckpt" in refused(run, config(), resume=True)
    assert "last.ckpt" in refused(tmp_path / "gone", config(), resume=True)


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("train.epochs=4", False),
        ("model.head={name: heatmap, stride: 2}", False),
        ("name=other", True),
        ("data.root=elsewhere", True),
        ("data.workers=2", True),
        ("trainer={accelerator: cpu}", True),
        ("model.num_keypoints=3", True),
    ],
)
def test_another_recipe_is_not_resumed_and_another_place_is(override: str, same: bool, tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    if same:
        check_folder(run, config(override), True, False)
    else:
        key = override.partition("=")[0]
        assert key in refused(run, config(override), resume=True)


@pytest.mark.parametrize("damage", ["cut", "code"])
def test_a_checkpoint_that_cannot_be_loaded_safely_is_refused(damage: str, tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    path = run / "last.ckpt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        torch.save({"epoch": Marker(tmp_path / "executed")}, path)
    assert str(path) in refused(run, config(), resume=True)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("rank", "node", "main"), [(0, "0", True), (1, "0", False), (0, "1", False), (None, "0", True)]
)
def test_only_the_first_process_touches_the_folder(
    rank: int | None, node: str, main: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    only: Any = rank_zero_only
    monkeypatch.setenv("NODE_RANK", node)
    monkeypatch.delattr(only, "rank", raising=False)
    if rank is not None:
        monkeypatch.setattr(only, "rank", rank, raising=False)
    assert is_main_process() is main
    create_run_folder(tmp_path / "run", config(), force=False)
    assert (tmp_path / "run").exists() is main
    if not main:  # it finds the folder that the first one made
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.yaml").touch()
        assert claim_run_folder(config(), tmp_path / "run", resume=False, force=False) == tmp_path / "run"
