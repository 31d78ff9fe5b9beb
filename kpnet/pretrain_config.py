"""The typed schema of a pretraining's YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from kpnet.config import load_as
from kpnet.schema import AdamW, OneCycle, Optimizer, Part, Positive, Rate, Recipe, Schedule, Strict, square


class DecoderConfig(Strict):
    """Upsampling, convolution, norm and ReLU for each factor of 2 that the coarsest map is smaller than the image."""

    width: Annotated[int, Field(ge=8)] | None = None  # channels of the first, then half each, at least 8; None: 128


class AutoencoderConfig(Strict):
    """Any backbone as the encoder; the decoder sees its coarsest map alone."""

    backbone: Part
    decoder: DecoderConfig = DecoderConfig()
    latent: Positive | None = None  # so many numbers between the two; None: the coarsest map
    in_channels: Positive = 3
    input_size: Annotated[tuple[Positive, Positive], BeforeValidator(square)] = (96, 96)  # H, W; or one number
    mean: list[float] | None = None  # as a keypoint model's
    std: list[Rate] | None = None


class ImagesConfig(Strict):
    """Where images without labels come from."""

    root: str = "."
    images: str  # under root: a folder of pictures, an npz with an array `images`, a CSV with an Image column
    val: Annotated[float, Field(gt=0, lt=1)] | str | None = 0.1  # a share of the images, or others under root
    transforms: list[str | dict[str, Any]] = Field(default_factory=list)
    workers: Annotated[int, Field(ge=0)] = 0


class Mask(Strict):
    """A share of each image's patches is blanked."""

    share: Annotated[float, Field(gt=0, lt=1)]
    patch: Positive = 12  # pixels a side


class PretrainSettings(Strict):
    """How the autoencoder is trained: to give back the image as it was before noise and mask."""

    epochs: Positive = 30
    batch_size: Positive = 32
    optimizer: Optimizer = AdamW(lr=1e-3)
    schedule: Schedule = OneCycle()
    noise: Annotated[float, Field(ge=0)] = 0.0  # sigma, in grey values of [0, 1]
    mask: Mask | None = None
    seed: int = 0


class PretrainConfig(Recipe):
    """The whole YAML. `trainer` is handed to Lightning's Trainer as it is."""

    command: ClassVar[str] = "pretrain"

    name: str = "pretrain"
    model: AutoencoderConfig
    data: ImagesConfig
    train: PretrainSettings = PretrainSettings()
    trainer: dict[str, Any] = Field(default_factory=dict)


def load_pretrain_config(
    source: str | Path | Mapping[str, Any] | PretrainConfig, overrides: Sequence[str] = ()
) -> PretrainConfig:
    """As `kpnet.load_config`, of a pretraining."""
    return load_as(PretrainConfig, source, overrides)
