"""Predictions for labelled data by models that did not see them: a short training for each fold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from kpnet.config.fields import Part
from kpnet.config.loading import load_config
from kpnet.config.schema import Config
from kpnet.core.console import PlainConsole
from kpnet.core.errors import KpnetError
from kpnet.core.runtime import best_device
from kpnet.data import KeypointDataset
from kpnet.data.build import build_train
from kpnet.data.wrappers.subset import Subset, split_fold
from kpnet.evaluation.measurement import Predictions, image_numbers, predict_dataset
from kpnet.evaluation.presence import lacks_a_kind, predict_absences, with_copies
from kpnet.evaluation.run_data import check_reads_samples
from kpnet.experiments.plan import fold_trials
from kpnet.experiments.runner import locked_folder, resumable, run_trials
from kpnet.heads import Keypoints
from kpnet.models.build import load_model
from kpnet.models.test_time import TestTime

KIND = "cross-validation"  # what the marker of the folder states
STEPS, BATCH = 700, 16  # of a short training
EPOCHS = 5, 100  # the fewest and the most of them


def short_recipe(dataset: KeypointDataset, folds: int) -> dict[str, Any]:
    """Return the recipe of a training of a few minutes that fits a dataset.

    Args:
        dataset: The samples, with the size and channels that they have.
        folds: Number of folds, which says how many samples each training has.

    Returns:
        The sections `model`, `train` and `trainer` of a config, and `transforms` and `crop` of its data.

    Raises:
        KpnetError: An image has several instances, and they have no boxes by which a model could tell them apart.
    """
    image = dataset.read(0)[0]
    grey = image.ndim == 2 or image.shape[2] == 1
    boxed = all(dataset.box(index) is not None for index in range(len(dataset)))
    if not boxed and any(dataset.instance(index) for index in range(len(dataset))):
        raise KpnetError(
            "images have several instances, and no boxes tell a model which one to look at: add boxes, as in COCO "
            "JSON, or give a recipe with data.crop: points"
        )
    side = 96 if max(image.shape[:2]) <= 96 else 128
    epochs = math.ceil(STEPS * BATCH / max(1, len(dataset) * (folds - 1) / folds))
    flip = [{"HorizontalFlip": {"p": 0.5}}] if dataset.skeleton.can_mirror else []
    affine = {"rotate": [-20, 20], "scale": [0.85, 1.15], "keep_ratio": True, "p": 0.9}
    return {
        "model": {
            "backbone": {"name": "conv_sandwich", "channels": [16, 32, 64, 128, 256], "norm": "batch"},
            "head": {
                "name": "heatmap",
                "decoder": {"name": "top_down", "width": 48},
                "stride": 4,
                "loss": {"l1": 1.0, "cross_entropy": 0.3},
                "decoding": "blend",
            },
            "in_channels": 1 if grey else 3,
            "input_size": [side, side],
        },
        "data": {
            "crop": "box" if boxed else None,
            "transforms": [*flip, {"Affine": affine}, {"RandomBrightnessContrast": {"p": 0.5}}],
        },
        "train": {
            "epochs": min(max(epochs, EPOCHS[0]), EPOCHS[1]),
            "batch_size": BATCH,
            "optimizer": {"name": "adamw", "lr": 4e-3, "weight_decay": 0.05},
            "average": {"name": "ema", "decay": 0.99},
        },
        "trainer": {"precision": "auto"},
    }


def fold_config(
    path: Path, form: Part, dataset: KeypointDataset, folds: int, recipe: str | Path | None = None
) -> Config:
    """Return the config of the trainings on the folds of a dataset.

    Args:
        path: The file or folder of labels.
        form: Name of its format, or a mapping with its options.
        dataset: What is in it.
        folds: Number of folds.
        recipe: A YAML file or a recipe's name, whose data are replaced by these. None: `short_recipe`.

    Returns:
        The config, without the fold.

    Raises:
        KpnetError: The recipe cannot be used.
    """
    values: Mapping[str, Any] = (
        short_recipe(dataset, folds) if recipe is None else load_config(recipe).model_dump(mode="json")
    )
    own = {key: value for key, value in values["data"].items() if key in ("crop", "transforms", "workers")}
    data = {
        **own,
        "format": form,
        "root": ".",
        "train": str(path),
        "skeleton": dataset.skeleton.to_dict(),
    }
    return load_config({**values, "name": path.stem, "data": data})


def predict_folds(
    config: Config,
    folds: int,
    out: Path,
    *,
    workers: int = 1,
    console: Console | None = None,
    flip: bool | None = None,
    absences: bool = False,
) -> tuple[KeypointDataset, Predictions]:
    """Train a model for each fold of the training data, and predict the samples that it did not see.

    Finished trainings in `out` are not repeated, and an interrupted one is continued.

    Args:
        config: The config of the trainings; its validation data are not used.
        folds: Number of folds.
        out: Folder of the trainings.
        workers: Trainings to run at the same time.
        console: Where to print; None is the terminal.
        flip: Average over the mirrored image. None: where the skeleton has left and right points.
        absences: Where presence is predicted, and too few points are not there, predict a copy of each sample too, in
            the order of the samples and behind them, as `kpnet.evaluation.presence.with_absences` does.

    Returns:
        The samples, without augmentation, and their predictions in the same order, not calibrated.

    Raises:
        KpnetError: There are more folds than images, the head reads whole images, a training fails, or `out` holds
            something else.
    """
    console = console or PlainConsole()
    check_reads_samples(config.model.head, "the recipe")
    row = fold_trials(config, folds)
    dataset = build_train(row.trials[0].config, augment=False)
    for trial in row.trials:
        assert trial.config.data.fold is not None
        split_fold(dataset, trial.config.data.fold)
    with locked_folder(out, KIND), resumable():
        runs = {}
        for outcome in run_trials([row], out, console, workers):
            if outcome.result is None:
                raise KpnetError(f"{outcome.folder}: {outcome.problem}")
            runs[outcome.trial.key] = outcome.folder
        parts, copies, held = [], [], []
        for trial in row.trials:
            assert trial.config.data.fold is not None
            held.append(torch.from_numpy(split_fold(dataset, trial.config.data.fold)[1]))
            model = load_model(runs[trial.key]).to(best_device())
            model.calibration = None  # it is fitted to the fold
            views = TestTime(flip=True) if (model.skeleton.can_mirror if flip is None else flip) else None
            unseen = Subset(dataset, held[-1].numpy())
            parts.append(predict_dataset(model, unseen, test_time=views))
            if absences and model.presence is not None:
                copies.append(predict_absences(model, unseen, test_time=views))
    order = torch.cat(held).argsort()
    joined = _join(parts, order, dataset)
    return dataset, with_copies(joined, _join(copies, order, dataset)) if copies and lacks_a_kind(joined) else joined


def _join(parts: list[Predictions], order: torch.Tensor, dataset: KeypointDataset) -> Predictions:
    """Return the predictions of all folds in the order of the dataset."""

    predicted = Keypoints.concatenate([part.predicted for part in parts]).map(lambda rows: rows[order])
    target, visible, matrix = (
        torch.cat([getattr(part, name) for part in parts])[order] for name in ("target", "visible", "matrix")
    )
    present = [part.present for part in parts if part.present is not None]
    known = torch.cat(present)[order] if present else None
    return Predictions(predicted, target, visible, matrix, images=image_numbers(dataset), present=known)
