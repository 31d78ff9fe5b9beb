"""A head of our own."""

from __future__ import annotations

from torch import Tensor, nn

from kpnet.heads import HEADS, Head, HeadOutput, PyramidInfo
from kpnet.losses import COORDINATE_LOSSES


@HEADS.register("gated")
class GatedHead(Head):
    """The coarsest map times a learned gate, flattened, and one linear layer to 2 K coordinates.

    Args:
        smooth: Train with smooth L1 instead of L1.
    """

    predicts_covariance = False

    def __init__(self, pyramid: PyramidInfo, num_keypoints: int, *, smooth: bool = False) -> None:
        super().__init__()
        channels, (height, width) = pyramid.channels[-1], pyramid.sizes[-1]
        self.gate = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Sigmoid())
        self.layer = nn.Linear(channels * height * width, 2 * num_keypoints)
        self.criterion = COORDINATE_LOSSES["smooth_l1" if smooth else "l1"]

    def forward(self, features: list[Tensor]) -> HeadOutput:
        x = features[-1] * self.gate(features[-1])
        return HeadOutput(self.layer(x.flatten(1)).unflatten(1, (-1, 2)))

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        return {"points": self.criterion(output.xy, target, weight)}
