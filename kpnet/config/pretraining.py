"""The typed schema of a pretraining's YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from kpnet.config.fields import ImageSize, Part, Positive, Rate, Recipe, StrictModel
from kpnet.config.loading import load_as
from kpnet.config.optim import AdamW, OneCycle, Optimizer, Schedule


class DecoderConfig(StrictModel):
    """Upsampling, convolution, norm and ReLU for each factor of 2 that the coarsest map is smaller than the image."""

    width: Annotated[int, Field(ge=8)] | None = None
    """Channels of the first, then half each, at least 8; null: 128."""


class AutoencoderConfig(StrictModel):
    """Any backbone as the encoder; the decoder sees its coarsest map alone."""

    backbone: Part
    """As a keypoint model's."""
    decoder: DecoderConfig = DecoderConfig()
    """For a backbone without a mirror of its own."""
    latent: Positive | None = None
    """So many numbers between the two; null: the coarsest map."""
    in_channels: Positive = 3
    """1 for grey images, 3 for colour."""
    input_size: ImageSize = (96, 96)
    """H, W; or one number for both."""
    mean: list[float] | None = None
    """As a keypoint model's."""
    std: list[Rate] | None = None
    """As a keypoint model's."""


class ImagesConfig(StrictModel):
    """Where images without labels come from."""

    root: str = "."
    """The folder of the images, relative to the working directory."""
    images: str
    """Under root: a folder of pictures, an npz with an array `images`, a CSV with an Image column."""
    val: Annotated[float, Field(gt=0, lt=1)] | str | None = 0.1
    """A share of the images, or others under root."""
    transforms: list[str | dict[str, Any]] = Field(default_factory=list)
    """Augmentation: albumentations by name, in this order."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load and augment beside the training."""


class Mask(StrictModel):
    """A share of each image's patches is blanked."""

    ratio: Annotated[float, Field(gt=0, lt=1)]
    """Of the image's patches."""
    patch: Positive = 12
    """Pixels a side."""


class PretrainSettings(StrictModel):
    """How the autoencoder is trained: to give back the image as it was before noise and mask."""

    epochs: Positive = 30
    """Passes over the images."""
    batch_size: Positive = 32
    """Images a step."""
    optimizer: Optimizer = AdamW(lr=1e-3)
    """Without a `name`: adamw."""
    schedule: Schedule = OneCycle()
    """Of the learning rate. Without a `name`: one_cycle."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Sigma, in grey values of [0, 1]."""
    mask: Mask | None = None
    """Patches to blank; null: none."""
    seed: int = 0
    """Of the initial weights, the order and the augmentation."""


class PretrainConfig(Recipe):
    """The whole YAML. `trainer` is handed to Lightning's Trainer as it is."""

    command: ClassVar[str] = "pretrain"

    name: str = "pretrain"
    """The run goes to `runs/NAME`."""
    model: AutoencoderConfig
    data: ImagesConfig
    train: PretrainSettings = PretrainSettings()
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Arguments of Lightning's Trainer."""


def load_pretrain_config(
    source: str | Path | Mapping[str, Any] | PretrainConfig, overrides: Sequence[str] = ()
) -> PretrainConfig:
    """As `kpnet.load_config`, of a pretraining."""
    return load_as(PretrainConfig, source, overrides)
