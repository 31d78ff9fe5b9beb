"""Direct regression of the coordinates."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kpnet.core.errors import KpnetError
from kpnet.heads.base import (
    HEADS,
    Hardest,
    Head,
    HeadOutput,
    Losses,
    PointBlock,
    PyramidInfo,
    check_losses,
    reducer,
    weight_dtype,
)
from kpnet.losses import COORDINATE_LOSSES

LEAKY_SLOPE = 0.01


class Regressor(Head):
    """Base class of heads of fully connected layers on the coarsest map.

    A subclass sets `name` and `defaults`, calls `regress` in `forward`, and implements `loss`.

    Args:
        pool: What the layers see of the coarsest map: `flatten`, all of it (bound to the configured input size), or
            `avg`, its mean over space (any size).
        hidden: Widths of the hidden layers.
        hidden_activation: Activation of the hidden layers; `leaky_relu` has slope 0.01.
        dropout: Dropout probability after each hidden layer.
        loss: Weights of the terms: `l1`, `smooth_l1`, `mse` and `wing` of the normalised coordinates. Null: the head's
            default.
        hardest: Number of points per image that count, those with the largest errors; null for all.
    """

    name: ClassVar[str]
    """The name that the head is registered with."""
    loss_terms: ClassVar[tuple[str, ...]] = tuple(COORDINATE_LOSSES)
    defaults: ClassVar[Losses]
    """Weights of the loss where the config has none."""
    outputs: ClassVar[int] = 2
    """Numbers that `regress` returns for each keypoint."""

    def __init__(
        self,
        pyramid: PyramidInfo,
        num_keypoints: int,
        *,
        pool: Literal["flatten", "avg"] = "flatten",
        hidden: Annotated[list[Annotated[int, Field(gt=0)]], Field(max_length=100)] = [256],  # noqa: B006 (read only)
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
            nn.init.kaiming_normal_(linear.weight, a=LEAKY_SLOPE, nonlinearity=hidden_activation)
            layers += [
                linear,
                nn.ReLU() if hidden_activation == "relu" else nn.LeakyReLU(LEAKY_SLOPE),
                nn.Dropout(dropout),
            ]
            width = features
        last = nn.Linear(width, self.outputs * num_keypoints)
        nn.init.xavier_normal_(last.weight)
        self.layers = nn.Sequential(*layers, last)

    def regress(self, features: list[Tensor]) -> Tensor:
        """Return the layers' result (B, K, outputs), at least float32, from feature maps."""
        x = features[-1]
        if self.pool == "flatten" and tuple(x.shape[-2:]) != self.size:
            raise KpnetError(
                f"the {self.name} head was built for feature maps of {self.size[0]}x{self.size[1]}, "
                f"got {x.shape[-2]}x{x.shape[-1]}: use the configured input_size, or pool: avg"
            )
        x = x.flatten(1) if self.pool == "flatten" else x.mean((-2, -1))
        with torch.autocast(x.device.type, enabled=False):  # half precision would round to a fifth of a pixel
            values: Tensor = self.layers(x.to(weight_dtype(self.layers)))
        return values.unflatten(1, (self.num_keypoints, self.outputs))

    def point_blocks(self) -> dict[str, list[PointBlock]]:
        last = max(i for i, layer in enumerate(self.layers) if isinstance(layer, nn.Linear))
        return {f"layers.{last}.{name}": [PointBlock(self.num_keypoints, self.outputs)] for name in ("weight", "bias")}

    def coordinate_term(self, name: str, output: HeadOutput, target: Tensor, weight: Tensor) -> Tensor:
        """Return the unweighted coordinate loss of that name; arguments as in `Head.loss`."""
        return COORDINATE_LOSSES[name](output.xy, target, weight, self.reduce)


@HEADS.register("regression")
class RegressionHead(Regressor):
    """Coordinates by fully connected layers on the coarsest map, as in the course's exercise (I2DL, exercise 9).

    Args:
        activation: Activation of the result: `tanh` keeps the points in [-1, 1], `none` does not.
        loss: Weights of the terms: `l1`, `smooth_l1`, `mse` and `wing` of the normalised coordinates. Null: `mse`
            alone.
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
