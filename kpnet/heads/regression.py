"""Direct regression: the course's 30-vector."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kpnet.core.errors import KpnetError
from kpnet.heads.base import HEADS, Hardest, Head, HeadOutput, Losses, PyramidInfo, check_losses, reducer
from kpnet.losses import COORDINATE_LOSSES

SLOPE = 0.01  # of a leaky ReLU


class Regressor(Head):
    """The coarsest map, flattened or averaged, then FC, ReLU, FC to some numbers per keypoint.

    pool: `flatten` (bound to the configured input size) or `avg` (any size). hidden: widths of the
    hidden layers. hidden_activation: theirs, `relu` or `leaky_relu` (slope 0.01). dropout: after each of them.
    loss: None for the head's `defaults`.
    hardest: only so many points of each image count (OHKM).
    """

    name: ClassVar[str]
    loss_terms: ClassVar[tuple[str, ...]] = tuple(COORDINATE_LOSSES)
    defaults: ClassVar[Losses]
    outputs: ClassVar[int] = 2  # numbers per keypoint

    def __init__(
        self,
        pyramid: PyramidInfo,
        num_keypoints: int,
        *,
        pool: Literal["flatten", "avg"] = "flatten",
        hidden: list[Annotated[int, Field(gt=0)]] = [256],  # noqa: B006 (read only)
        hidden_activation: Literal["relu", "leaky_relu"] = "relu",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        loss: Losses | None = None,
        hardest: Hardest = None,
    ) -> None:
        super().__init__()
        self.loss_weights = self.defaults if loss is None else loss
        check_losses(self.loss_weights, self.loss_terms, self.name)
        self.reduce = reducer(hardest)
        self.num_keypoints = num_keypoints
        self.pool = pool
        self.size, self.image_size = pyramid.sizes[-1], pyramid.image_size
        width = pyramid.channels[-1]
        if pool == "flatten":
            width *= self.size[0] * self.size[1]
        layers: list[nn.Module] = []
        for features in hidden:
            linear = nn.Linear(width, features)
            nn.init.kaiming_normal_(linear.weight, a=SLOPE, nonlinearity=hidden_activation)
            layers += [linear, nn.ReLU() if hidden_activation == "relu" else nn.LeakyReLU(SLOPE), nn.Dropout(dropout)]
            width = features
        last = nn.Linear(width, self.outputs * num_keypoints)
        nn.init.xavier_normal_(last.weight)
        self.layers = nn.Sequential(*layers, last)

    def regress(self, features: list[Tensor]) -> Tensor:
        """(B, K, outputs), at least float32."""
        x = features[-1]
        if self.pool == "flatten" and tuple(x.shape[-2:]) != self.size:
            raise KpnetError(
                f"the {self.name} head was built for feature maps of {self.size[0]}x{self.size[1]}, "
                f"got {x.shape[-2]}x{x.shape[-1]}: use the configured input_size, or pool: avg"
            )
        x = x.flatten(1) if self.pool == "flatten" else x.mean((-2, -1))
        with torch.autocast(x.device.type, enabled=False):  # half precision would round to a fifth of a pixel
            values: Tensor = self.layers(x.to(next(self.layers.parameters()).dtype))
        return values.unflatten(1, (self.num_keypoints, self.outputs))

    def coordinate_term(self, name: str, output: HeadOutput, target: Tensor, weight: Tensor) -> Tensor:
        return COORDINATE_LOSSES[name](output.xy, target, weight, self.reduce)


@HEADS.register("regression")
class RegressionHead(Regressor):
    """The coarsest map, flattened or averaged, then FC, ReLU, FC to 2 K coordinates (I2DL exercise 9).

    activation: `tanh` keeps the answer in [-1, 1], `none` does not. loss: weights of l1, smooth_l1, mse, wing, on
    normalised coordinates; mse by default. The rest is Regressor's.
    """

    name = "regression"
    predicts_covariance = False
    defaults: ClassVar[Losses] = {"mse": 1.0}

    def __init__(
        self,
        pyramid: PyramidInfo,
        num_keypoints: int,
        *,
        activation: Literal["tanh", "none"] = "tanh",
        **options: Any,
    ) -> None:
        super().__init__(pyramid, num_keypoints, **options)
        self.layers.append(nn.Tanh() if activation == "tanh" else nn.Identity())

    def forward(self, features: list[Tensor]) -> HeadOutput:
        return HeadOutput(self.regress(features))

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        return self.weighted_terms(lambda name: self.coordinate_term(name, output, target, weight))
