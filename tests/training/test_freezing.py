"""Frozen means frozen, what is unfrozen learns at its own rate, and neither resume nor two processes change that."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from kpnet import build_model
from kpnet.backbones.stages import find_stages
from kpnet.config.loading import load_config
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError
from kpnet.training import supervised as training
from kpnet.training.callbacks import RunFolderCallback
from kpnet.training.freezing import count_learning_groups, parameter_groups
from kpnet.training.module import KeypointModule

BACKBONE: dict[str, Any] = {
    "name": "conv_sandwich",
    "channels": [4, 8, 8],
    "norm": "batch",
    "residual": 1,
    "dropout": 0.3,
}
SMALL: dict[str, Any] = {
    "name": "small",
    "model": {
        "backbone": BACKBONE,
        "head": {"name": "heatmap", "stride": 4, "decoder": {"name": "top_down", "width": 8}},
        "in_channels": 1,
        "input_size": 32,
    },
    "data": {"format": "synthetic", "train": 16, "val": 4},
    "train": {
        "epochs": 4,
        "batch_size": 4,
        "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
        "schedule": "constant",
        "average": "ema",
    },
    "trainer": {"accelerator": "cpu"},
}
STEPS = 4  # of an epoch


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """Weights of the backbone with statistics that no initialisation has."""
    torch.manual_seed(9)
    state = build_model(backbone=BACKBONE, head="regression", num_keypoints=3, in_channels=1, input_size=32).backbone
    path = tmp_path / "backbone.safetensors"
    values = {k: torch.rand(v.shape) + 0.5 if v.is_floating_point() else v for k, v in state.state_dict().items()}
    save_file(values, path)
    return path


def small(pretrained: Path, *overrides: str) -> Config:
    return load_config(SMALL, [f"model.pretrained={pretrained}", *overrides])


def watch(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The trained state (not the average) at the end of each epoch."""
    states: list[dict[str, torch.Tensor]] = []
    done = RunFolderCallback.on_train_epoch_end

    def note(self: RunFolderCallback, trainer: Any, module: KeypointModule) -> None:
        states.append({k: v.clone() for k, v in module.model.state_dict().items()})
        done(self, trainer, module)

    monkeypatch.setattr(RunFolderCallback, "on_train_epoch_end", note)
    return states


def rest(state: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> set[str]:
    """The backbone's blocks of which every parameter and buffer is, to the bit, what it was."""
    names = {name for name in start if name.startswith("backbone.")}
    moved = {name.split(".")[2] for name in names if not torch.equal(state[name], start[name])}
    return {name.split(".")[2] for name in names} - moved


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ("true", ["012", "012", "012", "012"]),
        ("{until: 2}", ["012", "012", "", ""]),
        ("{stages: 1}", ["0", "0", "0", "0"]),
        ("{stages: 2, until: 1}", ["01", "", "", ""]),
        ("{until: 1, every: 1}", ["012", "01", "0", ""]),
        ("false", ["", "", "", ""]),
    ],
)
def test_what_rests_is_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: Path, freeze: str, expected: list[str]
) -> None:
    """Parameters and buffers, in the network that trains and in its average, with weight decay and dropout on."""
    start = {f"backbone.{k}": v for k, v in load_file(pretrained).items()}
    states = watch(monkeypatch)
    folder, _, _ = training.train(small(pretrained, f"train.freeze={freeze}"), out=tmp_path / "run")
    assert ["".join(sorted(rest(state, start))) for state in states] == expected
    final = load_file(folder / "final" / "model.safetensors")
    assert "".join(sorted(rest(final, start))) == expected[-1]
    assert all(not torch.equal(a["head.maps.0.weight"], b["head.maps.0.weight"]) for a, b in itertools.pairwise(states))


@pytest.mark.parametrize("stages", [None, 1, 2])
def test_train_leaves_what_rests_in_eval_mode(stages: int | None) -> None:
    """Without a gradient, and dropout off: the features of one batch are the same twice, in train mode too."""
    model = build_model(backbone=BACKBONE, head="regression", num_keypoints=3, in_channels=1, input_size=32)
    model.freeze_backbone(stages)
    model.eval()
    model.train()
    frozen = len(model.backbone.strides) if stages is None else stages
    images = torch.rand(4, 1, 32, 32)
    first, second = model.features(images), model.features(images)
    same = [torch.equal(a, b) for a, b in zip(first, second, strict=True)]
    assert same == [i < frozen for i in range(3)]
    assert [m.requires_grad for m in first] == [i >= frozen for i in range(3)]
    assert model.head.training
    model.unfreeze_backbone()
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_no_gradient_and_no_optimizer_group(pretrained: Path) -> None:
    config = small(pretrained, "train.freeze={stages: 2}")
    model = build_model(config, num_keypoints=15)
    module = KeypointModule(model, config.train)
    held = {p for part in module.learning_groups() for group in part.groups(0.1, 0.01) for p in group["params"]}
    resting = {p for block in model.backbone.blocks[:2] for p in block.parameters()}  # type: ignore[index]
    assert held == set(model.parameters()) - resting
    model.train()
    torch.stack(list(model(torch.rand(2, 1, 32, 32)).flatten())).sum().backward()
    assert all(p.grad is None for p in resting)
    assert all(p.grad is not None for p in held)


def rates(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The rate of each part at every step."""
    seen: list[dict[str, float]] = []
    step = KeypointModule.training_step

    def note(self: KeypointModule, batch: Any, batch_idx: int) -> torch.Tensor:
        seen.append({group["part"]: group["lr"] for group in self.trainer.optimizers[0].param_groups})
        return step(self, batch, batch_idx)

    monkeypatch.setattr(KeypointModule, "training_step", note)
    return seen


def test_rates_of_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: Path) -> None:
    seen = rates(monkeypatch)
    overrides = ["train.lr_scale={backbone: 0.5}", "train.layer_decay=0.8", "train.epochs=1"]
    training.train(small(pretrained, *overrides), out=tmp_path / "run")
    expected = {"head": 0.01, "backbone_stride_8": 0.004, "backbone_stride_4": 0.0032, "backbone_stride_2": 0.00256}
    assert seen == [pytest.approx(expected)] * STEPS
    noted = pd.read_csv(tmp_path / "run" / "metrics.csv").iloc[0]
    assert noted["lr"] == pytest.approx(0.01)
    assert noted["lr_backbone_stride_4"] == pytest.approx(0.0032)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_head_and_what_is_not_frozen_learn(stages: int) -> None:
    """Group by group in the order of unfreezing, however few stages there are."""
    backbone = {"name": "conv_sandwich", "channels": [4] * stages}
    model = build_model(backbone=backbone, head="regression", num_keypoints=3, in_channels=1, input_size=32)
    groups = parameter_groups(model, load_config(SMALL, ["train.layer_decay=0.5"]).train)
    found = [count_learning_groups(groups, model, frozen) for frozen in range(stages + 1)]
    assert found == [1 + stages - frozen for frozen in range(stages + 1)]


def test_what_thaws_warms_up_to_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: Path) -> None:
    seen = rates(monkeypatch)
    overrides = ["train.freeze={until: 1, warmup: 1.5}", "train.lr_scale={backbone: 0.1}", "train.epochs=4"]
    schedule = "train.schedule={name: cosine, final_factor: 0.5}"
    training.train(small(pretrained, *overrides, schedule), out=tmp_path / "run")
    heads = [step["head"] for step in seen]
    assert all("backbone" not in step for step in seen[:STEPS])
    shares = [step["backbone"] / head for step, head in zip(seen, heads, strict=True) if "backbone" in step]
    warm = int(1.5 * STEPS)
    assert shares == pytest.approx([0.1 * min(1.0, (k + 1) / (warm + 1)) for k in range(3 * STEPS)])
    noted = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert list(noted.lr_backbone.isna()) == [True, False, False, False]


@pytest.mark.parametrize("schedule", ["one_cycle", "plateau"])
@pytest.mark.parametrize("cut", [1, 2])
def test_resume_goes_on_with_the_freeze_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: Path, cut: int, schedule: str
) -> None:
    overrides = ["train.freeze={until: 1, every: 1}", "train.lr_scale.backbone=0.3", f"train.schedule={schedule}"]
    config = small(pretrained, *overrides)
    training.train(config, out=tmp_path / "whole")
    start = RunFolderCallback.on_train_epoch_start

    def killed(self: RunFolderCallback, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == cut:
            raise KeyError("power")
        start(self, trainer, pl_module)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolderCallback, "on_train_epoch_start", killed)
        with pytest.raises(KeyError):
            training.train(config, out=tmp_path / "cut")
    training.train(config, out=tmp_path / "cut", resume=True)
    whole, resumed = (load_file(tmp_path / run / "final" / "model.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_thaw_alike(tmp_path: Path, pretrained: Path) -> None:
    """After an unfreeze both ranks hold the same weights, those of one process that sees both batches at once."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump(small(pretrained, "train.freeze={until: 1, every: 1}").model_dump(mode="json")))
    plain = ["model.backbone.dropout=0", "model.backbone.norm=layer", "model.pretrained=false", "train.average=null"]
    plain += ["model.head={name: regression, loss: {l1: 1}}", "train.optimizer={name: sgd, lr: 0.05}"]
    script = (
        "import sys, torch, kpnet.training.module as m\n"
        "def end(self):\n"
        "    every = self.all_gather(torch.cat([p.detach().flatten() for p in self.model.parameters()]))\n"
        "    assert every.ndim == 1 or torch.equal(every[0], every[1]), 'ranks differ'\n"
        "m.KeypointModule.on_train_epoch_end = end\n"
        "from kpnet.cli import main\n"
        "main()\n"
    )
    (tmp_path / "ranks.py").write_text(script)
    two = ["train.batch_size=2", "trainer={accelerator: cpu, devices: 2, strategy: ddp}", "--out", "two"]
    for further in (two, ["--out", "one"]):
        command = [sys.executable, "ranks.py", "train", str(recipe), *plain, *further]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    one, both = (load_file(tmp_path / run / "final" / "model.safetensors") for run in ("one", "two"))
    for name in one:
        torch.testing.assert_close(both[name], one[name], rtol=1e-3, atol=1e-4)


def test_stages_of_a_chain_are_its_blocks() -> None:
    model = build_model(backbone=BACKBONE, head="regression", num_keypoints=3, in_channels=1, input_size=32)
    for names in (model.stages.parameters, {k: v for k, v in model.stages.modules.items() if k.count(".") > 1}):
        assert {name: int(name.split(".")[1]) for name in names} == names


def test_stages_of_a_resnet() -> None:
    """The stem makes the map of stride 2; each layer one of the others, with all that is inside it."""
    backbone = build_model(backbone="resnet18", head="regression", num_keypoints=3, in_channels=1).backbone
    for p in list(backbone.parameters())[:5]:
        p.requires_grad_(False)
    stages = find_stages(backbone, 1, (64, 64))
    for names in (stages.parameters, stages.modules):
        for name, stage in names.items():
            part = name.removeprefix("net.").split(".")[0]
            if part.startswith("layer"):
                assert stage == int(part[-1])
            elif part in ("conv1", "bn1"):
                assert stage == 0
    assert [p.requires_grad for p in backbone.parameters()][:6] == [False] * 5 + [True]


def test_a_parameter_of_the_whole_network_is_of_its_own_stage() -> None:
    """Hiera holds its position embedding at the root, and the first map depends on it."""
    model = build_model(backbone="hiera_tiny_224", head="regression", num_keypoints=3, input_size=224)
    model.freeze_backbone(len(model.backbone.strides) - 1)
    maps = model.features(torch.rand(1, 3, 224, 224))
    assert [m.requires_grad for m in maps] == [False] * (len(maps) - 1) + [True]


def test_synchronised_batch_norms_rest_too() -> None:
    """They take the places of those that were there when the backbone was frozen."""
    model = build_model(backbone=BACKBONE, head="regression", num_keypoints=3, in_channels=1, input_size=32)
    model.freeze_backbone(2)
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.train()
    norms = [m for m in model.backbone.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    assert [m.training for m in norms] == [False] * 6 + [True] * 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.freeze={until: 4}",
            r"freeze.until: expected less than train.epochs \(4\), found 4; freeze: true freezes",
        ),
        ("train.freeze={stages: 4}", "freeze.stages: expected at most 3, the backbone's maps, found 4"),
        ("train.freeze={until: 2, every: 1}", "1 of 3 stages would never learn"),
        ("train.freeze={every: 1}", "every needs until"),
        ("train.freeze={untill: 1}", '"train.freeze.untill" .did you mean "until"'),
        ("train.layer_decay=0", "layer_decay"),
        ("train={freeze: {until: 1, warmup: 2}, epochs: 4, schedule: plateau}", "freeze.warmup counts steps"),
        ("train.lr_scale={backbone: 0}", "lr_scale.backbone"),
    ],
)
def test_bad_settings(tmp_path: Path, pretrained: Path, override: str, message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        training.train(small(pretrained, override), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_random_weights_at_rest_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training.train(load_config(SMALL, ["train.freeze=true", "train.epochs=1"]), out=tmp_path / "run")
    assert "would freeze randomly initialised weights, which would never learn" in capsys.readouterr().out
    training.train(load_config(SMALL, ["train.freeze={until: 1}", "train.epochs=2"]), out=tmp_path / "later")
    assert "would not learn before epoch 2" in capsys.readouterr().out


def test_more_stages_than_there_are() -> None:
    model = build_model(backbone=BACKBONE, head="regression", num_keypoints=3, in_channels=1, input_size=32)
    with pytest.raises(KpnetError, match="expected 0 to 3 stages, the backbone's maps, found 4"):
        model.freeze_backbone(4)


def test_the_report_of_what_was_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a whole classifier and from a run: what fits, what is skipped, what is new."""
    import torchvision

    torch.manual_seed(0)
    classifier = torchvision.models.squeezenet1_1().state_dict()
    torch.save(classifier, tmp_path / "classifier.pth")
    new = ["model.backbone=torchvision/squeezenet1_1", "train.epochs=1", "data.train=4"]
    training.train(load_config(SMALL, [*new, f"model.pretrained={tmp_path / 'classifier.pth'}"]), out=tmp_path / "a")
    told = capsys.readouterr().out
    tensors = sum(name.startswith("features.") for name in classifier)
    head = sum(name.startswith("head.") for name in load_file(tmp_path / "a" / "final" / "model.safetensors"))
    assert f"classifier.pth: {tensors} tensors; not used: classifier; new: the head's {head}" in told
    training.train(load_config(SMALL, [*new, f"model.pretrained={tmp_path / 'a'}"]), out=tmp_path / "b")
    told = " ".join(capsys.readouterr().out.split())
    assert f"{tmp_path / 'a'}: {tensors} tensors; {head} tensors of the head, with 15 of 15 points by name" in told
    assert "not used" not in told
    training.train(load_config(SMALL, ["train.epochs=1"]), out=tmp_path / "c")
    assert "pretrained:" not in capsys.readouterr().out
