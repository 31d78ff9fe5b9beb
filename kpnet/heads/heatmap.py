"""Heatmaps with spatial softmax and soft-argmax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from kpnet import decoding
from kpnet.errors import KpnetError
from kpnet.heads.base import HEADS, Head, HeadOutput, Keypoints, Pyramid, check_losses
from kpnet.heads.decoders import DECODERS
from kpnet.losses import COORDINATE_LOSSES, MAP_LOSSES

CONFIDENCE_RADIUS = 0.05  # of the image's longer side


@HEADS.register("heatmap")
class HeatmapHead(Head):
    """A decoder over the pyramid to K maps, spatial softmax, soft-argmax (integral regression, Sun et al. 2018).

    decoder: `top_down`, `deconv`, or a mapping with its options. stride: input pixels per map cell.
    temperature divides the logits. loss: weights of l1, smooth_l1, mse (on the soft-argmax, normalised),
    cross_entropy and map_mse (against a Gaussian of `sigma` input pixels).
    """

    def __init__(
        self,
        pyramid: Pyramid,
        num_keypoints: int,
        *,
        decoder: str | Mapping[str, Any] = "top_down",
        stride: Annotated[int, Field(gt=0)] = 4,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        sigma: Annotated[float, Field(gt=0)] = 1.5,
        loss: dict[str, float] = {"l1": 1.0, "cross_entropy": 0.1},  # noqa: B006 (read only)
    ) -> None:
        super().__init__()
        check_losses(loss, [*COORDINATE_LOSSES, *MAP_LOSSES], "heatmap")
        if not any(weight for name, weight in loss.items() if name != "map_mse"):
            raise KpnetError(
                'head "heatmap": loss map_mse alone leaves the soft-argmax untrained: a regressed map is flat to a '
                "softmax; add l1 or cross_entropy"
            )
        self.loss_weights = loss
        self.temperature = temperature
        self.sigma_cells = sigma / stride
        self.decoder = DECODERS.build(decoder, pyramid, num_keypoints, stride)
        self.multiple = self.decoder.multiple

    def forward(self, features: list[Tensor]) -> HeadOutput:
        logits = self.decoder(features)
        return HeadOutput(decoding.soft_argmax2d(logits, self.temperature), logits)

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        assert output.logits is not None
        terms = {}
        for name, w in self.loss_weights.items():
            if not w:
                continue
            if name in COORDINATE_LOSSES:
                terms[name] = w * COORDINATE_LOSSES[name](output.xy, target, weight)
            else:
                # Softmax losses see the logits as the softmax does; a regressed map is the logits themselves.
                maps = output.logits / self.temperature if name == "cross_entropy" else output.logits
                terms[name] = w * MAP_LOSSES[name](maps, target, weight, self.sigma_cells)
        return terms

    def infer(self, output: HeadOutput) -> Keypoints:
        assert output.logits is not None
        maps = decoding.spatial_softmax2d(output.logits, self.temperature)
        return Keypoints(
            output.xy,
            confidence=decoding.mass_within2d(maps, output.xy, CONFIDENCE_RADIUS),
            covariance=decoding.covariance2d(maps, output.xy),
            heatmaps=maps,
        )
