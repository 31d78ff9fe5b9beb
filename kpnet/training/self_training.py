"""Self-training: a first model labels the images without labels, and a second one learns from both.

As in Xie et al. 2020 (Self-training with Noisy Student improves ImageNet classification): the first model sees plain
images, the second augmented ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from rich.console import Console

from kpnet.config.schema import Config
from kpnet.coordinates import invert, transform
from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic
from kpnet.core.runtime import best_device
from kpnet.data import KeypointDataset
from kpnet.data.augmentations import augmentation
from kpnet.data.build import build_splits
from kpnet.data.unlabelled import UnlabelledImages, read_unlabelled
from kpnet.data.wrappers.pseudo_labels import WithPseudoLabels
from kpnet.evaluation.measurement import predict_samples, to_image_pixels
from kpnet.heads import finds_instances, window_of
from kpnet.models.build import assemble, load_model
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime
from kpnet.training.run_folder import FIRST, PSEUDO_LABELS, Claim, create_run_folder, is_main_process
from kpnet.training.trainer import count_processes, on_gpu


@dataclass(frozen=True)
class PseudoLabels:
    """What a model has found in images without labels.

    Attributes:
        images: The images.
        keypoints: Float64 (N, K, 2), in pixels of the images that `images.read` gives.
        confidence: Float64 (N, K).
    """

    images: UnlabelledImages
    keypoints: np.ndarray
    confidence: np.ndarray

    def beside(self, labelled: KeypointDataset, config: Config) -> WithPseudoLabels:
        """Return labelled samples together with these; `train.self_train` says which of these points count."""
        assert config.train.self_train is not None
        counts = self.confidence >= config.train.self_train.min_confidence
        return WithPseudoLabels(
            labelled,
            self.images,
            np.where(counts[..., None], self.keypoints, np.nan),
            np.where(counts, self.confidence, 0.0),
            per_label=config.train.self_train.per_label,
            transform=augmentation(config.data, config.model, labelled.skeleton),
        )


def find_pseudo_labels(
    config: Config, claim: Claim, console: Console, *, resume: bool, train: Callable[[Config, Claim], Any]
) -> PseudoLabels:
    """Train the first model in the folder `first` of a run, and find the points of the images without labels.

    What an interrupted run has of this is not made again. Nothing is written before the data and the model are built.

    Args:
        config: The config of the run.
        claim: Its folder.
        console: Where progress is printed.
        resume: Whether the run is continued.
        train: A supervised training, which writes the run folder that it is given.

    Returns:
        The points that were found, which are in `pseudo_labels.csv` too.

    Raises:
        KpnetError: There are no images without labels, the model has no confidence or sees parts of images, or no point
            is confident enough, or several processes would train.
    """
    assert config.train.self_train is not None
    images = _check(config)
    first, table = claim.folder / FIRST, claim.folder / PSEUDO_LABELS
    if not claim.resume:
        create_run_folder(claim.folder, config, resume)
    found = read_table(table, images) if table.is_file() else None
    if found is None:
        if not (first / "final").is_dir():
            if is_main_process():
                console.print(f"self-training: the first model, on the labels alone, in {first}", **_PLAIN)
            pl.seed_everything(config.train.seed, workers=True, verbose=False)
            train(_of_labels(config), Claim(first, (first / "last.ckpt").is_file()))
        model = load_model(first).to(best_device() if on_gpu(config.trainer) else torch.device("cpu"))
        write_table(table, predict_images(model, images, config.data.workers))
        found = read_table(table, images)  # to the last bit what a resumed run reads
    _tell(found, config.train.self_train.min_confidence, table, console)
    pl.seed_everything(config.train.seed, workers=True, verbose=False)  # as if nothing had been trained before
    return found


_PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def _check(config: Config) -> UnlabelledImages:
    """Return the images without labels, or raise KpnetError where self-training cannot be done."""
    processes = count_processes(config.trainer)
    if processes > 1:
        raise KpnetError(
            f"train.self_train: {processes} processes would train, and the two trainings follow each other in one: "
            "give trainer.devices: 1 and trainer.num_nodes: 1"
        )
    if not config.data.unlabelled:
        raise KpnetError("train.self_train: there are no images without labels: give data.unlabelled")
    if config.train.unlabelled is not None:
        raise KpnetError("train.self_train: a teacher (train.unlabelled) learns from the same images: give one of them")
    head, window = config.model.head, window_of(config.model.head)
    parts = {
        "data.crop": config.data.crop is not None,
        "model.instances": config.model.instances is not None,
        "a head of several instances": finds_instances(head),
        "a head of several frames": sum(window) > 0,
    }
    for what, given in parts.items():
        if given:
            raise KpnetError(f"train.self_train: expected a model that sees one object in a whole image, found {what}")
    train, val = build_splits(config, window, augment=False)
    images = read_unlabelled(config, train.skeleton, [train] if val is None else [train, val])
    model = assemble(config.model, train.skeleton)
    if model.infer(images[0]["image"][None]).confidence is None:
        raise KpnetError(
            "train.self_train: this head gives no confidence, by which the found points are weighed: "
            "take one with a spread, such as heatmap or rle"
        )
    return images


def _of_labels(config: Config) -> Config:
    """Return the config of the first training."""
    data = config.data.model_copy(update={"unlabelled": []})
    return config.model_copy(update={"data": data, "train": config.train.model_copy(update={"self_train": None})})


def predict_images(model: KeypointModel, images: UnlabelledImages, workers: int = 0) -> PseudoLabels:
    """Find the points of images, as the mean of the plain and the mirrored image where the skeleton has pairs.

    Args:
        model: The model, whose confidence is calibrated if it has a calibration.
        images: The images, without augmentation.
        workers: Processes that load images in the background; 0: none.

    Returns:
        The points.
    """
    views = TestTime(flip=True) if model.skeleton.can_mirror else None
    found = predict_samples(model, images, test_time=views, workers=workers)
    assert found.predicted.confidence is not None
    points, _ = to_image_pixels(found.predicted, found.matrix, model.config.input_size)
    return PseudoLabels(images, points, found.predicted.confidence.double().numpy())


def write_table(path: Path, found: PseudoLabels) -> None:
    """Write found points as a table `image, name, x, y, confidence`, in pixels of the images in their sources."""
    names = found.images.skeleton.names
    count = len(names)
    keypoints = np.stack(
        [transform(xy, invert(found.images.source_matrix(index))) for index, xy in enumerate(found.keypoints)]
    )
    columns = {
        "image": np.repeat([found.images.image_name(i) for i in range(len(found.images))], count),
        "name": np.tile(names, len(found.images)),
        **{axis: keypoints[..., column].ravel() for column, axis in enumerate("xy")},
        "confidence": found.confidence.ravel(),
    }
    write_atomic(path, pd.DataFrame(columns).to_csv(index=False).encode())


def read_table(path: Path, images: UnlabelledImages) -> PseudoLabels:
    """Read the table that `write_table` wrote.

    Raises:
        KpnetError: It is of other images or points, or damaged.
    """
    names = images.skeleton.names
    try:
        table = pd.read_csv(path, dtype={"image": str, "name": str}, keep_default_na=False)
        values = table[["x", "y", "confidence"]].to_numpy(np.float64)
    except (KeyError, ValueError) as error:
        raise KpnetError(f"{path}: {error}; delete it, and --resume writes it again") from None
    expected = [images.image_name(index) for index in range(len(images)) for _ in names]
    if table.image.tolist() != expected or table.name.tolist() != list(names) * len(images):
        raise KpnetError(
            f"{path}: {len(table)} points, which are not those of the {len(images)} images of data.unlabelled with "
            f"{len(names)} points each: delete it, and --resume writes it again"
        )
    points = values.reshape(len(images), len(names), 3)
    keypoints = np.stack([transform(xy, images.source_matrix(index)) for index, xy in enumerate(points[..., :2])])
    return PseudoLabels(images, keypoints, points[..., 2])


def _tell(found: PseudoLabels, least: float, table: Path, console: Console) -> None:
    """Print how many points count, or raise KpnetError where none does."""
    counts = found.confidence >= least
    if not counts.any():
        raise KpnetError(
            f"{table}: no point has a confidence of {least:g}, the highest is {found.confidence.max():.3f}: lower "
            "train.self_train.min_confidence, or give more labels"
        )
    if is_main_process():
        text = (
            f"self-training: {counts.sum()} of {counts.size} points in {len(counts)} images have a confidence of at "
            f"least {least:g}, {found.confidence[counts].mean():.2f} on average: {table}"
        )
        console.print(text, **_PLAIN)
