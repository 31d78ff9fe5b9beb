"""From the `data:` section of a config to datasets."""

from __future__ import annotations

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
from kpnet.data.base import COMMON_ARGUMENTS, Transform
from kpnet.data.cropping import Cropper
from kpnet.data.formats.detect import detect_format
from kpnet.data.wrappers.concat import ConcatDataset, ConcatPart
from kpnet.data.wrappers.subset import Subset, split_fold
from kpnet.data.wrappers.windows import Windows


def build_dataset(
    data: DataConfig,
    model: ModelConfig,
    source: str | int,
    *,
    skeleton: Skeleton | None = None,
    seed: int = 0,
    partial: bool = False,
) -> KeypointDataset:
    """One file (or count) of `data` as samples for a model, as they are; a KpnetError where it lacks a point.

    skeleton None: the config's, or the file's own. partial: a point that it lacks is missing, if it has another.
    """
    skeleton = _configured(data) if skeleton is None else skeleton
    common = _common(model, seed)
    dataset = _open(data, source, skeleton, common)
    if skeleton is not None and dataset.skeleton.names != skeleton.names:
        dataset = ConcatDataset(skeleton, [ConcatPart(_called(data, source), dataset)], partial=partial, **common)
    dataset.cropper = _cropper(data, model, jitter=False)
    return dataset


def open_dataset(
    path: Path, form: Part | None = None, skeleton: str | None = None, *, strict: bool = False
) -> KeypointDataset:
    """A file or folder as samples of the format's own; form None: told from what it is."""
    path, form = detect_format(path) if form is None else (path, form)
    data = DataConfig(format=form, root="", strict=strict)
    return _open(data, str(path), None if skeleton is None else Skeleton.load(skeleton), {})


def build_train(config: Config, *, augment: bool = True) -> ConcatDataset:
    """The files of `data.train`, each with its own settings, on one skeleton: the config's, or the first file's own."""
    data, common = config.data, _common(config.model, config.train.seed)
    if not data.train:
        raise KpnetError("data.train is missing: give a file under data.root")
    _check_once(data)
    skeleton = _configured(data)
    parts = []
    for entry in data.train:
        own = {key: getattr(entry, key) for key in ("format", "complete_only", "transforms")}
        settings = data.model_copy(update={key: value for key, value in own.items() if value is not None})
        dataset = _open(settings, entry.file, skeleton, common)
        skeleton = dataset.skeleton if skeleton is None else skeleton
        transform = _augmentation(settings, skeleton) if augment else None
        parts.append(ConcatPart(_called(settings, entry.file), dataset, entry.limit, entry.weight, transform))
    assert skeleton is not None
    joined = ConcatDataset(skeleton, parts, **common)
    joined.cropper = _cropper(data, config.model, jitter=augment)
    return joined


def build_splits(config: Config, window: tuple[int, int]) -> tuple[KeypointDataset, KeypointDataset | None]:
    """Training data with augmentation, and validation data without, on the same skeleton.

    window: how many frames before and after each the model looks at (`kpnet.heads.window_of`).
    """
    train: KeypointDataset = build_train(config)
    val = build_val(config, train.skeleton, window)
    if config.data.fold is not None:
        train = Subset(train, split_fold(train, config.data.fold)[0])
    return _in_windows(train, config, window, must=True), val


def build_val(config: Config, skeleton: Skeleton, window: tuple[int, int]) -> KeypointDataset | None:
    """The validation data, or None where the config names none. window: as in `build_splits`."""
    if config.data.fold is not None:
        # Synthetic faces are those of one seed, so that every seed of the training is held against the same.
        train = config.train.model_copy(update={"seed": 0})
        whole = build_train(config.model_copy(update={"train": train}), augment=False)
        return Subset(whole, split_fold(whole, config.data.fold)[1])
    if config.data.val is None:
        return None
    # Synthetic faces other than the training's, and the same for every seed of the training.
    val = build_dataset(config.data, config.model, config.data.val, skeleton=skeleton, seed=1_000_003)
    return _in_windows(val, config, window, must=False)


def _in_windows(dataset: KeypointDataset, config: Config, window: tuple[int, int], *, must: bool) -> KeypointDataset:
    """As windows of clips, for a model that looks at several frames; a KpnetError if it `must` be and cannot."""
    if not sum(window):
        return dataset
    head = f'head "{split_spec(config.model.head, "head")[0]}"'
    if config.data.crop is not None:
        raise KpnetError(f"{head}: data.crop would cut each frame of a clip at another place: leave it out")
    if config.data.fold is not None:
        raise KpnetError(f"{head}: data.fold would tear clips apart: give data.val")
    if (np.diff(dataset.clips()) != 0).all():
        if must:
            raise KpnetError(
                f"{head} learns from frames that follow one another, and data.train has single images: "
                "use format: synthetic_clips, or one of your own with `clips`"
            )
        return dataset
    return Windows(dataset, window)


def points_without_labels(train: KeypointDataset) -> list[str]:
    """Names of the points that no sample has. A KpnetError for a file that has not one label."""
    labels = train.labels()
    whole = train.dataset if isinstance(train, Subset) else train
    files = zip(whole.parts, whole.split(whole.labels()), strict=True) if isinstance(whole, ConcatDataset) else ()
    for part, has in files:
        if not has.any():
            raise KpnetError(
                f"{part.source}: not one of its {len(has)} samples has a label; leave it out of data.train, or "
                "have a trained model label it: kpnet predict RUN FILE --pseudo-labels"
            )
    return [name for name, column in zip(train.skeleton.names, labels.T, strict=True) if not column.any()]


def _open(data: DataConfig, source: str | int, skeleton: Skeleton | None, common: Mapping[str, Any]) -> KeypointDataset:
    name, options = split_spec(data.format, "data.format")
    cls = DATASETS.find(name)
    return cls.open(
        data, source, skeleton, **check_options(cls, options, f'data format "{name}"', COMMON_ARGUMENTS), **common
    )


def _configured(data: DataConfig) -> Skeleton | None:
    return None if data.skeleton is None else Skeleton.load(data.skeleton)


def _called(data: DataConfig, source: str | int) -> str:
    """A file or count in messages."""
    return (
        str(Path(data.root) / source)
        if isinstance(source, str)
        else f"{split_spec(data.format, 'data.format')[0]} {source}"
    )


def _common(model: ModelConfig, seed: int) -> dict[str, Any]:
    return {"image_size": model.input_size, "in_channels": model.in_channels, "seed": seed}


def _cropper(data: DataConfig, model: ModelConfig, *, jitter: bool) -> Cropper | None:
    if data.crop is None:
        return None
    shift, scale = (data.crop.shift, data.crop.scale) if jitter else (0.0, 0.0)
    return Cropper(data.crop.by, model.box_scale, shift, scale)


def _augmentation(data: DataConfig, skeleton: Skeleton) -> Transform | None:
    if not data.transforms:
        return None
    from kpnet.data.transforms.augment import Augment

    return Augment(data.transforms, skeleton)


def _check_once(data: DataConfig) -> None:
    """A file that is listed twice is rather a slip than a wish to count it double."""
    seen: dict[tuple[str, Path], TrainFile] = {}
    for entry in data.train:
        key = (split_spec(entry.format or data.format, "data.format")[0], (Path(data.root) / str(entry.file)).resolve())
        if key in seen:
            raise KpnetError(f"data.train lists {entry.file} twice: drop one; to count it more, give it a weight")
        seen[key] = entry
