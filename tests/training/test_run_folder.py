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
from kpnet.training.run_folder import check_folder, claim_run_folder, create_run_folder, is_main_process

Tree = Callable[[Path], dict[str, bytes | None]]


def config(*overrides: str) -> Config:
    model = {"backbone": "conv_sandwich", "head": "heatmap"}
    return load_config({"name": "r", "model": model, "train": {"epochs": 3, "seed": 5}}, overrides)


def saved(folder: Path, *overrides: str) -> Path:
    """A run that was interrupted."""
    create_run_folder(folder, config(*overrides), force=False)
    torch.save({"epoch": 1, "weights": torch.zeros(2)}, folder / "last.ckpt")
    return folder


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
        assert [path.name for path in folder.iterdir()] == ["config.yaml"]
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
    assert [path.name for path in run.iterdir()] == ["config.yaml"]


def test_force_deletes_no_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "--force" in refused(tmp_path, config(), force=True)
    assert str(tmp_path) in refused(tmp_path, config())


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
