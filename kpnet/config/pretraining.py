"""The typed schema of a pretraining's YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from kpnet.config.fields import (
    Channels,
    FilePath,
    FolderName,
    ImageSize,
    NonNegative,
    Number,
    Part,
    Positive,
    Rate,
    Recipe,
    Seed,
    StrictModel,
)
from kpnet.config.loading import load_as
from kpnet.config.optim import AdamW, OneCycle, Optimizer, Schedule
from kpnet.config.trainer import TrainerConfig


class DecoderConfig(StrictModel):
    """The decoder, which the training of keypoints leaves behind."""

    width: Annotated[int, Field(ge=8)] | None = None
    """Channels: `masked` has as many everywhere (null: 64); each block of `autoencoder`, which doubles the map's size,
    has half as many as the one before, at least 8 (null: 128 in the first)."""


class PretrainModelConfig(StrictModel):
    """The network: any backbone as the encoder, and a light decoder."""

    backbone: Part
    """The encoder: any backbone, named as in a keypoint model."""
    method: Literal["autoencoder", "masked"] = "autoencoder"
    """`autoencoder`: the image is reconstructed from the coarsest map alone. `masked`: hidden patches are predicted
    from all maps (masked-image modelling)."""
    decoder: DecoderConfig = DecoderConfig()
    """The decoder, for backbones that do not bring their own."""
    latent: Positive | None = None
    """Size of the autoencoder's latent vector; null: use the coarsest feature map."""
    in_channels: Channels = 3
    """Channels of the input: 1 for grey images, 3 for colour."""
    input_size: ImageSize = (96, 96)
    """Height and width of the input in pixels, or one number for both."""
    mean: list[Number] | None = None
    """Mean of the images in [0, 1], one value or one per channel; null: the backbone's."""
    std: list[Rate] | None = None
    """Standard deviation of the images in [0, 1], one value or one per channel; null: the backbone's."""


class ImagesConfig(StrictModel):
    """Images without labels."""

    root: FilePath = "."
    """Folder of the images, relative to the working directory."""
    images: FilePath
    """Under `root`: a folder of images, a video (500 frames), an npz with `images`, or a CSV of pixels (column
    `Image`) or of file names (column `image`)."""
    val: Annotated[float, Field(gt=0, lt=1)] | FilePath | None = 0.1
    """Fraction of the images to validate with, or other images under `root`; null: none."""
    bits: Annotated[int, Field(ge=8, le=16)] = 16
    """Bits that the values of 16-bit image files fill, such as 12 for a camera of 12 bits."""
    transforms: list[str | dict[str, Any]] = Field(default_factory=list)
    """Augmentation: albumentations by name, in this order."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that load and augment images in the background; 0: none."""


class MaskConfig(StrictModel):
    """Patches of the input to blank."""

    ratio: Annotated[float, Field(gt=0, lt=1)]
    """Fraction of the image's patches to blank."""
    patch: Positive | None = None
    """Side of a patch in pixels; null: 12 for `autoencoder`, 16 for `masked`."""


class Mask(NamedTuple):
    """Patches of the input to blank, as `MaskConfig` states them for a method.

    Attributes:
        ratio: Fraction of the image's patches to blank.
        patch: Side of a patch in pixels.
    """

    ratio: float
    patch: int


HIDDEN = 0.6  # ratio of the method `masked`, where the config has no mask
PATCHES = {"autoencoder": 12, "masked": 16}  # sides in pixels, where the config has none


class PretrainSettings(StrictModel):
    """The training, in which the image is reconstructed as it was before noise and mask."""

    epochs: Positive = 30
    """Passes over the images."""
    batch_size: Positive = 32
    """Images per step."""
    optimizer: Optimizer = AdamW(lr=1e-3)
    """Optimizer (default `adamw`)."""
    schedule: Schedule = OneCycle()
    """Learning-rate schedule (default `one_cycle`)."""
    noise: NonNegative = 0.0
    """Standard deviation of the Gaussian noise on the input, in grey values of [0, 1]."""
    mask: MaskConfig | None = None
    """Patches to blank in the input; null: none for `autoencoder`, {ratio: 0.6, patch: 16} for `masked`."""
    seed: Seed = 0
    """Random seed of the initial weights, the order of images and the augmentation."""


class PretrainConfig(Recipe):
    """The YAML of `kpnet pretrain`."""

    command: ClassVar[str] = "pretrain"

    name: FolderName = "pretrain"
    """Name of the run, which is written to `runs/NAME`."""
    model: PretrainModelConfig
    """The network: encoder, method and decoder."""
    data: ImagesConfig
    """The images to train on."""
    train: PretrainSettings = PretrainSettings()
    """The training: optimizer, schedule, noise and mask."""
    trainer: TrainerConfig = TrainerConfig()
    """Devices, precision, loggers, and how often to validate."""

    @property
    def mask(self) -> Mask | None:
        """The patches to blank: the config's, or else the method's."""
        given, method = self.train.mask, self.model.method
        if given is None:
            return Mask(HIDDEN, PATCHES[method]) if method == "masked" else None
        return Mask(given.ratio, given.patch or PATCHES[method])


def load_pretrain_config(
    source: str | Path | Mapping[str, Any] | PretrainConfig, overrides: Sequence[str] = ()
) -> PretrainConfig:
    """Load the config of a pretraining.

    Args:
        source: A YAML file, the name of a shipped recipe, a mapping or a config.
        overrides: Overrides `key.path=value`, with values read as YAML.

    Returns:
        The typed config.

    Raises:
        KpnetError: If the file or a key is wrong; the message names both.
    """
    return load_as(PretrainConfig, source, overrides)
