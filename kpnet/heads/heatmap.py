"""Heatmaps with spatial softmax and soft-argmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kpnet import decoding
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
from kpnet.heads.decoders.base import conv_norm_relu
from kpnet.losses import COORDINATE_LOSSES, MAP_LOSSES, SOFTMAX_LOSSES
from kpnet.uncertainty import CONFIDENCE_RADIUS

SHARP = 0.2  # up to this temperature, the softmax of a map of peak 1 has a peak


@dataclass
class HeatmapOutput(HeadOutput):
    """The output of `HeatmapHead`.

    Attributes:
        logits: Maps (B, K, h, w) of the last stage, before the softmax.
        earlier: The same of the stages before it.
    """

    logits: Tensor
    earlier: list[Tensor] = field(default_factory=list)


class Refine(nn.Module):
    """A further stage: features and the maps predicted from them to better features.

    Intermediate supervision of Newell et al. 2016, Stacked Hourglass Networks for Human Pose Estimation.
    """

    def __init__(self, width: int, num_keypoints: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv_norm_relu(width + num_keypoints, width, 3), conv_norm_relu(width, width, 3))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return features + self.layers(torch.cat([features, logits], 1))


@HEADS.register("heatmap")
class HeatmapHead(Head):
    """Heatmaps: a map decoder, a softmax over each keypoint's map, and its mean, the soft-argmax.

    Integral regression (Sun et al. 2018, Integral Human Pose Regression). Takes images of any size that the decoder
    takes.

    Args:
        decoder: Map decoder: its name, or a mapping with its options.
        stride: Input pixels per cell of the maps.
        stages: Number of times the maps are predicted. Each further stage refines the features and is supervised too.
        temperature: Divides the logits before the softmax; `learned` starts at 1.
        sigma: Standard deviation of the Gaussians that the losses compare maps with, in input pixels.
        loss: Weights of the terms: `l1`, `smooth_l1`, `mse` and `wing` of the soft-argmax, in normalised coordinates;
            `cross_entropy`, `kl`, `js` and `variance` of the softmax; `map_mse` and `adaptive_wing` of the logits, as
            maps of peak 1.
        hardest: Number of points per image that count, those with the largest errors; null for all.
        decoding: How `infer` reads the maps, independent of training: `soft_argmax`; `local`, the soft-argmax of the
            cells near the peak; `dark`; `blend`, the midpoint of soft-argmax and DARK; `quarter`; `argmax`. See
            `kpnet.decoding`.
        window: Cells around the peak that `decoding: local` uses.
    """

    loss_terms: ClassVar[tuple[str, ...]] = (*COORDINATE_LOSSES, *SOFTMAX_LOSSES, *MAP_LOSSES)

    def __init__(
        self,
        pyramid: PyramidInfo,
        num_keypoints: int,
        *,
        decoder: str | Mapping[str, Any] = "top_down",
        stride: Annotated[int, Field(gt=0)] = 4,
        stages: Annotated[int, Field(gt=0, le=100)] = 1,
        temperature: Annotated[float, Field(gt=0)] | Literal["learned"] = 1.0,
        sigma: Annotated[float, Field(gt=0)] = 1.5,
        loss: Losses = {"l1": 1.0, "cross_entropy": 0.1},  # noqa: B006 (read only)
        hardest: Hardest = None,
        decoding: Literal["soft_argmax", "local", "dark", "blend", "quarter", "argmax"] = "soft_argmax",
        window: Annotated[int, Field(gt=0)] = 4,
    ) -> None:
        super().__init__()
        check_losses(loss, self.loss_terms, "heatmap")
        flat = temperature == "learned" or temperature > SHARP
        if flat and not any(weight for name, weight in loss.items() if name not in (*MAP_LOSSES, "variance")):
            raise KpnetError(
                'head "heatmap": loss: these terms leave the softmax of the map flat, and so the points untrained: '
                "add l1 or cross_entropy, or set temperature: 0.05"
            )
        self.loss_weights = loss
        self.reduce = reducer(hardest)
        self.decoding, self.window = decoding, window
        self.log_temperature = nn.Parameter(torch.zeros(())) if temperature == "learned" else None
        self.fixed_temperature = 1.0 if temperature == "learned" else temperature
        self.sigma_cells = sigma / stride
        self.decoder = DECODERS.build(decoder, pyramid, stride)
        self.size_divisor = self.decoder.size_divisor
        width = self.decoder.channels
        self.refine = nn.ModuleList(Refine(width, num_keypoints) for _ in range(stages - 1))
        self.maps = nn.ModuleList(nn.Conv2d(width, num_keypoints, 1) for _ in range(stages))

    @property
    def temperature(self) -> float | Tensor:
        """What the logits are divided by, fixed or learned."""
        return self.fixed_temperature if self.log_temperature is None else self.log_temperature.exp()

    def forward(self, features: list[Tensor]) -> HeatmapOutput:
        x = self.decoder(features)
        stages = [self.maps[0](x)]
        for refine, maps in zip(self.refine, list(self.maps)[1:], strict=True):
            x = refine(x, stages[-1])
            stages.append(maps(x))
        return HeatmapOutput(decoding.soft_argmax2d(stages[-1], self.temperature), stages[-1], stages[:-1])

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Compute each term as its mean over the stages; see `Head.loss`."""
        assert isinstance(output, HeatmapOutput)
        stages = [(decoding.soft_argmax2d(z, self.temperature), z) for z in output.earlier]
        stages.append((output.xy, output.logits))

        def mean_over_stages(name: str) -> Tensor:
            return torch.stack([self._term(name, xy, logits, target, weight) for xy, logits in stages]).mean()

        return self.weighted_terms(mean_over_stages)

    def _term(self, name: str, xy: Tensor, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        if name in COORDINATE_LOSSES:
            return COORDINATE_LOSSES[name](xy, target, weight, self.reduce)
        if name in MAP_LOSSES:  # a regressed map is the logits themselves
            return MAP_LOSSES[name](logits, target, weight, self.sigma_cells, self.reduce)
        return SOFTMAX_LOSSES[name](logits / self.temperature, target, weight, self.sigma_cells, self.reduce)

    def point_blocks(self) -> dict[str, list[PointBlock]]:
        points = self.maps[0].out_channels
        assert isinstance(points, int)
        found = {name: [PointBlock(points)] for name, _ in self.named_parameters() if name.startswith("maps.")}
        for i in range(len(self.refine)):  # the maps follow the features
            name = f"refine.{i}.layers.0.0.weight"
            found[name] = [PointBlock(points, axis=1, start=self.decoder.channels)]
        return found

    def decode(self, output: HeadOutput) -> Tensor:
        assert isinstance(output, HeatmapOutput)
        if self.decoding == "soft_argmax":
            return output.xy
        peaks: dict[str, Callable[[Tensor], Tensor]] = {
            "local": lambda z: decoding.local_soft_argmax2d(z, self.window),
            "dark": decoding.dark_decode2d,
            "blend": lambda z: (decoding.soft_argmax2d(z) + decoding.dark_decode2d(z)) / 2,
            "quarter": decoding.quarter_offset2d,
            "argmax": decoding.argmax2d,
        }
        return peaks[self.decoding](output.logits / self.temperature)

    def infer(self, output: HeadOutput) -> Keypoints:
        assert isinstance(output, HeatmapOutput)
        maps = decoding.spatial_softmax2d(output.logits, self.temperature)
        xy = self.decode(output)
        return Keypoints(
            xy,
            confidence=decoding.mass_within2d(maps, xy, CONFIDENCE_RADIUS),
            covariance=decoding.covariance2d(maps, xy),
            heatmaps=maps,
        )
