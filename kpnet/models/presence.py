"""Presence: whether a point is there, inside the image and seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpnet.heads import Keypoints
from kpnet.models.loss_terms import LossTerms

NEAR = 0.1  # distance from the edge, of half the image, that counts as near to it
EPSILON = 1e-6  # of a probability whose logit is taken: logits beyond 14 are all the same


class PresenceBranch(nn.Module):
    """Feature maps and predicted points to the logit of each point's being there.

    For each point it reads every map at the predicted point, the mean of the coarsest map, the logarithm of the point's
    standard deviation, and where the point is: a point outside of the image is predicted at its edge. Points and
    deviations are given: no gradient of the branch's loss reaches the head through them, and one reaches the backbone
    through its maps.

    Args:
        channels: Channels of the maps, finest first.
        num_keypoints: Number of keypoints K.
        hidden: Width of the hidden layers.
    """

    def __init__(self, channels: Sequence[int], num_keypoints: int, hidden: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(count) for count in channels)
        self.at_point = nn.ModuleList(nn.Linear(count, hidden, bias=False) for count in channels)
        self.whole = nn.Linear(channels[-1], hidden)
        self.spread = nn.Linear(1, hidden, bias=False)
        self.place = nn.Linear(6, hidden, bias=False)
        self.point = nn.Parameter(torch.zeros(num_keypoints, hidden))
        self.layer = nn.Linear(hidden, hidden)
        self.last = nn.Parameter(torch.zeros(num_keypoints, hidden))  # each point of its own; logits are 0 at first
        self.bias = nn.Parameter(torch.zeros(num_keypoints))

    def forward(self, maps: Sequence[Tensor], predicted: Keypoints) -> Tensor:
        """Compute the logits.

        Args:
            maps: Feature maps (B, C, h, w), finest first.
            predicted: The head's prediction (B, K, 2), with a covariance.

        Returns:
            Logits (B, K).
        """
        assert predicted.covariance is not None
        dtype = self.last.dtype
        with torch.autocast(self.last.device.type, enabled=False):
            points = predicted.keypoints.detach().float()
            grid = points.to(dtype)[:, :, None]
            variances = predicted.covariance.detach().float().diagonal(dim1=-2, dim2=-1).clamp(min=1e-8)
            log_spread = variances.mean(-1).log() / 2 + 4  # about 0 for 2 % of half the image
            edge = 1 - points.abs()  # distance to the nearer edge along each axis
            place = torch.cat([points, (edge / NEAR).clamp(-1, 2), (edge / variances.sqrt()).clamp(-4, 4) / 2], -1)
            hidden = self.point + self.spread(log_spread.to(dtype)[..., None]) + self.place(place.to(dtype))
            hidden = hidden + self.whole(maps[-1].to(dtype).mean((-2, -1)))[:, None]
            for each, norm, layer in zip(maps, self.norms, self.at_point, strict=True):
                read = F.grid_sample(each.to(dtype), grid, padding_mode="border", align_corners=False)[..., 0]
                hidden = hidden + layer(norm(read.transpose(1, 2)))
            hidden = F.relu(self.layer(F.relu(hidden)))
            return (hidden * self.last).sum(-1) + self.bias


def with_presence(predicted: Keypoints, logits: Tensor) -> Keypoints:
    """Return a prediction with the presence of these logits (B, K).

    Args:
        predicted: A prediction whose confidence is the probability that each point, being there, is near.
        logits: The logits (B, K).

    Returns:
        The prediction with `presence`, and `confidence` times that.
    """
    presence = logits.float().sigmoid()
    confidence = None if predicted.confidence is None else predicted.confidence * presence
    return dataclasses.replace(predicted, presence=presence, confidence=confidence)


def presence_logits(presence: Tensor) -> Tensor:
    """Return the logits of probabilities of any shape, at most about 14 in size."""
    presence = presence.clamp(EPSILON, 1 - EPSILON)
    return presence.log() - (-presence).log1p()


def presence_terms(logits: Tensor | None, present: Tensor | None, count_of: Tensor, weight: float) -> LossTerms:
    """Compute the binary cross-entropy of the points of which it is known whether they are there.

    Args:
        logits: The branch's logits (B, K); None: the output was computed without it.
        present: 1 for points that are there, 0 for those that are not, NaN for those of which it is not known (B, K).
            None: nothing is known.
        count_of: A tensor on the device, for its dtype.
        weight: Weight of the term.

    Returns:
        The term `presence`.
    """
    zero = count_of.new_zeros(())
    if logits is None or present is None:
        value = zero if logits is None else 0 * logits.sum()
        return LossTerms(value[None], zero.float()[None], {"presence": value})
    known = present.isfinite()
    errors = F.binary_cross_entropy_with_logits(
        logits, torch.where(known, present, 0).to(logits.dtype), reduction="none"
    )
    number = known.sum()
    value = weight * torch.where(known, errors, 0).sum() / number.clamp(min=1)
    return LossTerms(value[None], number.float()[None], {"presence": value})
