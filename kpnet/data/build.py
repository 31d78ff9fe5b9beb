"""From the `data:` section of a config to datasets."""

from __future__ import annotations

from typing import Any

from kpnet.config import Config, DataConfig, ModelConfig
from kpnet.data import DATASETS, KeypointDataset
from kpnet.errors import KpnetError
from kpnet.skeleton import Skeleton


def build_dataset(
    data: DataConfig,
    model: ModelConfig,
    source: str | int,
    *,
    skeleton: Skeleton | None = None,
    augment: bool = False,
    seed: int = 0,
) -> KeypointDataset:
    """One file (or count) of `data` as samples for a model. skeleton None: the config's, or the file's own."""
    if skeleton is None and data.skeleton is not None:
        skeleton = Skeleton.load(data.skeleton)
    common: dict[str, Any] = {"image_size": model.input_size, "in_channels": model.in_channels, "seed": seed}
    dataset = DATASETS.find(data.format).open(data, source, skeleton, **common)
    if augment and data.transforms:
        from kpnet.data.transforms import Augment

        dataset.transform = Augment(data.transforms, dataset.skeleton)
    return dataset


def build_splits(config: Config) -> tuple[KeypointDataset, KeypointDataset | None]:
    """Training data with augmentation, and validation data without, on the same skeleton."""
    if config.data.train is None:
        raise KpnetError("data.train is missing: give a file under data.root")
    train = build_dataset(config.data, config.model, config.data.train, augment=True, seed=config.train.seed)
    return train, build_val(config, train.skeleton)


def build_val(config: Config, skeleton: Skeleton) -> KeypointDataset | None:
    """The validation data, or None where the config names none."""
    if config.data.val is None:
        return None
    # Another seed, so that synthetic validation faces are not the training ones.
    seed = config.train.seed + 1_000_003
    return build_dataset(config.data, config.model, config.data.val, skeleton=skeleton, seed=seed)
