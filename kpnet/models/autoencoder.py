"""An autoencoder, for pretraining: any backbone as the encoder, and a decoder that sees its coarsest map only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kpnet.backbones import Backbone, build_backbone
from kpnet.backbones.pretrained import InputSpec
from kpnet.backbones.weights import load_matching_weights, load_weights
from kpnet.config.fields import StrictModel
from kpnet.config.pretraining import AutoencoderConfig, Mask
from kpnet.core.errors import KpnetError
from kpnet.core.model_folder import CONFIG, WEIGHTS, model_folder
from kpnet.core.validation import explain_validation_error
from kpnet.core.yaml import read_yaml
from kpnet.heads.decoders.base import conv_norm_relu, doublings
from kpnet.models.files import write_model
from kpnet.models.normalization import register_statistics

WIDTH, NARROWEST = 128, 8  # channels of the decoder's first and last layers


class Autoencoder(nn.Module):
    """A network that reconstructs images from a latent.

    It takes float images (B, C, H, W) in [0, 1] of the configured size and returns images of that shape, not clipped
    to [0, 1]. The decoder has no skip connections: all that it sees has gone through the latent. Mean and standard
    deviation normalise the image and are undone in the reconstruction.

    Args:
        config: The network: backbone, latent, decoder, channels and size of the images.

    Raises:
        KpnetError: The parts do not fit together.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.in_channels, input_size=config.input_size)
        register_statistics(self, config, self.backbone)
        self.backbone.mean = tuple(config.mean or self.backbone.mean)
        self.backbone.std = tuple(config.std or self.backbone.std)
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
        expected = (self.config.in_channels, *self.config.input_size)
        if tuple(images.shape[1:]) != expected:
            raise KpnetError(f"expected images (B, {', '.join(map(str, expected))}), got {tuple(images.shape)}")
        latent: Tensor = self.decoder["squeeze"](self.backbone((images - self.mean) / self.std)[-1])
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """Compute images from latents.

        Args:
            latent: What `encode` returned.

        Returns:
            Images (B, C, H, W), about [0, 1] but not clipped to it.
        """
        height, width = self.config.input_size
        images: Tensor = self.decoder["image"](latent)[..., :height, :width]  # odd sizes: the coarsest map overhangs
        return images * self.std + self.mean

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstructions (B, C, H, W) of images (B, C, H, W)."""
        return self.decode(self.encode(images))

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

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.yaml`, from which `pretrained: folder` takes the backbone.

        Args:
            folder: Where they are written; created if need be.
        """
        input_spec = InputSpec(
            channels=self.config.in_channels, mean=list(self.backbone.mean), std=list(self.backbone.std)
        )
        write_model(folder, self, input_spec, {"model": self.config.model_dump(mode="json")})


class _Saved(StrictModel):
    model: AutoencoderConfig
    input: InputSpec


def load_autoencoder(path: str | Path) -> Autoencoder:
    """Load the autoencoder of a pretraining.

    Args:
        path: A run folder of `kpnet pretrain`, or a folder that `Autoencoder.save` wrote.

    Returns:
        The autoencoder, in eval mode.

    Raises:
        KpnetError: A file is missing or damaged, or the weights do not fit the config.
    """
    folder = model_folder(path)
    values: Any = None
    try:
        values = read_yaml(folder / CONFIG, "the config of an autoencoder")
        saved = _Saved.model_validate(values)
    except ValidationError as error:
        raise KpnetError(explain_validation_error(error, str(folder / CONFIG), _Saved, values)) from None
    statistics = {"mean": saved.input.mean, "std": saved.input.std}
    model = Autoencoder(saved.model.model_copy(update=statistics))
    load_matching_weights(model, load_weights(folder / WEIGHTS), str(folder / WEIGHTS))
    return model.eval()


def corrupt(
    images: Tensor, noise: float, mask: Mask | None, blank: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Add normal noise to images, then blank some of their patches.

    Args:
        images: Images (B, C, H, W).
        noise: Standard deviation of the noise.
        mask: Side of the patches, and the ratio that is blanked: round(ratio * patches) random ones in each image.
            None: no patch.
        blank: Value of blanked patches, broadcast to (B, C, H, W).
        generator: Source of the random numbers.

    Returns:
        Images (B, C, H, W).
    """
    device = images.device
    if noise:
        images = images + noise * torch.randn(images.shape, generator=generator, device=device, dtype=images.dtype)
    if mask is None:
        return images
    rows, columns = _patches(images.shape[-2:], mask)
    order = torch.rand(len(images), rows * columns, generator=generator, device=device).argsort(1).argsort(1)
    blanked = (order < _blanked(images.shape[-2:], mask)).view(-1, 1, rows, columns)
    blanked = blanked.repeat_interleave(mask.patch, 2).repeat_interleave(mask.patch, 3)
    return torch.where(blanked[..., : images.shape[-2], : images.shape[-1]], blank, images)


def check_mask(size: tuple[int, int], mask: Mask | None) -> None:
    """Raise KpnetError where a mask blanks no patch, or all of them."""
    if mask is not None:
        rows, columns = _patches(size, mask)
        blanked = _blanked(size, mask)
        if not 0 < blanked < rows * columns:
            raise KpnetError(
                f"train.mask: a ratio of {mask.ratio:g} blanks {blanked} of the {rows * columns} patches of "
                f"{mask.patch} pixels in an image of {size[0]}x{size[1]}; expected some, not all: give a smaller patch"
            )


def _patches(size: Any, mask: Mask) -> tuple[int, int]:
    return math.ceil(size[0] / mask.patch), math.ceil(size[1] / mask.patch)


def _blanked(size: Any, mask: Mask) -> int:
    return round(mask.ratio * math.prod(_patches(size, mask)))


def _decoder(backbone: Backbone, config: AutoencoderConfig) -> nn.ModuleDict:
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


def _upsampling(channels: int, stride: int, config: AutoencoderConfig) -> nn.Sequential:
    width = config.decoder.width or WIDTH
    layers: list[nn.Module] = []
    for _ in range(doublings(stride, 1, "the autoencoder's decoder")):
        # Nearest: bilinear upsampling had 1.3 times its error after as many steps.
        layers += [nn.Upsample(scale_factor=2, mode="nearest"), conv_norm_relu(channels, width, 3)]
        channels, width = width, max(NARROWEST, width // 2)
    return nn.Sequential(*layers, nn.Conv2d(channels, config.in_channels, 3, padding=1))
