"""What the networks of a pretraining share: a backbone, the statistics of its images, and the files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from kpnet.backbones import build_backbone
from kpnet.backbones.pretrained import InputSpec
from kpnet.config.pretraining import PretrainModelConfig
from kpnet.core.errors import KpnetError
from kpnet.models.files import write_model
from kpnet.models.normalization import register_statistics


class ReconstructionModel(nn.Module):
    """A network that reconstructs images, so that its backbone learns without labels.

    It takes float images (B, C, H, W) in [0, 1] of the configured size and returns images of that shape, not clipped
    to [0, 1]. Mean and standard deviation normalise the image and are undone in the reconstruction. A subclass
    implements `forward` and `loss`.

    Args:
        config: The network: backbone, decoder, channels and size of the images.

    Raises:
        KpnetError: The parts do not fit together.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: PretrainModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.in_channels, input_size=config.input_size)
        register_statistics(self, config, self.backbone)
        self.backbone.mean = tuple(config.mean or self.backbone.mean)
        self.backbone.std = tuple(config.std or self.backbone.std)

    def features(self, images: Tensor) -> list[Tensor]:
        """Compute the backbone's maps of images.

        Args:
            images: Images (B, C, H, W), float in [0, 1], of the configured size.

        Returns:
            The maps, finest first.

        Raises:
            KpnetError: The images have another shape.
        """
        expected = (self.config.in_channels, *self.config.input_size)
        if tuple(images.shape[1:]) != expected:
            raise KpnetError(f"expected images (B, {', '.join(map(str, expected))}), got {tuple(images.shape)}")
        maps: list[Tensor] = self.backbone((images - self.mean) / self.std)
        return maps

    def to_images(self, decoded: Tensor) -> Tensor:
        """Return images (B, C, H, W) from what a decoder gave: normalised, and larger than they are for odd sizes."""
        height, width = self.config.input_size
        return decoded[..., :height, :width] * self.std + self.mean

    def loss(self, images: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Compute the loss of the images' reconstructions.

        Args:
            images: Images (B, C, H, W) as they are.
            seen: Images (B, C, H, W) as the encoder sees them, with noise and blanked patches.
            hidden: Which pixels are blanked (B, 1, H, W), bool.

        Returns:
            The loss, a scalar.
        """
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.yaml`, from which `pretrained: folder` takes the backbone.

        Args:
            folder: Where they are written; created if need be.
        """
        input_spec = InputSpec(
            channels=self.config.in_channels, mean=list(self.backbone.mean), std=list(self.backbone.std)
        )
        write_model(folder, self, input_spec, {"model": self.config.model_dump(mode="json")})
