"""Direct regression: the course's 30-vector."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kpnet.errors import KpnetError
from kpnet.heads.base import HEADS, Head, HeadOutput, Pyramid, check_losses
from kpnet.losses import COORDINATE_LOSSES


@HEADS.register("regression")
class RegressionHead(Head):
    """The coarsest map, flattened or averaged, then FC, ReLU, FC to 2 K coordinates (I2DL exercise 9).

    pool: `flatten` (bound to the configured input size) or `avg` (any size). hidden: widths of the
    hidden layers. activation: `tanh` keeps the answer in [-1, 1], `none` does not. dropout: between the layers.
    loss: weights of l1, smooth_l1, mse, on normalised coordinates.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        num_keypoints: int,
        *,
        pool: Literal["flatten", "avg"] = "flatten",
        hidden: list[Annotated[int, Field(gt=0)]] = [256],  # noqa: B006 (read only)
        activation: Literal["tanh", "none"] = "tanh",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        loss: dict[str, float] = {"mse": 1.0},  # noqa: B006
    ) -> None:
        super().__init__()
        check_losses(loss, COORDINATE_LOSSES, "regression")
        self.loss_weights = loss
        self.num_keypoints = num_keypoints
        self.pool = pool
        self.size = pyramid.sizes[-1]
        width = pyramid.channels[-1]
        if pool == "flatten":
            width *= self.size[0] * self.size[1]
        layers: list[nn.Module] = []
        for features in hidden:
            layers += [nn.Linear(width, features), nn.ReLU(), nn.Dropout(dropout)]
            nn.init.kaiming_normal_(layers[-3].weight, nonlinearity="relu")  # type: ignore[arg-type]
            width = features
        last = nn.Linear(width, 2 * num_keypoints)
        nn.init.xavier_normal_(last.weight)
        self.layers = nn.Sequential(*layers, last, nn.Tanh() if activation == "tanh" else nn.Identity())

    def forward(self, features: list[Tensor]) -> HeadOutput:
        x = features[-1]
        if self.pool == "flatten" and tuple(x.shape[-2:]) != self.size:
            raise KpnetError(
                f"the regression head was built for feature maps of {self.size[0]}x{self.size[1]}, "
                f"got {x.shape[-2]}x{x.shape[-1]}: use the configured input_size, or pool: avg"
            )
        x = x.flatten(1) if self.pool == "flatten" else x.mean((-2, -1))
        with torch.autocast(x.device.type, enabled=False):  # half precision would round to a fifth of a pixel
            xy = self.layers(x.to(next(self.layers.parameters()).dtype))
        return HeadOutput(xy.unflatten(1, (self.num_keypoints, 2)))

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        return {
            name: w * COORDINATE_LOSSES[name](output.xy, target, weight) for name, w in self.loss_weights.items() if w
        }
