"""The contract of a backbone, and the registry of kpnet's own."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from kpnet.backbones.weights import LoadReport
from kpnet.core.registry import Registry


class Backbone(nn.Module):
    """A network from images to feature maps. It knows nothing of keypoints.

    A subclass is built as `cls(in_channels, **options)`, or, with `fixed_size`, as
    `cls(in_channels, input_size, **options)`. Its keyword-only parameters are the options that a config may set: their
    annotations are checked, and `Args:` in the class docstring describes them. It sets `channels` and `strides`, and
    implements `forward`; the other attributes have defaults.

    Every map covers the image: the map of stride s has ceil(H / s) by ceil(W / s) cells, and cell j stands for the
    pixels `s * j` to `s * (j + 1) - 1`. The centre of what a cell sees may be off by less than half a cell.

    Example:
        ```python
        @BACKBONES.register("patches")
        class Patches(Backbone):
            def __init__(self, in_channels: int, *, width: int = 32) -> None:
                super().__init__()
                self.channels, self.strides = [width], [4]
                self.patches = nn.Conv2d(in_channels, width, 4, stride=4)

            def forward(self, images: Tensor) -> list[Tensor]:
                height, width = images.shape[-2:]
                images = F.pad(images, (0, -width % 4, 0, -height % 4))
                return [self.patches(images)]
        ```
    """

    fixed_size: ClassVar[bool] = False
    """Whether it is built for one input size, which its constructor takes as second argument, (H, W) or None."""
    in_channels: int
    """Channels of the images; set by `build_backbone`."""
    channels: list[int]
    """Channels of each map, finest map first."""
    strides: list[int]
    """Input pixels per cell of each map, finest map first."""
    mean: tuple[float, ...] = (0.5,)
    """Mean that the model subtracts from images in [0, 1]: one value, or one for each channel."""
    std: tuple[float, ...] = (0.25,)
    """Standard deviation that the model divides by: one value, or one for each channel."""
    has_norm_layers: bool = True
    """False where the model has to standardise the maps, as those of a library's network without norm layers."""
    loaded: LoadReport | None = None
    """What was loaded from a weight file, if anything was."""

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps of images.

        Args:
            images: Normalised images (B, C, H, W), float.

        Returns:
            The maps (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])), finest first.
        """
        raise NotImplementedError

    def mirror(self) -> nn.Module | None:
        """Build the decoder that an autoencoder with this backbone has to use.

        Returns:
            A module from the coarsest map to normalised images (B, C, H, W). None, the default: any decoder that fits
            the map.
        """
        return None


BACKBONES: Registry[type[Backbone]] = Registry("backbone")
