"""A map of the centres of an image's instances, with their boxes and their points."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kpnet import decoding
from kpnet.coordinates import normalized_distance_to_pixel
from kpnet.core.errors import KpnetError
from kpnet.heads.base import HEADS, Head, HeadOutput, Keypoints, Losses, PointBlock, PyramidInfo, check_losses
from kpnet.heads.decoders import DECODERS
from kpnet.heads.scene_targets import Scene, SceneTargets, cell_positions, cells_at, counts, single_scene
from kpnet.losses import COORDINATE_LOSSES, check_shapes, focal2d, generalized_iou
from kpnet.oks import UNKNOWN_SIGMA, suppress_by_oks
from kpnet.uncertainty import CONFIDENCE_RADIUS

INSTANCE_LOSSES = ("centers", "extents")
POINT_LOSSES = ("offsets", "cross_entropy", *COORDINATE_LOSSES)
PRIOR = 0.1  # probability of a cell being a peak, before training
SIDE = 0.3  # distance from a centre to the edges of a box, before training
LONGEST = 4.0  # logarithm of the longest such distance


@dataclass
class Detections:
    """The instances found in one image, best first; in normalised coordinates of the network's input.

    Attributes:
        boxes: Edges x0, y0, x1, y1 (N, 4), in [-1, 1] on the image; they may lie outside.
        scores: Scores (N,) in [0, 1].
        points: Their points (N, K, 2); None for a finder, which predicts none.
    """

    boxes: Tensor
    scores: Tensor
    points: Keypoints | None = None

    def take(self, rows: Tensor) -> Detections:
        """Return some of the instances.

        Args:
            rows: Their indices, in the order that they are to have, or a mask (N,).

        Returns:
            Their boxes, scores and points.
        """
        points = None if self.points is None else self.points.map(lambda values: values[rows])
        return Detections(self.boxes[rows], self.scores[rows], points)


@dataclass
class CentersOutput(HeadOutput):
    """The output of `CentersHead`; `xy` are the points of each image's best instance, or K times its centre.

    Attributes:
        centers: Logits (B, 1, h, w) of a cell holding an instance's centre.
        extents: Distances (B, 4, h, w) above 0 from a cell's centre to the left, top, right and bottom edge of the
            instance's box, in normalised units.
        offsets: Offsets (B, 2 K, h, w) from a cell's centre to the points of its instance, x before y, in normalised
            units; None without points.
        maps: Logits (B, K, h, w) of the points, of which the softmax near an offset's end is read; None without
            points.
    """

    centers: Tensor
    extents: Tensor
    offsets: Tensor | None = None
    maps: Tensor | None = None


@HEADS.register("centers")
class CentersHead(Head):
    """The 0 to N instances of an image: a map of their centres, and at each centre the box and the points.

    An instance is a peak of the map. The cell of the peak predicts the box's edges, and an offset to each point, which
    is refined by the soft-argmax of the point's own map near it, so that a further instance costs next to nothing
    (Zhou et al. 2019, Objects as Points). Without points it is the finder of a model of crops.

    Of two instances whose centres lie in one cell only one is found: that whose centre is nearer to the cell's, or the
    larger. A smaller stride tells them apart.

    Args:
        decoder: Map decoder: its name, or a mapping with its options.
        stride: Input pixels per cell of the maps.
        points: Whether points are predicted, or only centres and boxes.
        window: Cells on each side of an offset's end that are read of the point's map, at most.
        reach: Standard deviation of the Gaussian that weights these cells, as a fraction of half of the longer side of
            the instance's box; at least a cell, and at most half of the window.
        sigma: Standard deviation of the Gaussians that `cross_entropy` compares with, in input pixels.
        loss: Weights of the terms; null for the default, `centers` and `extents` of 1 and, with points, `offsets` of 1,
            `cross_entropy` of 0.1 and `l1` of 1. `centers` is the focal loss of the map of centres; `extents` 1 - GIoU
            of the boxes near the centres; `offsets` the L1 error of the offsets there; `cross_entropy` that of the
            points' maps near the offsets' ends; `l1`, `smooth_l1`, `mse` and `wing` are of the refined points. Errors
            of points are in units of half of the longer side of the instance's box.
        threshold: Least score of an instance.
        max_instances: How many instances of an image are found at most, those of the highest scores.
        overlap: Of two detections that overlap by more, the better is kept: OKS of their points, with a sigma of 0.05
            for all, or without points IoU of their boxes.
    """

    finds_instances = True
    loss_terms: ClassVar[tuple[str, ...]] = (*INSTANCE_LOSSES, *POINT_LOSSES)

    def __init__(
        self,
        pyramid: PyramidInfo,
        num_keypoints: int,
        *,
        decoder: str | Mapping[str, Any] = "top_down",
        stride: Annotated[int, Field(gt=0)] = 4,
        points: bool = True,
        window: Annotated[int, Field(gt=0, le=64)] = 6,
        reach: Annotated[float, Field(gt=0)] = 0.25,
        sigma: Annotated[float, Field(gt=0)] = 3.0,
        loss: Losses | None = None,
        threshold: Annotated[float, Field(gt=0, lt=1)] = 0.3,
        max_instances: Annotated[int, Field(gt=0, le=1000)] = 100,
        overlap: Annotated[float, Field(gt=0, le=1)] = 0.8,
    ) -> None:
        super().__init__()
        if loss is None:
            loss = dict.fromkeys(INSTANCE_LOSSES, 1.0)
            loss |= {"offsets": 1.0, "cross_entropy": 0.1, "l1": 1.0} if points else {}
        check_losses(loss, self.loss_terms, "centers")
        self._check_trained({name for name, weight in loss.items() if weight}, points)
        self.loss_weights = loss
        self.predicts_covariance = points
        self.stride = stride
        self.num_keypoints, self.window, self.reach, self.sigma_cells = num_keypoints, window, reach, sigma / stride
        self.threshold, self.max_instances, self.overlap = threshold, max_instances, overlap
        self.decoder = DECODERS.build(decoder, pyramid, stride)
        self.size_divisor = self.decoder.size_divisor
        width = self.decoder.channels
        self.centers, self.extents = nn.Conv2d(width, 1, 1), nn.Conv2d(width, 4, 1)
        self.offsets = nn.Conv2d(width, 2 * num_keypoints, 1) if points else None
        self.maps = nn.Conv2d(width, num_keypoints, 1) if points else None
        for layer in (self.extents, self.offsets):  # a box about the cell, and every point at its centre, at first
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(self.extents.bias, math.log(SIDE))  # type: ignore[arg-type]
        nn.init.constant_(self.centers.bias, math.log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]

    @staticmethod
    def _check_trained(named: set[str], points: bool) -> None:
        if not points and named & set(POINT_LOSSES):
            raise KpnetError(
                f'head "centers": loss: {", ".join(sorted(named & set(POINT_LOSSES)))} of points, and there are none '
                "with points: false; there are: centers, extents"
            )
        lacking = [name for name in INSTANCE_LOSSES if name not in named]
        if points and not named & {"offsets", *COORDINATE_LOSSES}:
            lacking.append("offsets")
        if points and not named & {"cross_entropy", *COORDINATE_LOSSES}:
            lacking.append("cross_entropy")
        if lacking:
            raise KpnetError(f'head "centers": loss: nothing trains a part of it: add {", ".join(lacking)}')

    def forward(self, features: list[Tensor]) -> CentersOutput:
        x = self.decoder(features)
        extents = self.extents(x)
        extents = (extents if extents.dtype == torch.float64 else extents.float()).clamp(max=LONGEST).exp()
        points = [None if layer is None else layer(x) for layer in (self.offsets, self.maps)]
        output = CentersOutput(extents.new_zeros(0), self.centers(x), extents, *points)
        return dataclasses.replace(output, xy=self._points(output, _highest(output.centers)).keypoints[:, 0])

    # Training

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Compute the terms for one instance in each image, with the box around its points; see `Head.loss`."""
        assert isinstance(output, CentersOutput)
        check_shapes(output.xy, target, weight)
        return self.scene_loss(output, single_scene(target, weight, _size(output.centers)))

    def denominators(self, weight: Tensor) -> dict[str, Tensor]:
        visible = weight > 0
        images = visible.any(-1).sum()
        return self._by_term(images, images, visible.sum())

    def scene_loss(self, output: HeadOutput, scene: Scene) -> dict[str, Tensor]:
        """Compute the terms of the loss for images with 0 to N instances.

        Args:
            output: What `forward` returned.
            scene: The instances of the images: `boxes` (B, M, 4), edges in [-1, 1], NaN in rows without an instance;
                `keypoints` (B, M, K, 2), `visible`, bool (B, M, K), and `weight` (B, M, K); `ignored` (B, I, 4),
                regions that count for nothing, NaN in rows without one, and `partial`, bool (B,), images with instances
                that are not labelled: both may be missing.

        Returns:
            Name to term, a scalar tensor, weighted already.

        Raises:
            ValueError: The shapes do not match.
        """
        assert isinstance(output, CentersOutput)
        boxes, shape = scene["boxes"], tuple(scene["keypoints"].shape)
        if shape != (*boxes.shape[:2], self.num_keypoints, 2) or len(boxes) != len(output.centers):
            raise ValueError(
                f"expected boxes ({len(output.centers)}, M, 4) and keypoints ({len(output.centers)}, M, "
                f"{self.num_keypoints}, 2), got {tuple(boxes.shape)} and {shape}"
            )
        with torch.autocast(boxes.device.type, enabled=False):
            targets = SceneTargets(scene, _size(output.centers), output.extents.dtype)
            number = {name: each.clamp(min=1) for name, each in self.scene_denominators(scene).items()}
            terms = self._terms(output, targets)
            return self.weighted_terms(lambda name: terms[name]() / number[name])

    def scene_denominators(self, scene: Scene) -> dict[str, Tensor]:
        """Return what each term of `scene_loss` is a mean over; see `Head.denominators`.

        Args:
            scene: The instances of the images, as `scene_loss` takes them.

        Returns:
            Name of a term to its number of instances or points, a scalar. For `centers` an image without an instance
            counts as one.
        """
        return self._by_term(*counts(scene))

    def _by_term(self, images: Tensor, instances: Tensor, points: Tensor) -> dict[str, Tensor]:
        by_term = {"centers": images, "extents": instances}
        return {name: by_term.get(name, points) for name, factor in self.loss_weights.items() if factor}

    def _terms(self, output: CentersOutput, targets: SceneTargets) -> dict[str, Callable[[], Tensor]]:
        """Return name to a function that gives the unweighted term, a sum over instances or points."""

        def refined(name: str) -> Tensor:
            center = cell_positions(targets.cell, targets.size, targets.boxes.dtype)
            read = self._points(output, targets.cell).keypoints
            found, true = (self._relative(each, center, targets) for each in (read, targets.points))
            # An instance whose cell is another's learns nothing of it.
            found = torch.where(targets.own[:, :, :1, None], found, true)
            weight = targets.weight.flatten(0, 1)
            mean = COORDINATE_LOSSES[name](found.flatten(0, 1), true.flatten(0, 1), weight)
            return mean * (weight > 0).sum()

        return {
            "centers": lambda: focal2d(output.centers, *targets.centers_map()).sum(),
            "extents": lambda: (self._extent_errors(output, targets) * targets.share).sum(),
            "offsets": lambda: (self._offset_errors(output, targets) * targets.weight).sum(),
            "cross_entropy": lambda: (self._map_errors(output, targets) * targets.weight).sum(),
            **{name: functools.partial(refined, name) for name in COORDINATE_LOSSES},
        }

    @staticmethod
    def _relative(points: Tensor, center: Tensor, targets: SceneTargets) -> Tensor:
        """Return points (B, M, K, 2) relative to centres (B, M, 2), in units of half of the box's longer side."""
        cells = normalized_distance_to_pixel(points - center[:, :, None], targets.size)
        return cells / targets.half[..., None, None]

    def _extent_errors(self, output: CentersOutput, targets: SceneTargets) -> Tensor:
        """Return 1 - GIoU (B, M), the mean of each instance's own cells."""
        near = targets.near.flatten(1, 2)
        boxes = self._boxes(output, near).unflatten(1, targets.near.shape[1:3])
        return _mean_of_own(generalized_iou(boxes, targets.boxes[:, :, None].expand_as(boxes)), targets.own)

    def _offset_errors(self, output: CentersOutput, targets: SceneTargets) -> Tensor:
        """Return the L1 errors (B, M, K) of the offsets, the mean of each instance's own cells."""
        near = targets.near.flatten(1, 2)
        votes = self._votes(output, near).unflatten(1, targets.near.shape[1:3])  # (B, M, 9, K, 2)
        cells = normalized_distance_to_pixel(votes - targets.points[:, :, None], targets.size)
        errors = cells.abs().mean(-1) / targets.half[..., None, None]
        errors = torch.where(targets.visible[:, :, None], errors, 0)
        return _mean_of_own(errors.movedim(-1, 2), targets.own[:, :, None])

    def _map_errors(self, output: CentersOutput, targets: SceneTargets) -> Tensor:
        """Return the cross-entropies (B, M, K) of the maps near the offsets' ends, 0 in a cell of another instance."""
        local = self._local(output, targets.cell)
        errors = local.cross_entropy(targets.points.flatten(0, 1), self.sigma_cells).unflatten(0, targets.there.shape)
        return torch.where(targets.visible & targets.own[:, :, :1], errors, 0)

    # Prediction

    def find(self, output: HeadOutput, threshold: float | None = None, limit: int | None = None) -> list[Detections]:
        """Find the instances of each image.

        Args:
            output: What `forward` returned.
            threshold: Least score of an instance; None for that of the head.
            limit: How many instances of an image are found at most; None for that of the head.

        Returns:
            The instances of each of the B images, best first; the boxes of a finder, or boxes and points.
        """
        assert isinstance(output, CentersOutput)
        from torchvision.ops import nms  # imported here, as most of what imports heads never finds instances

        limit = self.max_instances if limit is None else limit
        logits, cells = (each[:, 0] for each in decoding.peaks2d(output.centers, limit))
        scores = logits.sigmoid()
        kept = logits.isfinite() & (scores >= (self.threshold if threshold is None else threshold))
        image = torch.arange(len(scores), device=scores.device)[:, None].expand_as(scores)[kept]
        scores, boxes = scores[kept], self._boxes(output, cells)[kept]
        if output.maps is None:
            # Not batched_nms: it sets the images apart by an offset that holds for coordinates of at least 0.
            own = [(image == i).nonzero()[:, 0] for i in range(len(output.centers))]
            rows = [each[nms(boxes[each], scores[each], self.overlap)] for each in own]
            return [Detections(boxes[each], scores[each]) for each in rows]
        votes = self._votes(output, cells)[kept]
        read = _read(self._near(output, votes, boxes, image), uncertainty=True)
        rows = [(image == i).nonzero()[:, 0] for i in range(len(output.centers))]
        rows = [each[self._different(read.keypoints[each], scores[each], boxes[each], output)] for each in rows]
        return [Detections(boxes, scores, read).take(each) for each in rows]

    def _different(self, points: Tensor, scores: Tensor, boxes: Tensor, output: CentersOutput) -> Tensor:
        """Return the indices of an image's detections that are no repetitions of better ones, best first."""
        points, sides = (
            normalized_distance_to_pixel(each, _size(output.centers)) for each in (points, boxes[:, 2:] - boxes[:, :2])
        )
        sigmas = [UNKNOWN_SIGMA] * self.num_keypoints
        return suppress_by_oks(points, scores, sides.prod(-1), sigmas, self.overlap)

    def read(self, output: HeadOutput, boxes: Tensor) -> Keypoints:
        """Read the points of instances whose boxes are known.

        Args:
            output: What `forward` returned.
            boxes: Boxes (B, M, 4), edges x0, y0, x1, y1 in [-1, 1]; rows of NaN give points of no meaning.

        Returns:
            Points (B, M, K, 2), confidence (B, M, K) and covariance (B, M, K, 2, 2); without points K times the
            centre of the box that is found there, and neither of the others.
        """
        assert isinstance(output, CentersOutput)
        cells = cells_at((boxes[..., :2] + boxes[..., 2:]) / 2, _size(output.centers))
        return self._points(output, cells, uncertainty=True)

    def infer(self, output: HeadOutput) -> Keypoints:
        assert isinstance(output, CentersOutput)
        found = self._points(output, _highest(output.centers), uncertainty=True)
        return found.map(lambda values: values[:, 0])

    def point_blocks(self) -> dict[str, list[PointBlock]]:
        if self.offsets is None:
            return {}
        layers = {"maps": PointBlock(self.num_keypoints), "offsets": PointBlock(self.num_keypoints, each=2)}
        return {f"{layer}.{name}": [block] for layer, block in layers.items() for name in ("weight", "bias")}

    def _boxes(self, output: CentersOutput, cells: Tensor) -> Tensor:
        """Return the boxes (B, N, 4) that cells (B, N, 2) predict."""
        center, extents = cell_positions(cells, _size(output.centers), output.extents.dtype), _at(output.extents, cells)
        return torch.cat([center - extents[..., :2], center + extents[..., 2:]], -1)

    def _votes(self, output: CentersOutput, cells: Tensor) -> Tensor:
        """Return the points (B, N, K, 2) that the offsets of cells (B, N, 2) lead to."""
        center = cell_positions(cells, _size(output.centers), output.extents.dtype)
        return center[:, :, None] + _at(_there(output.offsets).to(center.dtype), cells).unflatten(-1, (-1, 2))

    def _points(self, output: CentersOutput, cells: Tensor, uncertainty: bool = False) -> Keypoints:
        """Return the points (B, N, K, 2) of the instances at cells (B, N, 2)."""
        if output.maps is None:
            low, high = self._boxes(output, cells).unflatten(-1, (2, 2)).unbind(-2)
            return Keypoints(((low + high) / 2)[:, :, None].expand(-1, -1, self.num_keypoints, -1))
        found = _read(self._local(output, cells), uncertainty)
        return found.map(lambda values: values.unflatten(0, cells.shape[:2]))

    def _local(self, output: CentersOutput, cells: Tensor) -> decoding.LocalMaps:
        """Return the points' maps near the offsets' ends of cells (B, N, 2), with B N rows."""
        image = torch.arange(cells.shape[0], device=cells.device)[:, None].expand(cells.shape[:2])
        votes, boxes = self._votes(output, cells), self._boxes(output, cells)
        return self._near(output, votes.flatten(0, 1), boxes.flatten(0, 1), image.flatten())

    def _near(self, output: CentersOutput, votes: Tensor, boxes: Tensor, image: Tensor) -> decoding.LocalMaps:
        """Return the points' maps near votes (N, K, 2) of instances with boxes (N, 4), in the images (N,)."""
        sides = normalized_distance_to_pixel(boxes[:, 2:] - boxes[:, :2], _size(output.centers)).detach()
        sigma = (self.reach * sides.amax(-1) / 2).clamp(1.0, max(1.0, self.window / 2))
        return decoding.local_softmax2d(_there(output.maps), votes, image, self.window, sigma)


def _read(local: decoding.LocalMaps, uncertainty: bool) -> Keypoints:
    """Return the points (N, K, 2) of maps near them."""
    xy = local.mean()
    if not uncertainty:
        return Keypoints(xy)
    return Keypoints(xy, local.mass_within(xy, CONFIDENCE_RADIUS), local.covariance(xy))


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]


def _highest(maps: Tensor) -> Tensor:
    """Return whole x, y (B, 1, 2) of the highest cell of maps (B, 1, h, w)."""
    index = maps.detach().flatten(1).argmax(1)
    row = torch.div(index, maps.shape[-1], rounding_mode="floor")  # not `//` and `%`: ONNX knows no width yet
    return torch.stack([index - row * maps.shape[-1], row], -1)[:, None]


def _at(maps: Tensor, cells: Tensor) -> Tensor:
    """Return the values (B, N, C) of maps (B, C, h, w) at cells (B, N, 2)."""
    index = cells[..., 1] * maps.shape[-1] + cells[..., 0]
    return maps.flatten(2).gather(2, index[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)


def _mean_of_own(errors: Tensor, own: Tensor) -> Tensor:
    """Return the mean of errors (..., 9) over the cells that are an instance's own; 0 if there is none."""
    return torch.where(own, errors, 0).sum(-1) / own.sum(-1).clamp(min=1)


def _there(maps: Tensor | None) -> Tensor:
    """Return maps that a head with points has."""
    assert maps is not None
    return maps
