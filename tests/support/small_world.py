"""A folder as the README and the docs take it for granted: faces, images and a trained run, all of them small."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision
from rich.console import Console

from kpnet.backbones import timm_networks, torchvision_networks
from kpnet.config.loading import load_config
from kpnet.config.pretraining import PretrainConfig
from kpnet.config.schema import Config
from kpnet.data import SyntheticFaces
from kpnet.data.build import build_splits
from kpnet.data.unlabelled import build_images
from kpnet.data.video import write_video
from kpnet.experiments import runner
from kpnet.experiments import sweeping as sweep
from kpnet.experiments.plan import Trial
from kpnet.export import html
from kpnet.export.page.runtime import Runtime
from kpnet.heads import window_of
from kpnet.models import detectors
from kpnet.models.build import assemble, build_model
from kpnet.training import overfitting as overfit
from kpnet.training import pretraining as pretrain
from kpnet.training import supervised as training
from kpnet.training.freezing import check_freeze

SMALL = (
    *("model.backbone.channels=[8, 16]", "model.backbone.residual=0", "model.head.decoder.width=8"),
    *("train.epochs=1", "train.batch_size=4", "data.workers=0", "data.transforms=[]", "trainer.precision=32-true"),
)


def make_world(folder: Path) -> Path:
    """The folder, filled; its run is the recipe facial_heatmap on a narrow backbone, after one epoch."""
    faces = SyntheticFaces(12, seed=1)
    for place in ("data/faces15", "my_folder", "data/faces_unlabelled", "photos"):
        (folder / place).mkdir(parents=True)
    for place in ("data/faces15", "my_folder"):
        write_csv(folder / place / "training.csv", faces, range(8), 15)
        write_csv(folder / place / "val.csv", faces, range(8, 12), 15)
    write_csv(folder / "data/faces15/partial.csv", faces, range(4), 4)
    for name, shift in (("held_out.csv", 0.0), ("anna.csv", 0.0), ("ben.csv", 0.5)):
        write_csv(folder / name, SyntheticFaces(12, seed=2), range(12), 15, shift)
    images = [faces.read(index)[0] for index in range(12)]
    np.savez(folder / "data/faces_unlabelled/faces.npz", images=np.stack(images))
    for name in ("photo.jpg", "photos/a.png", "photos/b.png"):
        cv2.imwrite(str(folder / name), cv2.resize(images[0], (120, 130)))
    with write_video(folder / "clip.mp4", 25.0) as add:
        for image in images[:5]:
            add(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))
    with inside(folder), open(os.devnull, "w") as log:
        training.train(load_config("facial_heatmap", SMALL), console=Console(file=log))
    small = {"name": "conv_sandwich", "channels": [4, 8]}
    finder = {"backbone": small, "input_size": 32}
    build_model(backbone=small, head="heatmap", num_keypoints=3, input_size=32, instances=finder).save(
        folder / "runs/flies"
    )
    return folder


def write_csv(path: Path, faces: SyntheticFaces, indices: range, points: int, shift: float = 0.0) -> None:
    names = faces.skeleton.names[:points]
    lines = [",".join([f"{name}_{axis}" for name in names for axis in "xy"] + ["Image"])]
    for image, xy in map(faces.read, indices):
        lines.append(",".join([f"{v + shift:.2f}" for v in xy[:points].ravel()] + [" ".join(map(str, image.ravel()))]))
    path.write_text("\n".join(lines) + "\n")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def without_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published weights are random ones, and ONNX Runtime Web is empty."""
    create = timm_networks._create
    monkeypatch.setattr(timm_networks, "_create", lambda name, channels, _, *rest: create(name, channels, False, *rest))
    monkeypatch.setattr(
        torchvision_networks, "_download", lambda _, name: torchvision.models.get_model(name).state_dict()
    )
    untrained = {"weights": None, "weights_backbone": None}
    monkeypatch.setattr(
        detectors,
        "_published",
        lambda name, _: torchvision.models.get_model(name.removeprefix("torchvision/"), **untrained).state_dict(),
    )
    monkeypatch.setattr(html, "load_runtime", lambda folder: Runtime("1.0", b"", b""))


def without_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training is data, model, and one loss with its gradients; its run is the small one."""
    monkeypatch.setattr(training, "train", one_step)
    monkeypatch.setattr(pretrain, "pretrain", one_pretraining_step)
    monkeypatch.setattr(runner, "train_apart", here)
    monkeypatch.setattr(sweep, "run_trial", no_trial)
    monkeypatch.setattr(overfit, "STEPS", 2)
    monkeypatch.setattr(overfit, "TARGET_PX", 1e3)


def one_step(config: Config, *, out: Path | None, resume: bool, **_: Any) -> tuple[Path, Any, dict[str, Any]]:
    """In place of `kpnet.training.supervised.train`."""
    folder = out or Path("runs") / config.name
    assert (folder / "last.ckpt").is_file() or not resume
    dataset, val = build_splits(config, window_of(config.model.head))
    assert val is None or len(val)
    model = assemble(config.model, dataset.skeleton)
    check_freeze(model, config.train)
    items = [dataset[index] for index in range(2)]
    model.loss({key: torch.stack([item[key] for item in items]) for key in ("image", "keypoints", "weight")}).backward()
    small = Path("runs/facial_heatmap")
    if folder != small:
        # The trainings of `kpnet calibrate --folds` lie within the run.
        shutil.copytree(small, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("folds"))
    return folder, model, {}


def here(
    trial: Trial, folder: Path, output: runner.Output, watch: runner.ShouldContinue | None
) -> tuple[runner.State, str]:
    """In place of `kpnet.experiments.runner.train_apart`: in this process."""
    return runner.attempt(trial, folder, output.console(), watch)


def no_trial(trial: Trial, out: Path, *_: Any) -> runner.Outcome:
    """In place of `kpnet.experiments.runner.run_trial`."""
    return runner.Outcome(trial, trial.folder(out), runner.load_result(next(Path("runs/heads/runs").glob("*_seed0_*"))))


def one_pretraining_step(config: PretrainConfig, *, out: Path | None, **_: Any) -> tuple[Path, Any, dict[str, Any]]:
    """In place of `kpnet.training.pretraining.pretrain`."""
    folder = out or Path("runs") / config.name
    images = build_images(config)[0]
    model = pretrain.METHODS[config.model.method](config.model)
    model(torch.stack([images[index]["image"] for index in range(2)])).square().mean().backward()
    model.save(folder / "final")
    return folder, model, {}
