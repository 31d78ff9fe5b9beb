"""The run folder: when it may be written, resumed and deleted, and what a refusal leaves untouched."""

from __future__ import annotations

import os
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
    Claim,
    begun_trainer,
    check_folder,
    claimed_run_folder,
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
    create_run_folder(folder, config(*overrides), resume=False)
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
    for out, expected in ((None, "runs/r"), ("elsewhere", "elsewhere")):
        with claimed_run_folder(config(), out, resume=False, force=False) as claim:
            assert claim == (Path(expected), False)
    assert not list(tmp_path.iterdir())


def test_draws_are_the_seeds_from_then_on(tmp_path: Path) -> None:
    draws = []
    for seed in (5, 5, 6):
        with claimed_run_folder(config(f"train.seed={seed}"), tmp_path / "run", resume=False, force=False):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_new_or_empty_folder_is_free_and_gets_the_config(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "new"):
        check_folder(folder, config(), False, False)
        create_run_folder(folder, config("train.epochs=7"), resume=False)
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
    create_run_folder(run, config("train.epochs=9"), resume=False)
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
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("of the run")
    others = [
        "notes.txt",
        "final/labels.csv",
        "my images/a.png",
        "tensorboard/notes.txt",
        "old.ckpt",
        "wandb/notes.txt",
    ]
    for name in others:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    create_run_folder(run, config(), resume=False)
    left = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert left == {*others, ".kpnet", "config.yaml"}
    assert not (run / "best").exists(), "empty folders of the run go too"
    assert not (run / "mlflow").exists()
    assert [path.name for path in (run / "wandb").iterdir()] == ["notes.txt"]
    (warning,) = caplog.messages
    assert "kept" in warning
    assert "final" in warning


def test_force_deletes_links_and_never_what_they_lead_to(tmp_path: Path, tree: Tree) -> None:
    elsewhere = saved(tmp_path / "elsewhere")
    for name in ("final", "data"):
        (elsewhere / name).mkdir()
        (elsewhere / name / "model.safetensors").write_text("precious")
    (elsewhere / "artifacts").mkdir()
    (elsewhere / "artifacts" / "a.png").write_text("precious")
    run = saved(tmp_path / "run")
    (run / "mlflow").mkdir()
    (run / "mlflow" / "id").symlink_to(elsewhere)
    (run / "last.ckpt").unlink()
    for name in ("last.ckpt", "final", "data"):
        (run / name).symlink_to(elsewhere / name)
    before = tree(elsewhere)
    (tmp_path / "link").symlink_to(run)
    check_folder(tmp_path / "link", config(f"model.pretrained={elsewhere}"), False, True)  # is not deleted
    create_run_folder(tmp_path / "link", config("train.epochs=9"), resume=False)
    assert tree(elsewhere) == before
    assert names(run) == {".kpnet", "config.yaml", "data", "mlflow"}
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
        create_run_folder(folder, config(*overrides), resume=False)
        assert is_demo(folder, demo) is same
        (folder / ".kpnet").unlink()
        assert not is_demo(folder, demo)


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path: Path, tree: Tree) -> None:
    (tmp_path / "file").touch()
    before = tree(tmp_path)
    for name in ("file", "file/run", "x" * 300, "a\0b"):
        refused(tmp_path / name, config())
    assert tree(tmp_path) == before


def begun(folder: Path, *written: str, rows: int = 0) -> Path:
    """A run that has ended before its first checkpoint, with these files of it."""
    create_run_folder(folder, config(), resume=False)
    for name in written:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("of the run")
    if rows:
        (folder / "metrics.csv").write_text("epoch\n" + "".join(f"{row}\n" for row in range(rows)))
    return folder


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "written", [(), ("tensorboard/events.out.tfevents.0",), (".kpnet-0123.part",)], ids=["nothing", "log", "part"]
)
def test_a_run_without_an_epoch_starts_again(written: tuple[str, ...], resume: bool, tmp_path: Path) -> None:
    """By either command, and nothing of the first try is left."""
    run = begun(tmp_path / "run", *written)
    with claimed_run_folder(config(), run, resume, force=False) as claim:
        assert claim == (run, False)
        create_run_folder(run, config(), claim.resume)
    assert names(run) == {".kpnet", ".kpnet.lock", "config.yaml"}


@pytest.mark.parametrize("where", ["new", "empty"])
def test_resume_starts_where_there_is_nothing(where: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with claimed_run_folder(config(), tmp_path / where, resume=True, force=False) as claim:
        assert claim == (tmp_path / where, False)
    assert names(tmp_path) == {"empty"}, "nothing was written, so nothing is left"
    assert not list((tmp_path / "empty").iterdir())


def test_what_is_killed_in_its_first_checkpoint_starts_again_with_resume_alone(tmp_path: Path) -> None:
    """Its best model is there already, which a training with another config would replace."""
    run = begun(tmp_path / "run", "best/model.safetensors", rows=1)
    assert "exists already" in refused(run, config())
    with claimed_run_folder(config(), run, resume=True, force=False) as claim:
        assert claim == (run, False)
    assert "batch_size" in refused(run, config("train.batch_size=4"), resume=True)


@pytest.mark.parametrize(("written", "rows"), [(("final/model.safetensors",), 0), ((), 2)], ids=["ended", "epochs"])
def test_a_run_whose_checkpoint_is_gone_is_neither_resumed_nor_overwritten(
    written: tuple[str, ...], rows: int, tmp_path: Path
) -> None:
    run = begun(tmp_path / "run", *written, rows=rows)
    assert "its last.ckpt is gone" in refused(run, config(), resume=True)
    assert "exists already" in refused(run, config())
    check_folder(run, config(), False, True)


def test_a_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    with claimed_run_folder(config(), run, resume=True, force=False) as claim:
        assert claim == (run, True)
        create_run_folder(run, config(), claim.resume)
    assert (run / "last.ckpt").is_file()


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(("resume", "force"), [(True, False), (False, True)])
def test_two_trainings_in_one_folder(there: bool, resume: bool, force: bool, tmp_path: Path) -> None:
    run = saved(tmp_path / "run") if there else tmp_path / "run"
    with claimed_run_folder(config(), run, resume, force):
        with (
            pytest.raises(KpnetError, match=rf"run: another kpnet process \(process {os.getpid()} on .*\) works in it"),
            claimed_run_folder(config(), run, resume, force),
        ):
            pytest.fail("another trains in it")
        assert (run / ".kpnet.lock").is_file(), "the lock of the first one stays"
    assert run.exists() is there
    with claimed_run_folder(config(), run, resume, force):
        pass


def test_a_training_that_fails_leaves_nothing_and_its_lock_is_free(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            pytest.raises(ZeroDivisionError),
            claimed_run_folder(config(), tmp_path / "a" / "run", resume=False, force=False),
        ):
            raise ZeroDivisionError
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("train.batch_size=4", False),
        ("train.epochs=4", True),
        ("train.epochs=1", False),
        ("train.early_stopping={patience: 3}", True),
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
    create_run_folder(tmp_path / "run", config(), resume=False)
    assert (tmp_path / "run").exists() is main
    if not main:  # it finds the folder that the first one made
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.yaml").touch()
        with claimed_run_folder(config(), tmp_path / "run", resume=False, force=False) as claim:
            assert claim.folder == tmp_path / "run"


@pytest.mark.parametrize("given", [None, "bf16-mixed"])
@pytest.mark.parametrize("began", [None, "16-mixed"])
def test_a_resumed_run_keeps_its_precision(tmp_path: Path, began: str | None, given: str | None) -> None:
    """What a GPU takes by default is not what a CPU began with."""
    options = {each: () if each is None else (f"trainer.precision={each}",) for each in (began, given)}
    folder = saved(tmp_path / "run", *options[began])
    resumed = config(*options[given])
    assert begun_trainer(resumed, Claim(folder, True)).precision == (given or began or "32-true")
    assert begun_trainer(resumed, Claim(folder, False)).precision == given
