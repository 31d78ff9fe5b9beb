"""Pretraining without labels: what a run promises, and what the encoder learns and keeps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from support.stripes import CONV, MLP, SIDE, pretraining, stripes

from kpnet import build_model
from kpnet.config.pretraining import Mask, PretrainConfig, load_pretrain_config
from kpnet.core.errors import KpnetError
from kpnet.data.unlabelled import build_images
from kpnet.models.autoencoder import Autoencoder, load_autoencoder
from kpnet.models.masking import corrupt
from kpnet.training import pretraining as module
from kpnet.training.pretraining import pretrain


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return pretraining(tmp_path)


def run(config: dict[str, Any] | PretrainConfig, out: Path, *overrides: str, **options: Any) -> dict[str, float]:
    console = Console(file=(out.parent / "log.txt").open("a"))
    return pretrain(load_pretrain_config(config, overrides), out=out, console=console, **options)[2]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# The run


def test_the_run_folder_and_the_encoder_in_it(values: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    measures = run(values, out)
    assert {p.name for p in out.iterdir()} == {
        *(".kpnet", ".kpnet.lock", "config.yaml", "metrics.csv", "last.ckpt", "tensorboard", "final"),
        *("reconstructions.png", "interpolations.png", "curves.png"),
    }
    assert not list(out.rglob("*.part"))
    assert all(cv2.imread(str(picture)) is not None for picture in out.glob("*.png"))
    assert list(pd.read_csv(out / "metrics.csv").columns) == [
        "epoch",
        "step",
        "lr",
        "train_loss",
        "val_loss",
        "seconds",
    ]
    assert json.loads((out / "final" / "training.json").read_text()) == {"epoch": 1, **measures}
    assert load_pretrain_config(out / "config.yaml") == load_pretrain_config(values)
    state = weights(out)
    assert {name.split(".")[0] for name in state} == {"backbone", "decoder", "mean", "std"}
    described = yaml.safe_load((out / "final" / "model.yaml").read_text())
    assert described["model"]["backbone"] == CONV
    assert described["input"] == {"channels": 1, "mean": [0.5], "std": [0.25]}
    model = build_model(
        backbone=CONV, head="heatmap", num_keypoints=3, in_channels=1, input_size=SIDE, pretrained=str(out)
    )
    fresh = Autoencoder(load_pretrain_config(values).model).backbone.state_dict()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[f"backbone.{name}"]), name
        assert not name.endswith("weight") or not torch.equal(value, fresh[name])


def test_tensorboard_gets_both_pictures(values: dict[str, Any], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(values, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"reconstructions", "interpolations"} <= set(events.Tags()["images"])
    assert {"train_loss", "val_loss"} <= set(events.Tags()["scalars"])


def test_resume_ends_with_the_weights_of_the_uninterrupted_run(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    start = module.PretrainFolderCallback.on_train_epoch_start

    def killed(self: Any, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            raise Killed
        start(self, trainer, pl_module)

    config = load_pretrain_config(values, ["train.epochs=3", "data.workers=1"])
    run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(module.PretrainFolderCallback, "on_train_epoch_start", killed)
        with pytest.raises(Killed):
            run(config, tmp_path / "cut")
    assert not (tmp_path / "cut" / "final").exists()
    with pytest.raises(KpnetError, match=r"another config \(train.noise: 0.1 is now 0.3\)"):
        run(config, tmp_path / "cut", "train.noise=0.3", resume=True)
    run(config, tmp_path / "cut", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    tables = [pd.read_csv(tmp_path / name / "metrics.csv").drop(columns="seconds") for name in ("whole", "cut")]
    pd.testing.assert_frame_equal(tables[0], tables[1])


def test_same_seed_same_weights_and_force(values: dict[str, Any], tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(values, tmp_path / name, f"train.seed={seed}", "train.epochs=1")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    with pytest.raises(KpnetError, match="exists already; use --force"):
        run(values, tmp_path / "a")
    run(values, tmp_path / "a", "train.seed=4", "train.epochs=1", force=True)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_half_precision_trains_weights_of_32_bits(values: dict[str, Any], tmp_path: Path) -> None:
    assert math.isfinite(run(values, tmp_path / "run", "trainer.precision=bf16-mixed")["mse"])
    assert {value.dtype for name, value in weights(tmp_path / "run").items() if "batches" not in name} == {
        torch.float32
    }


def test_without_validation_images(values: dict[str, Any], tmp_path: Path) -> None:
    assert run(values, tmp_path / "run", "data.val=null", "train.epochs=1") == {}
    assert (tmp_path / "run" / "reconstructions.png").is_file()
    assert "val_loss" not in pd.read_csv(tmp_path / "run" / "metrics.csv")


# What it learns


@pytest.mark.parametrize(
    ("backbone", "count", "share"), [(CONV, 100, 0.4), (MLP, 300, 0.8)], ids=["conv_sandwich", "mlp"]
)
def test_it_learns_more_than_the_mean_image(
    values: dict[str, Any], tmp_path: Path, backbone: Any, count: int, share: float
) -> None:
    values["model"] |= {"backbone": backbone, "decoder": {}}
    np.savez(tmp_path / "stripes.npz", images=stripes(count))
    overrides = ["train.epochs=6", "train.noise=0", "train.mask=null", "train.optimizer={name: adam, lr: 1e-2}"]
    measures = run(values, tmp_path / "run", *overrides)
    # The oracle: the images themselves, and the loss as the epoch's line has it.
    config = load_pretrain_config(values)
    val = build_images(config)[1]
    images = torch.stack([val[i]["image"] for i in range(len(val))])  # type: ignore[arg-type, index]
    mean_image = ((images - images.mean(0)) ** 2).mean().item()
    assert measures["mean_image_mse"] == pytest.approx(mean_image, rel=1e-5)
    assert measures["mse"] < share * mean_image
    model = load_autoencoder(tmp_path / "run")
    with torch.no_grad():
        error = (model(images) - images).square().mean().item()
    assert measures["mse"] == pytest.approx(error, rel=1e-4)
    assert pd.read_csv(tmp_path / "run" / "metrics.csv").val_loss.iloc[-1] == pytest.approx(error, rel=1e-4)


def test_the_loss_is_against_the_clean_image(values: dict[str, Any], tmp_path: Path) -> None:
    """An autoencoder that gives back its input has the noise and the blanks as its loss."""
    config = load_pretrain_config(values, ["train.noise=0.5", "train.mask=null"])
    trainee = module.PretrainModule(Autoencoder(config.model), config.train, config.mask)
    trainee.model.forward = lambda images: images
    trainee.log = lambda *given, **options: None  # type: ignore[method-assign]
    images = torch.full((64, 1, SIDE, SIDE), 0.5)
    assert trainee.training_step({"image": images}, 0).item() == pytest.approx(0.25, rel=0.05)


def test_validation_sees_the_same_noise_and_masks_in_every_epoch(values: dict[str, Any]) -> None:
    config = load_pretrain_config(values)
    trainee = module.PretrainModule(Autoencoder(config.model), config.train, config.mask).eval()
    trainee.model.forward = lambda images: images
    images = torch.rand(8, 1, SIDE, SIDE)

    def validate() -> float:
        trainee.on_validation_epoch_start()
        for batch in images.split(4):
            trainee.validation_step({"image": batch}, 0)
        return float(trainee.val_loss.compute())

    first = validate()
    corrupt(images, 1.0, None, torch.zeros(1))  # what training draws in between
    assert validate() == first
    assert first > 0.1**2 / 2


# Masked-image modelling


@pytest.fixture
def masked(values: dict[str, Any]) -> dict[str, Any]:
    values["model"]["method"] = "masked"
    return values


def test_a_masked_run_ends_in_a_backbone_that_arrives_bit_for_bit(masked: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    measures = run(masked, out, "train.noise=0")
    assert {"reconstructions.png", "final"} <= {p.name for p in out.iterdir()}
    assert not (out / "interpolations.png").exists()
    assert json.loads((out / "final" / "training.json").read_text()) == {"epoch": 1, **measures}
    assert list(measures) == ["hidden_l1", "mean_image_l1"]
    # The epoch's line has another draw of masks than the final measure.
    assert pd.read_csv(out / "metrics.csv").val_loss.iloc[-1] == pytest.approx(measures["hidden_l1"], rel=0.3)
    state = weights(out)
    spec: dict[str, Any] = {"backbone": CONV, "num_keypoints": 3, "in_channels": 1, "input_size": SIDE}
    model = build_model(head="heatmap", pretrained=str(out), **spec)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[f"backbone.{name}"]), name


def test_a_masked_run_resumes_with_the_masks_that_come_next(
    masked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    seen: dict[str, list[torch.Tensor]] = {"whole": [], "cut": []}
    config, step = load_pretrain_config(masked, ["train.epochs=2"]), module.PretrainModule.training_step
    assert config.mask == Mask(ratio=0.25, patch=4)

    def watched(name: str, until: int) -> Any:
        def training_step(self: Any, batch: Any, index: int) -> torch.Tensor:
            if self.current_epoch == until:
                raise Killed
            corrupt = self.corrupt

            def noted(*given: Any) -> Any:
                seen[name].append(found := corrupt(*given))
                return found

            with monkeypatch.context() as patch:
                patch.setattr(self, "corrupt", noted)
                return step(self, batch, index)

        return training_step

    monkeypatch.setattr(module.PretrainModule, "training_step", watched("whole", 2))
    run(config, tmp_path / "whole")
    monkeypatch.setattr(module.PretrainModule, "training_step", watched("cut", 1))
    with pytest.raises(Killed):
        run(config, tmp_path / "cut")
    monkeypatch.setattr(module.PretrainModule, "training_step", watched("cut", 2))
    run(config, tmp_path / "cut", resume=True)
    assert len(seen["whole"]) == len(seen["cut"]) == 8
    for whole, cut in zip(seen["whole"], seen["cut"], strict=True):
        assert torch.equal(whole[1], cut[1])
    assert not torch.equal(seen["whole"][0][1], seen["whole"][1][1])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_a_masked_run_predicts_hidden_patches_better_than_the_mean_image(
    masked: dict[str, Any], tmp_path: Path
) -> None:
    """The bars are 16 pixels long: what is seen of one says what is hidden."""
    np.savez(tmp_path / "stripes.npz", images=stripes(200))
    overrides = ["train.epochs=6", "train.noise=0", "train.mask={ratio: 0.5, patch: 4}", "train.optimizer.lr=1e-2"]
    measures = run(masked, tmp_path / "run", *overrides, "trainer.precision=bf16-mixed")
    assert measures["hidden_l1"] < 0.6 * measures["mean_image_l1"]


def test_masks_of_a_method_without_one_in_the_config(masked: dict[str, Any]) -> None:
    assert load_pretrain_config(masked, ["train.mask=null"]).mask == Mask(ratio=0.6, patch=16)
    assert load_pretrain_config(masked, ["train.mask=null", "model.method=autoencoder"]).mask is None
    for method, patch in (("masked", 16), ("autoencoder", 12)):
        config = load_pretrain_config(masked, [f"model.method={method}", "train.mask=null", "train.mask={ratio: 0.7}"])
        assert config.mask == Mask(ratio=0.7, patch=patch)


@pytest.mark.parametrize("safe", [True, False])
def test_channels_last_only_where_it_is_safe(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: bool
) -> None:
    seen: list[torch.Tensor] = []

    def stop(trainer: Any, trained: Any, *_: Any, **__: Any) -> None:
        seen.extend(m.weight for m in trained.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3))
        raise InterruptedError

    monkeypatch.setattr(module, "train_in_folder", stop)
    monkeypatch.setattr("kpnet.models.memory_format._is_safe", lambda _: safe)
    with pytest.raises(InterruptedError):
        run(values, tmp_path / "run")
    several = [weight for weight in seen if weight.shape[1] > 1]
    assert several
    assert all(weight.is_contiguous() != safe for weight in several)
