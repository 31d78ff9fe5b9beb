"""The augmentation of a training, from its config: what runs on the CPU, and what on the training's device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kpnet.config.schema import Config, DataConfig, ModelConfig
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import Transform

if TYPE_CHECKING:
    from kpnet.data.transforms.augment import Augment
    from kpnet.data.transforms.device import DeviceAugment


def augmentation(data: DataConfig, model: ModelConfig, skeleton: Skeleton) -> Transform | None:
    """Build the augmentation that runs on the CPU.

    Args:
        data: The section of the config.
        model: The model's config, for the size of the images.
        skeleton: The keypoints of the samples.

    Returns:
        The augmentation, or None where nothing is left to do there.

    Raises:
        KpnetError: A transform is wrong.
    """
    return _augmentations(data, model, skeleton)[0]


def device_augmentation(
    data: DataConfig, model: ModelConfig, skeleton: Skeleton, where: str = "data.transforms"
) -> DeviceAugment | None:
    """Build the augmentation that runs on the device of the training.

    Args:
        data: The section of the config.
        model: The model's config, for the size of the images.
        skeleton: The keypoints of the samples.
        where: The key of the config that holds the transforms, for messages.

    Returns:
        The augmentation, or None without `data.device_transforms`.

    Raises:
        KpnetError: A transform is wrong, or a training file has transforms of its own.
    """
    if not data.device_transforms:
        return None
    from kpnet.data.transforms.device import DeviceAugment

    own = next((entry.file for entry in data.train if entry.transforms is not None), None)
    if own is not None:
        raise KpnetError(
            f"data.device_transforms: {own} has transforms of its own, and a batch is augmented alike: give them in "
            "data.transforms alone, or set device_transforms: false"
        )
    return DeviceAugment(data.transforms, skeleton, model.input_size, where=where)


def student_augmentation(config: Config, skeleton: Skeleton) -> tuple[Augment | None, DeviceAugment | None]:
    """Build the augmentation of unlabelled images, as a student sees them.

    Args:
        config: The config; `train.unlabelled.transforms` are used, or else `data.transforms`.
        skeleton: The keypoints of the samples.

    Returns:
        What runs on the CPU, and what runs on the training's device; None where there is none.

    Raises:
        KpnetError: A transform is wrong.
    """
    own = None if config.train.unlabelled is None else config.train.unlabelled.transforms
    if own is None:
        return _augmentations(config.data, config.model, skeleton)
    data = config.data.model_copy(update={"transforms": own})
    return _augmentations(data, config.model, skeleton, "train.unlabelled.transforms")


def _augmentations(
    data: DataConfig, model: ModelConfig, skeleton: Skeleton, where: str = "data.transforms"
) -> tuple[Augment | None, DeviceAugment | None]:
    """Return what of `data.transforms` runs on the CPU, and what runs on the training's device."""
    on_device = device_augmentation(data, model, skeleton, where)
    transforms = data.transforms if on_device is None else on_device.on_cpu
    if not transforms:
        return None, on_device
    from kpnet.data.transforms.augment import Augment

    return Augment(transforms, skeleton, where=where), on_device
