"""A coarse map for each keypoint, and a field of offsets."""

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
from kpnet.heads.base import (
    HEADS,
    Hardest,
    Head,
    HeadOutput,
    Keypoints,
    Losses,
    PointBlock,
    PyramidInfo,
    check_losses,
    reducer,
)
from kpnet.heads.decoders import DECODERS
from kpnet.losses import COORDINATE_LOSSES, SOFTMAX_LOSSES, Reduce, check_shapes
from kpnet.uncertainty import CONFIDENCE_RADIUS, probability_within


@dataclass
class OffsetOutput(HeadOutput):
    """The output of `OffsetHead`.

    Attributes:
        logits: Maps (B, K, h, w), before the softmax.
        votes: Where each cell predicts the point (B, K, h, w, 2), in normalised coordinates.
    """

    logits: Tensor
    votes: Tensor


@HEADS.register("offset")
class OffsetHead(Head):
    """Coarse maps that say near which cell a point is, and an offset at each cell that says where exactly.

    Every cell votes for a point: its own centre plus its offset. Papandreou et al. 2017, Towards Accurate Multi-person
    Pose Estimation in the Wild.

    Args:
        decoder: Map decoder: its name, or a mapping with its options.
        stride: Input pixels per cell of the maps.
        sigma: Standard deviation of the Gaussians that the losses compare the maps with, in input pixels.
        radius: Distance from the true point within which the votes of cells are trained by `offset`, in input pixels.
        loss: Weights of the terms: `l1`, `smooth_l1`, `mse` and `wing` of the mean vote, in normalised coordinates;
            `cross_entropy`, `kl`, `js` and `variance` of the map's softmax; `offset`, the mean L1 error of the votes.
        hardest: Number of points per image that count, those with the largest errors; null for all.
        decoding: How `infer` predicts: `mean`, the mean vote under the map's softmax, or `argmax`, the vote of the
            map's highest cell.
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

    def point_blocks(self) -> dict[str, list[PointBlock]]:
        points = self.maps.out_channels
        layers = {"maps": PointBlock(points), "offsets": PointBlock(points, each=2)}
        return {f"{layer}.{name}": [block] for layer, block in layers.items() for name in ("weight", "bias")}

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
    """Return the mean absolute error per coordinate of the votes near the target.

    A point without a cell near it, off the map, counts as without error.

    Args:
        votes: Points (B, K, h, w, 2) that the cells vote for, in [-1, 1].
        target: True points (B, K, 2) in [-1, 1].
        weight: Weights (B, K); 0 for an absent point.
        radius: Distance from the target up to which a cell is near, in cells.
        reduce: From errors (B, K) and weights (B, K) to a scalar.

    Returns:
        The error in normalised coordinates, a scalar.

    Raises:
        ValueError: The shapes do not match.
    """
    check_shapes(votes, target, weight)
    target = torch.where((weight > 0)[..., None], target, 0)[:, :, None, None]
    grid = _cell_grid(votes[..., 0])
    cells = normalized_distance_to_pixel(grid - target, (votes.shape[2], votes.shape[3]))
    near = (cells.square().sum(-1) <= radius**2).to(votes.dtype)
    errors = (votes - target).abs().mean(-1)
    return reduce((errors * near).sum((-2, -1)) / near.sum((-2, -1)).clamp(min=1), weight)


def _cell_grid(maps: Tensor) -> Tensor:
    """Return the normalised centres (h, w, 2) of the cells of maps (..., h, w)."""
    y, x = (cell_centers(n, device=maps.device) for n in maps.shape[-2:])
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
