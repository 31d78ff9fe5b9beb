"""Build datasets from the `data:` section of a config."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.config.fields import Part
from kpnet.config.schema import Config, DataConfig, ModelConfig, TrainFile
from kpnet.core.errors import KpnetError
from kpnet.core.registry import split_spec
from kpnet.core.skeleton import Skeleton
from kpnet.core.validation import check_options
from kpnet.data import DATASETS, KeypointDataset
from kpnet.data.augmentations import augmentation
from kpnet.data.base import COMMON_ARGUMENTS
from kpnet.data.croppers import build_cropper
from kpnet.data.cropping import Cropper
from kpnet.data.formats.detect import detect_format
from kpnet.data.formats.image_files import ImageFileDataset
from kpnet.data.wrappers.concat import ConcatDataset, ConcatPart
from kpnet.data.wrappers.scenes import Scenes, WithScenes
from kpnet.data.wrappers.subset import Subset, take_fold
from kpnet.data.wrappers.windows import Windows

_log = logging.getLogger("kpnet")


def build_dataset(
    data: DataConfig,
    model: ModelConfig,
    source: str | int,
    *,
    skeleton: Skeleton | None = None,
    seed: int = 0,
    partial: bool = False,
) -> KeypointDataset:
    """Build the samples of one file for a model, without augmentation.

    Args:
        data: The section of the config.
        model: The model's config, for the size and the channels of its input.
        source: A file or folder relative to `data.root`, or the number of samples to draw.
        skeleton: The keypoints of the samples. None: the config's, or the file's own.
        seed: Seed of drawn samples.
        partial: Keypoints that the file lacks are missing, as long as it has one of them. False: they are an error.

    Returns:
        The dataset.

    Raises:
        KpnetError: The file cannot be used, or lacks a keypoint.
    """
    skeleton = _configured_skeleton(data) if skeleton is None else skeleton
    common = _common_arguments(model, seed)
    dataset = _open(data, source, skeleton, common)
    if skeleton is not None and dataset.skeleton.names != skeleton.names:
        dataset = ConcatDataset(skeleton, [ConcatPart(_source_name(data, source), dataset)], partial=partial, **common)
    dataset.cropper = _cropper(data, model, dataset, jitter=False)
    dataset.missing = None if model.presence is None else data.missing
    return dataset


def open_dataset(
    path: Path, form: Part | None = None, skeleton: str | None = None, *, strict: bool = False
) -> KeypointDataset:
    """Open a file or folder with the size, channels and keypoints that it has.

    Args:
        path: The file or folder.
        form: Name of its format, or a mapping with its options. None: detected.
        skeleton: Name or file of the skeleton. None: the file's own.
        strict: Raise an error at the first instance that cannot be used.

    Returns:
        The dataset.

    Raises:
        KpnetError: It cannot be opened, or its format is unclear.
    """
    path, form = detect_format(path) if form is None else (path, form)
    data = DataConfig(format=form, strict=strict)
    return _open(data, str(path), None if skeleton is None else Skeleton.load(skeleton), {})


def build_train(config: Config, *, augment: bool = True) -> ConcatDataset:
    """Build the training data: the files of `data.train`, each with its own settings, on one skeleton.

    Args:
        config: The config. Without `data.skeleton`, the skeleton is that of the first file.
        augment: Whether to augment and jitter the samples.

    Returns:
        The dataset, with a part for each file.

    Raises:
        KpnetError: There is no file, one cannot be used, or one is listed twice.
    """
    data, common = config.data, _common_arguments(config.model, config.train.seed)
    if not data.train:
        raise KpnetError("data.train is missing: give a file under data.root")
    _check_once(data)
    skeleton = _configured_skeleton(data)
    parts, room = [], int(data.cache_gb * 1e9) if augment else 0
    for entry in data.train:
        own = {key: getattr(entry, key) for key in ("format", "complete_only", "transforms")}
        settings = data.model_copy(update={key: value for key, value in own.items() if value is not None})
        dataset = _open(settings, entry.file, skeleton, common)
        skeleton = dataset.skeleton if skeleton is None else skeleton
        if room and isinstance(dataset, ImageFileDataset):
            room -= dataset.cache_images(room)
        transform = augmentation(settings, config.model, skeleton) if augment else None
        source = _source_name(settings, entry.file)
        parts.append(ConcatPart(source, dataset, entry.limit, entry.weight, transform, bool(entry.partial)))
    assert skeleton is not None
    joined = ConcatDataset(skeleton, parts, **common)
    joined.cropper = _cropper(data, config.model, joined, jitter=augment)
    joined.missing = None if config.model.presence is None else data.missing
    return joined


def build_splits(
    config: Config, window: tuple[int, int], *, augment: bool = True
) -> tuple[KeypointDataset, KeypointDataset | None]:
    """Build training data and validation data on one skeleton.

    Args:
        config: The config.
        window: Number of frames before and after each that the model sees (`kpnet.heads.window_of`).
        augment: Whether to augment and jitter the training data.

    Returns:
        Training data, and validation data or None where the config names none.

    Raises:
        KpnetError: A file cannot be used, or the model sees several frames and the training data are single images.
    """
    train: KeypointDataset = build_train(config, augment=augment)
    val = build_val(config, train.skeleton, window)
    if config.data.fold is not None:
        train = take_fold(train, config.data.fold, held=False)
    elif val is not None:
        _warn_of_shared_images(train, val)
    return _in_windows(train, config, window, must=True), val


def with_scenes(
    config: Config, train: KeypointDataset, val: KeypointDataset | None, *, whole: bool
) -> tuple[KeypointDataset, KeypointDataset | None]:
    """Give a model that finds instances the whole images: beside the crops for a finder, else instead of them.

    Args:
        config: The config.
        train: The training data of `build_splits`.
        val: Its validation data, or None.
        whole: Whether the head sees whole images (`kpnet.heads.finds_instances`).

    Returns:
        Training and validation data; those given, for a model that sees one instance in each image.

    Raises:
        KpnetError: Crops are asked for where the head sees whole images, or transforms on the device.
    """
    model, seed = config.model, config.train.seed
    if config.data.device_transforms and (whole or model.instances is not None):
        raise KpnetError("data.device_transforms: whole images and boxes are augmented on the CPU: set it to false")
    if whole:
        if config.data.crop is not None:
            raise KpnetError("data.crop: the head centers finds instances in whole images: leave it out")
        size, channels = model.input_size, model.in_channels
        return Scenes(train, size, channels, seed=seed), None if val is None else Scenes(val, size, channels)
    if model.instances is None or model.instances.detector is not None:  # which is not trained
        return train, val
    scenes = Scenes(train, size=model.instances.input_size, in_channels=model.in_channels, seed=seed)
    return WithScenes(train, scenes), val


def build_val(config: Config, skeleton: Skeleton, window: tuple[int, int]) -> KeypointDataset | None:
    """Build the validation data, or return None where the config names none. The window is that of `build_splits`."""
    if config.data.fold is not None:
        # Synthetic faces come from one seed, so that every seed of the training is validated on the same ones.
        train = config.train.model_copy(update={"seed": 0})
        whole = build_train(config.model_copy(update={"train": train}), augment=False)
        return take_fold(whole, config.data.fold, held=True)
    if config.data.val is None:
        return None
    # Synthetic faces differ from the training's, and are the same for every seed of the training.
    val = build_dataset(config.data, config.model, config.data.val, skeleton=skeleton, seed=1_000_003)
    return _in_windows(val, config, window, must=False)


def _warn_of_shared_images(train: KeypointDataset, val: KeypointDataset) -> None:
    """Warn if image files are both trained and validated on."""
    trained, validated = ({data.image_key(i) for i in range(len(data))} for data in (train, val))
    shared = sorted(key for key in trained & validated if os.path.isabs(key))
    if shared:
        _log.warning(
            "%d of the %d images of data.val are in data.train too, such as %s: validation on them says little",
            len(shared),
            len(validated),
            shared[0],
        )


def _in_windows(dataset: KeypointDataset, config: Config, window: tuple[int, int], *, must: bool) -> KeypointDataset:
    """Wrap the dataset in windows of frames, for a model that sees several; raise if it `must` and cannot be."""
    if not sum(window):
        return dataset
    head = f'head "{split_spec(config.model.head, "head")[0]}"'
    if config.data.crop is not None:
        raise KpnetError(f"{head}: data.crop would crop each frame of a clip at another place: leave it out")
    if config.data.fold is not None:
        raise KpnetError(f"{head}: data.fold would split clips: give data.val instead")
    if (np.diff(dataset.clips()) != 0).all():
        if must:
            raise KpnetError(
                f"{head} learns from consecutive frames, and data.train has single images: "
                "use format: synthetic_clips, or one of your own with `clips`"
            )
        return dataset
    return Windows(dataset, window)


def points_without_labels(train: KeypointDataset) -> list[str]:
    """Return the names of the keypoints that no sample has.

    Args:
        train: The training data.

    Returns:
        The names, in the skeleton's order.

    Raises:
        KpnetError: A file has no label at all.
    """
    labels = train.labels()
    whole = train.dataset if isinstance(train, Subset) else train
    files = zip(whole.parts, whole.split(whole.labels()), strict=True) if isinstance(whole, ConcatDataset) else ()
    for part, has in files:
        if not has.any():
            raise KpnetError(
                f"{part.source}: none of its {len(has)} samples has a label; remove it from data.train, or "
                "label it with a trained model: kpnet predict RUN FILE --pseudo-labels"
            )
    return [name for name, column in zip(train.skeleton.names, labels.T, strict=True) if not column.any()]


def _open(data: DataConfig, source: str | int, skeleton: Skeleton | None, common: Mapping[str, Any]) -> KeypointDataset:
    name, options = split_spec(data.format, "data.format")
    cls = DATASETS.find(name)
    return cls.open(
        data, source, skeleton, **check_options(cls, options, f'data format "{name}"', COMMON_ARGUMENTS), **common
    )


def _configured_skeleton(data: DataConfig) -> Skeleton | None:
    return None if data.skeleton is None else Skeleton.load(data.skeleton)


def _source_name(data: DataConfig, source: str | int) -> str:
    """Return how messages refer to a file or a number of drawn samples."""
    return (
        str(Path(data.root) / source)
        if isinstance(source, str)
        else f"{split_spec(data.format, 'data.format')[0]} {source}"
    )


def _common_arguments(model: ModelConfig, seed: int) -> dict[str, Any]:
    return {"image_size": model.input_size, "in_channels": model.in_channels, "seed": seed}


def _cropper(data: DataConfig, model: ModelConfig, dataset: KeypointDataset, *, jitter: bool) -> Cropper | None:
    if data.crop is None:
        return None
    shift, scale = (data.crop.shift, data.crop.scale) if jitter else (0.0, 0.0)
    return build_cropper(dataset, data.crop.by, model.box_scale, shift, scale)


def _check_once(data: DataConfig) -> None:
    """Raise if a file is listed twice."""
    seen: dict[tuple[str, Path], TrainFile] = {}
    for entry in data.train:
        key = (split_spec(entry.format or data.format, "data.format")[0], (Path(data.root) / str(entry.file)).resolve())
        if key in seen:
            raise KpnetError(
                f"data.train lists {entry.file} twice: remove one; to give it more influence, set its weight"
            )
        seen[key] = entry
