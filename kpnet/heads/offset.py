"""A coarse map and a field of offsets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kpnet import decoding
from kpnet.coordinates import cell_centers, normalized_distance_to_pixel
from kpnet.core.errors import KpnetError
from kpnet.heads.base import HEADS, Hardest, Head, HeadOutput, Keypoints, Losses, PyramidInfo, check_losses, reducer
from kpnet.heads.decoders import DECODERS
from kpnet.losses import COORDINATE_LOSSES, SOFTMAX_LOSSES, Reduce, check_shapes
from kpnet.uncertainty import CONFIDENCE_RADIUS, probability_within


@dataclass
class OffsetOutput(HeadOutput):
    """logits (B, K, h, w); votes (B, K, h, w, 2): where each cell says that the point is, normalised."""

    logits: Tensor
    votes: Tensor


@HEADS.register("offset")
class OffsetHead(Head):
    """A map says near which cell the point is, and an offset at each cell says where exactly (G-RMI, Papandreou 2017).

    The answer is the mean vote under the softmax of the map, or with `decoding: argmax` the vote of its highest cell.
    loss: weights of the coordinate losses (of the mean vote), of the softmax losses (of the map, against a Gaussian of
    `sigma` input pixels) and of `offset`: the mean L1 error of the votes of the cells within `radius` input pixels.
    decoder, stride, hardest: as for `heatmap`.
    """

    loss_terms: ClassVar[tuple[str, ...]] = (*COORDINATE_LOSSES, *SOFTMAX_LOSSES, "offset")

    def __init__(
        self,
        pyramid: PyramidInfo,
        num_keypoints: int,
        *,
        decoder: str | Mapping[str, Any] = "top_down",
        stride: Annotated[int, Field(gt=0)] = 8,
        sigma: Annotated[float, Field(gt=0)] = 3.0,
        radius: Annotated[float, Field(gt=0)] = 8.0,
        loss: Losses = {"l1": 1.0, "offset": 0.5, "cross_entropy": 0.1},  # noqa: B006 (read only)
        hardest: Hardest = None,
        decoding: Literal["mean", "argmax"] = "mean",
    ) -> None:
        super().__init__()
        check_losses(loss, self.loss_terms, "offset")
        named = {name for name, weight in loss.items() if weight}
        if not named & {"offset", *COORDINATE_LOSSES} or not named - {"offset", "variance"}:
            raise KpnetError(
                'head "offset": loss: expected terms that train the map (cross_entropy, …) and the votes (offset), '
                f"or both (l1, …), found {', '.join(sorted(named))}"
            )
        self.loss_weights = loss
        self.reduce = reducer(hardest)
        self.decoding = decoding
        self.sigma_cells, self.radius_cells = sigma / stride, radius / stride
        self.decoder = DECODERS.build(decoder, pyramid, stride)
        self.size_divisor = self.decoder.size_divisor
        self.maps = nn.Conv2d(self.decoder.channels, num_keypoints, 1)
        self.offsets = nn.Conv2d(self.decoder.channels, 2 * num_keypoints, 1)
        for parameter in self.offsets.parameters():  # every cell votes for its own centre at first
            nn.init.zeros_(parameter)

    def forward(self, features: list[Tensor]) -> OffsetOutput:
        x = self.decoder(features)
        logits = self.maps(x)
        offsets = self.offsets(x).unflatten(1, (-1, 2)).movedim(2, -1)
        offsets = offsets if offsets.dtype == torch.float64 else offsets.float()
        votes = _cell_grid(logits) + offsets
        p = decoding.spatial_softmax2d(logits)
        return OffsetOutput((p[..., None] * votes).sum((-3, -2)), logits, votes)

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        assert isinstance(output, OffsetOutput)

        def term(name: str) -> Tensor:
            if name == "offset":
                return vote_error(output.votes, target, weight, self.radius_cells, self.reduce)
            if name in COORDINATE_LOSSES:
                return COORDINATE_LOSSES[name](output.xy, target, weight, self.reduce)
            return SOFTMAX_LOSSES[name](output.logits, target, weight, self.sigma_cells, self.reduce)

        return self.weighted_terms(term)

    def decode(self, output: HeadOutput) -> Tensor:
        assert isinstance(output, OffsetOutput)
        if self.decoding == "mean":
            return output.xy
        best = output.logits.flatten(2).argmax(-1)[..., None, None].expand(-1, -1, 1, 2)
        return output.votes.flatten(2, 3).gather(2, best)[:, :, 0]

    def infer(self, output: HeadOutput) -> Keypoints:
        assert isinstance(output, OffsetOutput)
        p, xy = decoding.spatial_softmax2d(output.logits), self.decode(output)
        centred = output.votes - xy[:, :, None, None]
        # Not an einsum: autocast would make it one of half precision, where a hundredth of a pixel squared is 0.
        outer = centred[..., :, None] * centred[..., None, :]
        covariance = (p[..., None, None] * outer).sum((2, 3))
        confidence = probability_within(covariance, CONFIDENCE_RADIUS, (p.shape[-2], p.shape[-1]))
        return Keypoints(xy, confidence, covariance, p)


def vote_error(votes: Tensor, target: Tensor, weight: Tensor, radius: float, reduce: Reduce) -> Tensor:
    """Mean absolute error per coordinate of the votes (B, K, h, w, 2) of cells within `radius` cells of the target.

    A point with no such cell (off the map) is as if it had no error.
    """
    check_shapes(votes, target, weight)
    target = torch.where((weight > 0)[..., None], target, 0)[:, :, None, None]
    grid = _cell_grid(votes[..., 0])
    cells = normalized_distance_to_pixel(grid - target, (votes.shape[2], votes.shape[3]))
    near = (cells.square().sum(-1) <= radius**2).to(votes.dtype)
    errors = (votes - target).abs().mean(-1)
    return reduce((errors * near).sum((-2, -1)) / near.sum((-2, -1)).clamp(min=1), weight)


def _cell_grid(maps: Tensor) -> Tensor:
    """Normalised centres (h, w, 2) of the cells of maps (..., h, w)."""
    y, x = (cell_centers(n, device=maps.device) for n in maps.shape[-2:])
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
