"""A head that looks at the frames around the predicted one: recurrent, or convolutional over time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
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
    Keypoints,
    Losses,
    PointBlock,
    PyramidInfo,
    check_losses,
    reducer,
    strides_of,
    weight_dtype,
)
from kpnet.losses import COORDINATE_LOSSES

SCALE = 20.0  # multiplies differences of points: a fortieth of the image's side is 1 to the layer
RECURRENT: dict[str, type[nn.RNN | nn.GRU | nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@dataclass
class TemporalOutput(HeadOutput):
    """The output of `TemporalHead`; its rows are the predicted frames.

    Attributes:
        frame: The inner head's output.
        offset: Correction (B, K, 2) that is added to the inner head's points, in normalised coordinates.
    """

    frame: HeadOutput
    offset: Tensor


class Convolution(nn.Module):
    """Two convolutions over time and one linear layer over the whole window: (B, T, inputs) to (B, width)."""

    def __init__(self, inputs: int, width: int, frames: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv1d(inputs, width, 3, padding=1), nn.ReLU(), nn.Conv1d(width, width, 3, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(width * frames, width), nn.ReLU()),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.layers(tokens.transpose(1, 2))
        return hidden


@HEADS.register("temporal")
class TemporalHead(Head):
    """The points of another head, the inner one, corrected by the frames around.

    For each frame of a window, a layer over time gets the inner head's points relative to those of the predicted
    frame, the logarithm of their standard deviation where the inner head predicts one, and the mean of the coarsest
    map. Beside it, the points pass a linear filter over the window, shared by all keypoints, so that the layer need
    not learn to average. The correction is 0 before training.

    Maps are (B, C, h, w) of single images, which count as clips without motion, or (B, T, C, h, w) of clips. In a clip
    the T - past - future frames whose window lies inside are predicted: the output has B (T - past - future) rows.

    Args:
        head: The inner head, any head of single frames: its name, or a mapping with its options. Its own loss is
            trained as well.
        layer: Layer over the window: `lstm`, `gru`, `rnn` (with tanh) or `conv`.
        past: Frames of the window before the predicted one.
        future: Frames of the window after the predicted one; 0 for a prediction without delay.
        width: Width of the layer.
        appearance: Width of a linear layer on the mean of the coarsest map; 0 to leave the map out.
        loss: Weights of the terms: `l1`, `smooth_l1`, `mse` and `wing` of the corrected points, in normalised
            coordinates.
        hardest: Number of points per image that count, those with the largest errors; null for all.
    """

    loss_terms: ClassVar[tuple[str, ...]] = tuple(COORDINATE_LOSSES)

    def __init__(
        self,
        pyramid: PyramidInfo,
        num_keypoints: int,
        *,
        head: str | dict[str, Any] = "heatmap",
        layer: Literal["lstm", "gru", "rnn", "conv"] = "lstm",
        past: Annotated[int, Field(ge=0, le=1000)] = 8,
        future: Annotated[int, Field(ge=0, le=1000)] = 0,
        width: Annotated[int, Field(gt=0)] = 32,
        appearance: Annotated[int, Field(ge=0)] = 16,
        loss: Losses = {"l1": 1.0},  # noqa: B006 (read only)
        hardest: Hardest = None,
    ) -> None:
        super().__init__()
        check_losses(loss, self.loss_terms, "temporal")
        if not past + future:
            raise KpnetError('head "temporal": past and future are 0: there is no other frame to look at')
        self.loss_weights, self.reduce = loss, reducer(hardest)
        self.frame_window = (past, future)
        self.head: Head = HEADS.build(head, pyramid, num_keypoints)
        if sum(self.head.frame_window):
            raise KpnetError('head "temporal": head: expected one of single frames, found another temporal one')
        self.size_divisor, self.predicts_covariance = self.head.size_divisor, self.head.predicts_covariance
        self.appearance = nn.Linear(pyramid.channels[-1], appearance) if appearance else None
        inputs = (3 if self.predicts_covariance else 2) * num_keypoints + appearance
        recurrent = RECURRENT.get(layer)
        self.layer = (
            Convolution(inputs, width, 1 + past + future)
            if recurrent is None
            else recurrent(inputs, width, batch_first=True)
        )
        self.last = nn.Linear(width, 2 * num_keypoints)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.taps = nn.Parameter(torch.zeros(1 + past + future))

    @classmethod
    def window_from_options(cls, options: Mapping[str, Any]) -> tuple[int, int]:
        return int(options.get("past", 8)), int(options.get("future", 0))

    @classmethod
    def strides_from_options(cls, options: Mapping[str, Any]) -> list[int]:
        return strides_of(options.get("head", "heatmap"))

    def forward(self, features: list[Tensor]) -> TemporalOutput:
        past, future = self.frame_window
        clips = features[0].ndim == 5
        inner = self.head([each.flatten(0, 1) for each in features] if clips else features)
        batch, frames = features[0].shape[:2] if clips else (features[0].shape[0], 1)
        predicted = range(past, frames - future) if clips else range(1)
        rows = torch.arange(batch * frames, device=inner.xy.device).view(batch, frames)[:, predicted].flatten()
        with torch.autocast(inner.xy.device.type, enabled=False):  # half precision would round to a fifth of a pixel
            tokens = self.tokens(inner, features[-1]).unflatten(0, (batch, frames))
            if not clips:
                tokens = tokens.expand(-1, 1 + past + future, -1)
            windows = tokens.unfold(1, 1 + past + future, 1).flatten(0, 1).transpose(1, 2)  # (predicted frames, T, D)
            offset = self.correct(windows)
        frame = _rows(inner, rows)
        return TemporalOutput(frame.xy + offset, frame, offset)

    def tokens(self, inner: HeadOutput, coarsest: Tensor) -> Tensor:
        """Return what is known of each frame by itself.

        Args:
            inner: The inner head's output for all frames.
            coarsest: The coarsest map of all frames, (frames, C, h, w) or (B, T, C, h, w).

        Returns:
            Tensor (frames, D): points, the logarithm of their standard deviation, and the mean of the coarsest map.
        """
        dtype = weight_dtype(self.last)
        parts = [inner.xy.to(dtype).flatten(1)]
        if self.predicts_covariance:
            with torch.no_grad():
                covariance = self.head.infer(inner).covariance
                assert covariance is not None
                variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
                parts.append(variance.to(dtype).clamp(min=1e-8).log() / 2 + 4)  # about 0 for 2 % of half the image
        if self.appearance is not None:
            parts.append(coarsest.to(dtype).mean((-2, -1)).flatten(0, -2))
        return torch.cat(parts, 1)

    def correct(self, windows: Tensor) -> Tensor:
        """Return the corrections (N, K, 2) of the predicted frames' points from the tokens of windows (N, T, D)."""
        points = self.last.out_features // 2
        xy, log_scale, mean = windows.tensor_split((2 * points, (2 + self.predicts_covariance) * points), -1)
        moved = SCALE * (xy - xy[:, self.frame_window[0], None])
        tokens = torch.cat([moved, log_scale], -1)
        if self.appearance is not None:
            tokens = torch.cat([tokens, self.appearance(mean)], -1)
        if not isinstance(self.layer, Convolution):  # a quantised LSTM is no nn.RNNBase
            hidden = self.layer(tokens)[0][:, -1] if tokens.shape[0] else tokens.new_zeros(0, self.layer.hidden_size)
        else:
            hidden = self.layer(tokens)
        offset: Tensor = (self.last(hidden) + torch.einsum("ntd,t->nd", moved, self.taps)) / SCALE
        return offset.unflatten(1, (points, 2))

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Compute the inner head's terms, as `frame.TERM`, and those of the corrected points; see `Head.loss`."""
        assert isinstance(output, TemporalOutput)
        inner = {f"frame.{name}": term for name, term in self.head.loss(output.frame, target, weight).items()}
        return inner | self.weighted_terms(lambda name: COORDINATE_LOSSES[name](output.xy, target, weight, self.reduce))

    def denominators(self, weight: Tensor) -> dict[str, Tensor]:
        inner = {f"frame.{name}": count for name, count in self.head.denominators(weight).items()}
        return inner | super().denominators(weight)

    def point_blocks(self) -> dict[str, list[PointBlock]]:
        points = self.last.out_features // 2
        found = {f"head.{key}": blocks for key, blocks in self.head.point_blocks().items()}
        found |= {f"last.{name}": [PointBlock(points, each=2)] for name in ("weight", "bias")}
        tokens = [PointBlock(points, each=2, axis=1)]  # as `correct` joins them
        if self.predicts_covariance:
            tokens.append(PointBlock(points, axis=1, start=2 * points))
        first = "layer.weight_ih_l0" if isinstance(self.layer, nn.RNNBase) else "layer.layers.0.weight"
        return {**found, first: tokens}

    def decode(self, output: HeadOutput) -> Tensor:
        """Return the points that the inner head decodes, corrected."""
        assert isinstance(output, TemporalOutput)
        return self.head.decode(output.frame) + output.offset

    def infer(self, output: HeadOutput) -> Keypoints:
        """Return the inner head's prediction of each predicted frame, with corrected points."""
        assert isinstance(output, TemporalOutput)
        return dataclasses.replace(self.head.infer(output.frame), keypoints=self.decode(output))


def _rows(value: Any, rows: Tensor) -> Any:
    """Return an output with only these rows of every tensor in it, however nested."""
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, list):
        return [_rows(each, rows) for each in value]
    if isinstance(value, dict):
        return {key: _rows(each, rows) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _rows(getattr(value, field.name), rows) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value
