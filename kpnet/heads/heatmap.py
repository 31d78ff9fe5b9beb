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
from kpnet.heads.base import HEADS, Hardest, Head, HeadOutput, Keypoints, Losses, PyramidInfo, check_losses, reducer
from kpnet.heads.decoders import DECODERS
from kpnet.heads.decoders.base import conv_norm_relu
from kpnet.losses import COORDINATE_LOSSES, MAP_LOSSES, SOFTMAX_LOSSES
from kpnet.uncertainty import CONFIDENCE_RADIUS

SHARP = 0.2  # a temperature at which the softmax of a map of peak 1 is a peak


@dataclass
class HeatmapOutput(HeadOutput):
    """logits (B, K, h, w) of the last stage, and of those before it."""

    logits: Tensor
    earlier: list[Tensor] = field(default_factory=list)


class Refine(nn.Module):
    """Features and the maps made of them to better features (a stage of stacked supervision, Newell et al. 2016)."""

    def __init__(self, width: int, num_keypoints: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv_norm_relu(width + num_keypoints, width, 3), conv_norm_relu(width, width, 3))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        return features + self.layers(torch.cat([features, logits], 1))


@HEADS.register("heatmap")
class HeatmapHead(Head):
    """A decoder over the pyramid to K maps, spatial softmax, soft-argmax (integral regression, Sun et al. 2018).

    decoder: `top_down`, `deconv`, `unet`, `aspp`, `upsample`, or a mapping with its options. stride: input pixels per
    map cell. temperature divides the logits; `learned` starts at 1. stages: maps that are refined and supervised so
    often. loss: weights of l1, smooth_l1, mse, wing (on the soft-argmax, normalised), cross_entropy, kl, js, variance
    (on the softmax) and map_mse, adaptive_wing (on the logits as maps of peak 1), each against a Gaussian of `sigma`
    input pixels. hardest: only so many points of each image count (OHKM). decoding: what `infer` answers with, whatever
    was trained: `soft_argmax`, `local` (of the cells within `window` of the peak), `dark`, `blend` (the middle
    of soft-argmax and DARK, of a map's mean and its peak), `quarter`, `argmax`.
    """

    loss_terms: ClassVar[tuple[str, ...]] = (*COORDINATE_LOSSES, *SOFTMAX_LOSSES, *MAP_LOSSES)

    def __init__(
        self,
        pyramid: PyramidInfo,
        num_keypoints: int,
        *,
        decoder: str | Mapping[str, Any] = "top_down",
        stride: Annotated[int, Field(gt=0)] = 4,
        stages: Annotated[int, Field(gt=0)] = 1,
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
                'head "heatmap": loss: a regressed map is flat to a softmax, and nothing else is trained: '
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
        return self.fixed_temperature if self.log_temperature is None else self.log_temperature.exp()

    def forward(self, features: list[Tensor]) -> HeatmapOutput:
        x = self.decoder(features)
        stages = [self.maps[0](x)]
        for refine, maps in zip(self.refine, list(self.maps)[1:], strict=True):
            x = refine(x, stages[-1])
            stages.append(maps(x))
        return HeatmapOutput(decoding.soft_argmax2d(stages[-1], self.temperature), stages[-1], stages[:-1])

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """The mean over the stages of each term."""
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
