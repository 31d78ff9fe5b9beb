"""Masked-image modelling, for pretraining: any backbone with maps predicts the patches that are hidden from it."""

from __future__ import annotations

import math

from torch import Tensor, nn

from kpnet.config.pretraining import PretrainModelConfig
from kpnet.core.errors import KpnetError
from kpnet.heads import PyramidInfo
from kpnet.heads.decoders.top_down import TopDown
from kpnet.models.reconstruction import ReconstructionModel

WIDTH, STRIDE = 64, 4  # channels of the decoder, and the stride of its map where the backbone has as fine a one


class MaskedImageModel(ReconstructionModel):
    """A network that predicts the hidden patches of images from the others.

    The light decoder is a feature pyramid over the backbone's maps, so that what is learned reaches the fine stages,
    and one convolution from its map to pixels. The encoder sees the images' mean where a patch is hidden, and the loss
    is the mean absolute error of the hidden pixels alone, in grey values of [0, 1]. Follows Xie et al. 2022, SimMIM: A
    Simple Framework for Masked Image Modeling; the decoder over several stages is an idea of Tian et al. 2023,
    Designing BERT for Convolutional Networks.

    Args:
        config: The network: backbone, width of the decoder, channels and size of the images.

    Raises:
        KpnetError: The backbone has no maps, or the parts do not fit together.
    """

    def __init__(self, config: PretrainModelConfig) -> None:
        super().__init__(config)
        channels, strides = self.backbone.channels, self.backbone.strides
        sizes = [tuple(math.ceil(side / stride) for side in config.input_size) for stride in strides]
        if sizes == [(1, 1)]:
            raise KpnetError(
                "model.method: masked: the backbone gives one vector for the whole image, and no map to predict hidden "
                "patches from: use method autoencoder, or a backbone with maps, e.g. conv_sandwich"
            )
        if config.latent is not None:
            raise KpnetError("model.latent: method masked has no latent vector: leave it out, or use autoencoder")
        stride = next((each for each in strides if each >= STRIDE), strides[-1])
        pyramid = TopDown(PyramidInfo(channels, strides, sizes), stride, width=config.decoder.width or WIDTH)  # type: ignore[arg-type]
        pixels = nn.Conv2d(pyramid.channels, config.in_channels * stride**2, 1)
        self.decoder = nn.ModuleDict({"pyramid": pyramid, "image": nn.Sequential(pixels, nn.PixelShuffle(stride))})

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstructions (B, C, H, W) of images (B, C, H, W)."""
        return self.to_images(self.decoder["image"](self.decoder["pyramid"](self.features(images))))

    def loss(self, images: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        errors = (self(seen) - images).abs().masked_fill(~hidden, 0.0)
        return errors.sum() / (hidden.sum() * images.shape[1])
