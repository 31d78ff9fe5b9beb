"""Training end to end on a few synthetic faces: what a run promises, and what an interruption must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from safetensors.torch import load_file
from support.recipes import TINY_HEATMAP
from support.shapes import draw_shapes, shapes_config, write_shapes

from kpnet.config.loading import load_config
from kpnet.config.schema import Config, Crop
from kpnet.config.trainer import TrainerConfig
from kpnet.core.errors import KpnetError
from kpnet.evaluation.measurement import evaluate
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.models.build import load_model
from kpnet.models.keypoint_model import KeypointModel
from kpnet.training import supervised as training
from kpnet.training.callbacks import RunFolderCallback
from kpnet.training.module import KeypointModule
from kpnet.training.trainer import resolve_precision

TINY: dict[str, Any] = {
    "name": "tiny",
    "model": TINY_HEATMAP,
    "data": {
        "format": "synthetic",
        "train": 21,  # the last batch is smaller
        "val": 6,
        "transforms": [{"HorizontalFlip": {"p": 0.5}}, {"Affine": {"rotate": [-20, 20], "p": 0.8}}],
    },
    "train": {"epochs": 4, "batch_size": 8, "average": {"name": "ema", "decay": 0.9}, "seed": 3},
    "trainer": {"accelerator": "cpu"},
}


def tiny(*overrides: str) -> Config:
    return load_config(TINY, overrides)


class Killed(Exception):
    pass


def kill_at(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Stop training as a power cut at the start of an epoch would."""
    start = RunFolderCallback.on_train_epoch_start

    def killed(self: RunFolderCallback, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == epoch:
            raise Killed
        start(self, trainer, pl_module)

    monkeypatch.setattr(RunFolderCallback, "on_train_epoch_start", killed)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("data.workers=1",),
        ("train.average=null", "train.optimizer={name: sgd, lr: 0.01}", "train.schedule={name: plateau, patience: 1}"),
        ("train.schedule={name: cosine, warmup_epochs: 1}",),
        ("train.average={name: swa, start: 0.25}",),
    ],
    ids=["ema+one_cycle", "worker", "sgd+plateau", "cosine", "swa"],
)
def test_resume_ends_with_the_weights_of_the_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    config = tiny(*overrides)
    training.train(config, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(Killed):
            training.train(config, out=tmp_path / "cut")
    assert not (tmp_path / "cut" / "final").exists()
    assert load_model(tmp_path / "cut" / "best")  # the last good model is there
    training.train(config, out=tmp_path / "cut", resume=True)
    whole, cut = (load_file(tmp_path / run / "final" / "model.safetensors") for run in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    for name in whole:
        assert torch.equal(whole[name], cut[name]), name
    tables = [pd.read_csv(tmp_path / run / "metrics.csv").drop(columns="seconds") for run in ("whole", "cut")]
    pd.testing.assert_frame_equal(tables[0], tables[1])


def test_resume_with_another_recipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_at(monkeypatch, 1)
    with pytest.raises(Killed):
        training.train(tiny(), out=tmp_path / "run")
    with pytest.raises(KpnetError, match=r"another config.*batch_size"):
        training.train(tiny("train.batch_size=4"), out=tmp_path / "run", resume=True)
    with pytest.raises(KpnetError, match="give only one of them"):
        training.train(tiny(), out=tmp_path / "run", resume=True, force=True)
    monkeypatch.undo()
    # Another machine is no other recipe.
    training.train(tiny("data.workers=1", "trainer.enable_model_summary=true"), out=tmp_path / "run", resume=True)


def test_the_run_folder_holds_what_it_promises(tmp_path: Path) -> None:
    folder, model, measures = training.train(tiny(), out=tmp_path / "run")
    names = {p.name for p in folder.iterdir()}
    assert {"config.yaml", "metrics.csv", "final", "best", "last.ckpt", "predictions.png", "curves.png"} <= names
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert not list(folder.rglob("*.part"))
    # The config goes on from where the data filled it in, and trains again as it is.
    assert load_config(folder / "config.yaml").model.num_keypoints == 15
    table = pd.read_csv(folder / "metrics.csv")
    assert list(table.epoch) == [0, 1, 2, 3]
    # best is the best row, final is the last, and both say of which epoch they are.
    val = evaluation_dataset(folder, None, model)
    assert evaluate(load_model(folder), val)["score"] == pytest.approx(table.val_score.iloc[-1], rel=1e-5)
    assert evaluate(load_model(folder / "best"), val)["score"] == pytest.approx(table.val_score.max(), rel=1e-5)
    assert measures["score"] == pytest.approx(table.val_score.iloc[-1], rel=1e-5)


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_precision_auto_is_what_the_hardware_computes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    """The run's config says what it was, and the weights stay in 32 bits."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    seen = set()
    step = KeypointModule.training_step

    def watch(self: KeypointModule, batch: Any, batch_idx: int) -> torch.Tensor:
        seen.add(torch.is_autocast_enabled("cpu"))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(KeypointModule, "training_step", watch)
    config = tiny("trainer.precision=auto", "train.epochs=1")
    folder, model, _ = training.train(config, out=tmp_path / "run")
    assert load_config(folder / "config.yaml").trainer.precision == expected
    assert seen == {native}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    training.train(config, out=tmp_path / "run", resume=True)  # the same recipe, wherever it goes on


@pytest.mark.parametrize(
    ("gpu", "native", "expected"), [(True, True, "bf16-mixed"), (True, False, "32-true"), (False, True, None)]
)
def test_precision_is_bfloat16_on_a_gpu_that_computes_in_it(
    gpu: bool, native: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert resolve_precision(TrainerConfig()).precision == expected
    assert resolve_precision(TrainerConfig(precision="32-true")).precision == "32-true"
    assert resolve_precision(TrainerConfig(accelerator="cpu")).precision is None


def test_memory_that_ends_says_how_to_find_the_largest_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(KeypointModel, "output", short)
    config = tiny("train.epochs=1", "train.batch_size=6")
    way = r"the largest batch that fits is found by kpnet tune \S+config\.yaml --batch-size"
    monkeypatch.setattr("kpnet.training.supervised.trains_on_one", lambda *_: True)
    with pytest.raises(KpnetError, match=rf"^out of memory at train\.batch_size 6: {way}$"):
        training.train(config, out=tmp_path / "run")


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "16-true"])
def test_weights_of_other_precisions_train_draw_and_are_saved(
    tmp_path: Path, precision: str, seen_points: Seen
) -> None:
    """The labels stay exact, and the saved model has 32 bits."""
    config = tiny(f"trainer.precision={precision}", "train.epochs=1", "train.optimizer={name: sgd, lr: 0.01}")
    folder, model, measures = training.train(config, out=tmp_path / "run")
    dtype = {"bf16-true": torch.bfloat16, "64-true": torch.float64, "16-true": torch.float16}[precision]
    assert seen_points == {(dtype, torch.float32)}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    saved = load_file(folder / "final" / "model.safetensors").values()
    assert {value.dtype for value in saved if value.is_floating_point()} == {torch.float32}
    assert measures["score"] == pytest.approx(pd.read_csv(folder / "metrics.csv").val_score.iloc[-1], rel=0.02)
    assert (folder / "predictions.png").is_file()


Seen = set[tuple[torch.dtype, torch.dtype]]


@pytest.fixture
def seen_points(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The types of the weights and of the labels in training steps."""
    seen: Seen = set()
    step = KeypointModule.training_step

    def watch(self: KeypointModule, batch: Any, batch_idx: int) -> torch.Tensor:
        seen.add((next(self.parameters()).dtype, batch["keypoints"].dtype))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(KeypointModule, "training_step", watch)
    return seen


def test_an_epoch_without_a_labelled_point_ends_with_an_error(tmp_path: Path) -> None:
    config = tiny("train.epochs=1", "data.train=8", "data.transforms=[{Affine: {translate_percent: [3, 3], p: 1}}]")
    with pytest.raises(KpnetError, match="epoch 1: no training image has a labelled point"):
        training.train(config, out=tmp_path / "run")
    assert not (tmp_path / "run" / "final").exists()


def test_the_final_model_is_the_moving_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a second implementation: the average of the weights after every step."""
    steps: list[dict[str, torch.Tensor]] = []
    done = RunFolderCallback.on_train_batch_end

    def watch(self: RunFolderCallback, trainer: Any, module: KeypointModule, *rest: Any) -> None:
        steps.append({k: v.detach().clone() for k, v in module.model.named_parameters()})
        done(self, trainer, module, *rest)

    monkeypatch.setattr(RunFolderCallback, "on_train_batch_end", watch)
    training.train(tiny(), out=tmp_path / "run")
    average = steps[0]
    for weights in steps[1:]:
        average = {k: 0.9 * average[k] + 0.1 * weights[k] for k in average}
    final = load_file(tmp_path / "run" / "final" / "model.safetensors")
    for name, value in average.items():
        torch.testing.assert_close(final[name], value, rtol=1e-4, atol=1e-6)


def test_swa_is_the_mean_over_the_last_epochs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean is that of epochs 1 to 3, from 0; until then validation sees the weights as they are."""
    ends: list[dict[str, torch.Tensor]] = []
    done = RunFolderCallback.on_train_epoch_end

    def watch(self: RunFolderCallback, trainer: Any, module: KeypointModule) -> None:
        ends.append({k: v.detach().clone() for k, v in module.model.named_parameters()})
        done(self, trainer, module)

    monkeypatch.setattr(RunFolderCallback, "on_train_epoch_end", watch)
    config = tiny("train.average={name: swa, start: 0.25}")
    folder, _, _ = training.train(config, out=tmp_path / "run")
    final = load_file(folder / "final" / "model.safetensors")
    for name in ends[0]:
        torch.testing.assert_close(final[name], sum(e[name] for e in ends[1:]) / 3, rtol=1e-4, atol=1e-6)
    training.train(tiny("train.average=null"), out=tmp_path / "raw")
    scores = [pd.read_csv(tmp_path / run / "metrics.csv").val_score for run in ("run", "raw")]
    assert list(scores[0][:2]) == pytest.approx(list(scores[1][:2]))  # of epoch 1 the mean begins after it
    assert scores[0][3] != pytest.approx(scores[1][3])


def test_the_epochs_loss_is_the_mean_over_its_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, int]] = []
    step = KeypointModule.training_step

    def watch(self: KeypointModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        seen.append((loss.item(), int(batch["visible"].sum())))
        return loss

    monkeypatch.setattr(KeypointModule, "training_step", watch)
    training.train(tiny("train.epochs=1"), out=tmp_path / "run")
    expected = sum(loss * n for loss, n in seen) / sum(n for _, n in seen)
    assert [n for _, n in seen] != [seen[0][1]] * len(seen)  # batches of different sizes, or nothing is shown
    assert pd.read_csv(tmp_path / "run" / "metrics.csv").train_loss[0] == pytest.approx(expected, rel=1e-5)


def test_same_seed_same_weights_other_seed_others(tmp_path: Path) -> None:
    def weights(name: str, *overrides: str) -> torch.Tensor:
        training.train(tiny("train.epochs=1", *overrides), out=tmp_path / name)
        state = load_file(tmp_path / name / "final" / "model.safetensors")
        return torch.cat([v.flatten().float() for v in state.values()])

    first = weights("a")
    assert torch.equal(first, weights("b"))
    assert not torch.equal(first, weights("c", "train.seed=4"))


@pytest.mark.parametrize("on_device", [False, True])
def test_a_training_of_presence(on_device: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holes = "data.transforms=[HorizontalFlip, {CoarseDropout: {num_holes_range: [2, 2], p: 1}}]"
    config = tiny("train.epochs=1", "model.presence={weight: 0.2, hidden: 8}", holes)
    config.data.device_transforms = on_device
    run = training.train(config, out=tmp_path / "run")
    assert "model.presence" not in capsys.readouterr().out
    assert run.model.presence is not None
    assert (run.model.presence.last != 0).any()
    loaded = load_model(run.folder)
    torch.testing.assert_close(loaded.presence.state_dict(), run.model.presence.state_dict())  # type: ignore[union-attr]
    assert evaluate(run.folder)["rmse_px"] == pytest.approx(run.measures["rmse_px"])


def test_presence_that_the_data_says_nothing_of_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training.train(tiny("train.epochs=1", "model.presence=true", "data.transforms=[]"), out=tmp_path / "run")
    assert "model.presence: every known point is there in the first epoch" in " ".join(capsys.readouterr().out.split())


def test_early_stopping_ends_the_run(tmp_path: Path) -> None:
    config = tiny("train.epochs=30", "train.early_stopping={patience: 1}", "train.optimizer={name: sgd, lr: 1e-9}")
    folder, _, _ = training.train(config, out=tmp_path / "run")
    assert len(pd.read_csv(folder / "metrics.csv")) < 30
    assert (folder / "final").is_dir()


def test_a_checkpoint_that_would_execute_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "executed"), "w"))

    kill_at(monkeypatch, 1)
    with pytest.raises(Killed):
        training.train(tiny(), out=tmp_path / "run")
    monkeypatch.undo()
    (tmp_path / "run" / "last.ckpt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(KpnetError, match=r"last\.ckpt"):
        training.train(tiny(), out=tmp_path / "run", resume=True)
    assert not (tmp_path / "executed").exists()


def test_resume_of_a_finished_run_keeps_the_average(tmp_path: Path) -> None:
    training.train(tiny("train.epochs=2"), out=tmp_path / "run")
    before = load_file(tmp_path / "run" / "final" / "model.safetensors")
    training.train(tiny("train.epochs=2"), out=tmp_path / "run", resume=True)
    after = load_file(tmp_path / "run" / "final" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("override", "equal"),
    [("train.schedule=constant", True), ("train.schedule=one_cycle", False), ("train.average={name: swa}", False)],
    ids=["constant", "one_cycle", "swa"],
)
def test_a_finished_run_is_lengthened(override: str, equal: bool, tmp_path: Path) -> None:
    """The new epochs have the learning rates of a training of that length; without a schedule, its weights too."""
    config = [tiny(override, f"train.epochs={epochs}") for epochs in (2, 4)]
    training.train(config[1], out=tmp_path / "whole")
    training.train(config[0], out=tmp_path / "run")
    training.train(config[1], out=tmp_path / "run", resume=True)
    whole, run = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("whole", "run"))
    assert run.epoch.tolist() == [0, 1, 2, 3]
    assert run.lr.tolist()[2:] == whole.lr.tolist()[2:]
    weights = [load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "run")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items()) is equal
    assert load_config(tmp_path / "run" / "config.yaml").train.epochs == 4
    with pytest.raises(KpnetError, match=r"trained for 4 epochs, and train\.epochs is 3"):
        training.train(tiny(override, "train.epochs=3"), out=tmp_path / "run", resume=True)


def test_the_average_of_a_lengthened_run_is_that_of_its_last_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[dict[str, torch.Tensor]] = []
    done = RunFolderCallback.on_train_epoch_end

    def watch(self: RunFolderCallback, trainer: Any, module: KeypointModule) -> None:
        ends.append({k: v.detach().clone() for k, v in module.model.named_parameters()})
        done(self, trainer, module)

    monkeypatch.setattr(RunFolderCallback, "on_train_epoch_end", watch)
    for epochs, resume in ((2, False), (5, True)):
        config = tiny("train.average={name: swa, start: 0.6}", f"train.epochs={epochs}")
        folder = training.train(config, out=tmp_path / "run", resume=resume).folder
    final = load_file(folder / "final" / "model.safetensors")
    for name in ends[0]:
        torch.testing.assert_close(final[name], (ends[3][name] + ends[4][name]) / 2, rtol=1e-4, atol=1e-6)


def test_what_early_stopping_has_ended_stays_so(tmp_path: Path) -> None:
    config = tiny("train.epochs=30", "train.early_stopping={patience: 1}", "train.optimizer={name: sgd, lr: 1e-9}")
    folder = training.train(config, out=tmp_path / "run").folder
    before = (folder / "metrics.csv").read_text(), load_file(folder / "final" / "model.safetensors")
    training.train(config, out=folder, resume=True)
    assert (folder / "metrics.csv").read_text() == before[0]
    after = load_file(folder / "final" / "model.safetensors")
    assert all(torch.equal(value, before[1][name]) for name, value in after.items())
    epochs = len(pd.read_csv(folder / "metrics.csv"))
    more = load_config(config, [f"train.epochs={epochs + 1}", "train.early_stopping=null"])
    training.train(more, out=folder, resume=True)
    assert len(pd.read_csv(folder / "metrics.csv")) == epochs + 1


@pytest.mark.parametrize(
    "override", ["train.early_stopping={patience: 2}", "train.schedule={name: plateau}"], ids=["stopping", "plateau"]
)
@pytest.mark.parametrize("without", ["data.val=null", "trainer.limit_val_batches=0"])
def test_what_watches_validation_needs_it(tmp_path: Path, override: str, without: str) -> None:
    with pytest.raises(KpnetError, match=r"data\.val"):
        training.train(tiny(override, without), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("gpu", [False, True])
def test_a_training_on_a_gpu_is_not_held_to_the_machines_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    class Checked(Exception):
        pass

    def check(*_: Any) -> None:
        raise Checked

    def stop(*_: Any, **__: Any) -> None:
        raise Killed

    monkeypatch.setattr(training, "check_training_memory", check)
    monkeypatch.setattr(training, "train_in_folder", stop)
    if gpu:  # this machine's accelerator is not the CPU then
        monkeypatch.setattr(training, "CPUAccelerator", CUDAAccelerator)
    with pytest.raises(Killed if gpu else Checked):
        training.train(tiny(), out=tmp_path / "run")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_transform_that_fails_says_so_before_anything_is_written(tmp_path: Path, workers: int) -> None:
    config = tiny("data.transforms=[{RandomCrop: {height: 64, width: 64, p: 1}}]", f"data.workers={workers}")
    with pytest.raises(KpnetError, match=r'^transform "RandomCrop"'):
        training.train(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_interruption_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: RunFolderCallback, trainer: Any, pl_module: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolderCallback, "on_train_epoch_start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        training.train(tiny(), out=tmp_path / "run")


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """`trainer` goes to Lightning as it is. Two ranks with unequal numbers of visible points (some leave the
    image) and half the batch each must take the steps of one process with the whole batch."""
    import subprocess
    import sys

    from kpnet.config.loading import to_yaml

    (tmp_path / "tiny.yaml").write_text(to_yaml(TINY))
    common = [sys.executable, "-m", "kpnet.cli", "train", "tiny.yaml", "train.epochs=2", "data.train=16"]
    common += ["model.backbone={name: conv_sandwich, channels: [8, 16], norm: group}", "train.average=null"]
    common += ["model.head={name: regression, loss: {l1: 1}}", "train.optimizer={name: sgd, lr: 0.05}"]
    common += ["data.transforms=[{Affine: {scale: [1, 2.5], p: 1}}]", "train.schedule=constant"]
    two = ["train.batch_size=4", "trainer={accelerator: cpu, devices: 2, strategy: ddp}", "--out", "two"]
    for command in ([*common, "train.batch_size=8", "--out", "one"], [*common, *two]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("the run is in") == 1
    one, both = (load_file(tmp_path / run / "final" / "model.safetensors") for run in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], both[name], rtol=1e-4, atol=1e-6, msg=name)
    tables = [pd.read_csv(tmp_path / run / "metrics.csv") for run in ("one", "two")]
    for column in ("train_loss", "val_loss", "val_score"):  # each sample counted once
        assert tables[0][column].to_numpy() == pytest.approx(tables[1][column].to_numpy(), rel=1e-4)


@pytest.mark.parametrize("way", ["two_stage", "single_stage"])
def test_a_training_of_instances_goes_on_and_ends_in_one_folder(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = write_shapes(tmp_path / "data", [2, 1, 0, 3, 1]), write_shapes(tmp_path / "data", [1, 2], seed=1)
    config = load_config(shapes_config(train, val, way), ("train.epochs=3", "train.average=ema"))
    whole = training.train(config, out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(Killed):
            training.train(config, out=tmp_path / "killed")
    training.train(config, out=tmp_path / "killed", resume=True)
    weights = [load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "killed")]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    assert any(name.startswith("finder.") for name in weights[0]) == (way == "two_stage")
    images = torch.rand(2, 1, 64, 64)
    loaded, expected = load_model(tmp_path / "whole").find(images, 0.0), whole.model.find(images, 0.0)
    assert [each.scores.tolist() for each in loaded] == [each.scores.tolist() for each in expected]
    assert all(len(each.scores) for each in expected)


@pytest.mark.parametrize("way", ["two_stage", "single_stage"])
def test_whole_images_are_not_augmented_on_the_device(way: str, tmp_path: Path) -> None:
    config = load_config(shapes_config(write_shapes(tmp_path, [1, 2]), None, way), ("data.device_transforms=true",))
    with pytest.raises(KpnetError, match=r"data\.device_transforms: whole images and boxes are augmented on the CPU"):
        training.train(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_crops_of_a_finder_are_those_of_instances_and_jittered(tmp_path: Path) -> None:
    config = load_config(shapes_config(write_shapes(tmp_path, [1]), None))
    assert (config.model.crop, config.data.crop) == ("instance", Crop(by="instance", shift=0.1, scale=0.15))


@pytest.mark.parametrize(
    ("way", "overrides"),
    [("two_stage", ("model.instances.input_size=8",)), ("single_stage", ("model.input_size=8", "model.head.stride=4"))],
)
def test_instances_smaller_than_a_cell_are_told(
    way: str, overrides: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shape of 12 to 20 px is 1.5 to 2.5 px where 64 px become 8."""
    config = load_config(shapes_config(write_shapes(tmp_path, [2, 1]), None, way), (*overrides, "train.epochs=1"))
    training.train(config, out=tmp_path / "run")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "cell of the centre map" in line]
    assert line.startswith("warning: 3 of 3 instances are smaller than a cell of the centre map, 4 px of the 8x8 px")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["two_stage", "single_stage"])
def test_instances_are_found_from_points_alone(way: str, tmp_path: Path) -> None:
    train = write_shapes(tmp_path / "data", [0, 1, 2, 3] * 8)
    run = training.train(load_config(shapes_config(train, None, way), ("train.epochs=60",)), out=tmp_path / "run")
    rng, model = np.random.default_rng(9), run.model
    for count in (0, 1, 2, 3, 3):
        image, points = draw_shapes(count, rng)
        found = model.find(torch.from_numpy(image)[None, None] / 255)[0]
        boxes = (found.boxes + 1) * 32 - 0.5  # of 64 pixels
        assert len(boxes) == count
        edges = np.concatenate([points.min(1), points.max(1)], 1)
        for box in edges:
            assert np.abs(boxes.numpy() - box).max(1).min() < 4
