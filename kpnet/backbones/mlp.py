"""The fully connected encoder of the course's case study."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kpnet.backbones.base import BACKBONES, Backbone
from kpnet.core.errors import KpnetError

Width = Annotated[int, Field(ge=8)]


@BACKBONES.register("mlp")
class MLP(Backbone):
    """Fully connected layers from the pixels to one vector: Linear, BatchNorm, ReLU (I2DL, exercise 8).

    The result is one cell that stands for the whole image, so that only regression heads fit on it. The image is a
    square of the configured size; any other raises KpnetError.

    Args:
        hidden: Width n of the first hidden layer; the next three have n/2, n/4 and n/8.
        latent: Width of the last layer, which has no norm and no ReLU.
    """

    fixed_size: ClassVar[bool] = True

    def __init__(
        self,
        in_channels: int,
        input_size: tuple[int, int] | None,
        *,
        hidden: Width = 392,
        latent: Annotated[int, Field(gt=0)] = 32,
    ) -> None:
        super().__init__()
        if in_channels < 1:
            raise KpnetError(f'backbone "mlp": in_channels: expected at least 1, found {in_channels}')
        if input_size is None or input_size[0] != input_size[1]:
            found = "none" if input_size is None else f"{input_size[0]}x{input_size[1]}"
            raise KpnetError(f'backbone "mlp": input_size: expected a square, e.g. 96, found {found}')
        self.shape = (in_channels, *input_size)
        self.channels, self.strides = [latent], [input_size[0]]
        self.mean, self.std = (0.5,) * in_channels, (0.25,) * in_channels
        self.widths = [in_channels * input_size[0] * input_size[1], *(hidden // 2**i for i in range(4)), latent]
        self.layers = _perceptron(self.widths)

    def forward(self, images: Tensor) -> list[Tensor]:
        if tuple(images.shape[1:]) != self.shape:
            found, expected = ("x".join(map(str, shape)) for shape in (images.shape[1:], self.shape))
            raise KpnetError(
                f'backbone "mlp": expected images of {expected} (C x H x W), its input_size, found {found}'
            )
        x: Tensor = self.layers(images.flatten(1))
        return [x[:, :, None, None]]

    def mirror(self) -> nn.Module:
        """Return the layers in reverse: (B, latent, 1, 1) to (B, C, H, W)."""
        return nn.Sequential(nn.Flatten(), *_perceptron(self.widths[::-1]), nn.Unflatten(1, self.shape))


class BatchNorm(nn.BatchNorm1d):
    """Batch norm that normalises a batch of one, which has no variance, by the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inp, out in itertools.pairwise(widths):
        layers += [nn.Linear(inp, out), BatchNorm(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-2])
