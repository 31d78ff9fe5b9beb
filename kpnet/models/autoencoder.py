"""An autoencoder, for pretraining: any backbone as the encoder, and a decoder that sees its coarsest map only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from kpnet.backbones import Backbone
from kpnet.backbones.pretrained import InputSpec
from kpnet.backbones.weights import load_matching_weights, load_weights
from kpnet.config.fields import StrictModel
from kpnet.config.pretraining import PretrainModelConfig
from kpnet.core.errors import KpnetError
from kpnet.core.model_folder import CONFIG, WEIGHTS, model_folder
from kpnet.core.validation import explain_validation_error
from kpnet.core.yaml import read_yaml
from kpnet.heads.decoders.base import conv_norm_relu, doublings
from kpnet.models.reconstruction import ReconstructionModel

WIDTH, NARROWEST = 128, 8  # channels of the decoder's first and last layers


class Autoencoder(ReconstructionModel):
    """A network that reconstructs images from a latent.

    The decoder has no skip connections: all that it sees has gone through the latent. The loss is the mean squared
    error of all pixels, in grey values of [0, 1]. With noise or blanked patches this is a denoising autoencoder
    (Vincent et al. 2008, Extracting and composing robust features with denoising autoencoders).

    Args:
        config: The network: backbone, latent, decoder, channels and size of the images.

    Raises:
        KpnetError: The parts do not fit together.
    """

    def __init__(self, config: PretrainModelConfig) -> None:
        super().__init__(config)
        self.decoder = _decoder(self.backbone, config)

    def encode(self, images: Tensor) -> Tensor:
        """Compute the latents of images.

        Args:
            images: Images (B, C, H, W), float in [0, 1], of the configured size.

        Returns:
            The coarsest map (B, c, h, w), or vectors (B, latent) where the config has a `latent`.

        Raises:
            KpnetError: The images have another shape.
        """
        latent: Tensor = self.decoder["squeeze"](self.features(images)[-1])
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """Compute images from latents.

        Args:
            latent: What `encode` returned.

        Returns:
            Images (B, C, H, W), about [0, 1] but not clipped to it.
        """
        return self.to_images(self.decoder["image"](latent))

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstructions (B, C, H, W) of images (B, C, H, W)."""
        return self.decode(self.encode(images))

    def loss(self, images: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        return F.mse_loss(self(seen), images)

    def interpolate(self, first: Tensor, second: Tensor, steps: int) -> Tensor:
        """Decode latents on the straight line between those of two batches of images.

        Args:
            first: Images (B, C, H, W) where the line begins.
            second: Images (B, C, H, W) where it ends.
            steps: Points on the line, both ends included.

        Returns:
            Images (steps, B, C, H, W).
        """
        a, b = self.encode(first), self.encode(second)
        return torch.stack([self.decode(torch.lerp(a, b, t)) for t in torch.linspace(0, 1, steps).tolist()])


class _Saved(StrictModel):
    model: PretrainModelConfig
    input: InputSpec


def load_autoencoder(path: str | Path) -> Autoencoder:
    """Load the autoencoder of a pretraining.

    Args:
        path: A run folder of `kpnet pretrain`, or a folder that `Autoencoder.save` wrote.

    Returns:
        The autoencoder, in eval mode.

    Raises:
        KpnetError: A file is missing or damaged, the weights do not fit the config, or they are of another method.
    """
    folder = model_folder(path)
    values: Any = None
    try:
        values = read_yaml(folder / CONFIG, "the config of an autoencoder")
        saved = _Saved.model_validate(values)
    except ValidationError as error:
        raise KpnetError(explain_validation_error(error, str(folder / CONFIG), _Saved, values)) from None
    if saved.model.method != "autoencoder":
        raise KpnetError(
            f"{path}: holds a network of method {saved.model.method}, not an autoencoder: its backbone is taken by "
            f"model.pretrained={path}"
        )
    statistics = {"mean": saved.input.mean, "std": saved.input.std}
    model = Autoencoder(saved.model.model_copy(update=statistics))
    load_matching_weights(model, load_weights(folder / WEIGHTS), str(folder / WEIGHTS))
    return model.eval()


def _decoder(backbone: Backbone, config: PretrainModelConfig) -> nn.ModuleDict:
    """Build `squeeze`, from the coarsest map to the latent, and `image`, from the latent to normalised images."""
    stride, channels = backbone.strides[-1], backbone.channels[-1]
    shape = (channels, *(math.ceil(side / stride) for side in config.input_size))
    mirror = backbone.mirror()
    if mirror is None:
        mirror = _upsampling(channels, stride, config)
    elif config.decoder.width is not None:
        raise KpnetError("model.decoder.width: this backbone's decoder is its mirror and takes no width: leave it out")
    if config.latent is None:
        return nn.ModuleDict({"squeeze": nn.Identity(), "image": mirror})
    size = math.prod(shape)
    widen = nn.Sequential(nn.Linear(config.latent, size), nn.ReLU(inplace=True), nn.Unflatten(1, shape))
    squeeze = nn.Sequential(nn.Flatten(), nn.Linear(size, config.latent))
    return nn.ModuleDict({"squeeze": squeeze, "image": nn.Sequential(widen, mirror)})


def _upsampling(channels: int, stride: int, config: PretrainModelConfig) -> nn.Sequential:
    width = config.decoder.width or WIDTH
    layers: list[nn.Module] = []
    for _ in range(doublings(stride, 1, "the autoencoder's decoder")):
        # Nearest: bilinear upsampling had 1.3 times its error after as many steps.
        layers += [nn.Upsample(scale_factor=2, mode="nearest"), conv_norm_relu(channels, width, 3)]
        channels, width = width, max(NARROWEST, width // 2)
    return nn.Sequential(*layers, nn.Conv2d(channels, config.in_channels, 3, padding=1))
