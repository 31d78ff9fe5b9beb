"""The contract of a head: what it is given, what it returns, and what heads share."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.registry import Registry, split_spec
from kpnet.core.validation import check_options
from kpnet.losses import Reduce, mean_over_visible, ohkm, points_averaged

if TYPE_CHECKING:
    from kpnet.heads.head_report import HeadReport

Losses = dict[str, float]
"""The option `loss`: name of a term to its weight."""
Hardest = Annotated[int, Field(gt=0)] | None
"""The option `hardest`: how many points of each image count, or None for all."""
POINT_VALUES = ("confidence", "covariance", "presence", "radius", "joint_radius")
"""Names of what a prediction may know of each point."""


@dataclass
class PyramidInfo:
    """The shapes of the feature maps that a head will be given, finest map first.

    Attributes:
        channels: Channels of each map.
        strides: Input pixels per cell of each map.
        sizes: Height and width of each map at the configured input size, in cells.
    """

    channels: list[int]
    strides: list[int]
    sizes: list[tuple[int, int]]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that the finest map covers, in input pixels."""
        height, width = self.sizes[0]
        return height * self.strides[0], width * self.strides[0]


@dataclass
class HeadOutput:
    """What a head computes in training and prediction alike.

    A head whose loss or confidence needs more than the coordinates returns a subclass with further tensors.

    Attributes:
        xy: Keypoints (B, K, 2) in [-1, 1], x before y, differentiable. (-1, -1) is the top left corner of the image.
        presence: Logits (B, K) of the points being there, which the model adds where it predicts presence.
    """

    xy: Tensor
    presence: Tensor | None = field(default=None, kw_only=True)


@dataclass
class Keypoints:
    """The prediction of `model.infer`, in normalised coordinates.

    Attributes:
        keypoints: Points (B, K, 2) in [-1, 1], x before y.
        confidence: Probability (B, K) that the true point lies within 5 % of the image's longer side; None where the
            head has no uncertainty.
        covariance: Covariance (B, K, 2, 2) of the points' errors, in squared normalised units; None where the head has
            no uncertainty.
        heatmaps: Probability maps (B, K, h, w), each of sum 1; None where the head has no maps.
        dof: Degrees of freedom of the Student t that the errors follow, once calibrated; infinite for normal errors.
            The ellipse that holds the true point with probability p is `kpnet.uncertainty.ellipse_radius(p, dof)`
            standard deviations wide.
        presence: Probability (B, K) that the point is there: inside the image, and seen. The confidence is then the
            probability of being there and within 5 %. None where the model does not predict it.
        radius: Distance (B, K) that the point's error stays below as `kpnet guarantee` promised, as a fraction of the
            image's longer side. None without a guarantee.
        joint_radius: The same for all points of an image at once.
    """

    keypoints: Tensor
    confidence: Tensor | None = None
    covariance: Tensor | None = None
    heatmaps: Tensor | None = None
    dof: float = math.inf
    presence: Tensor | None = None
    radius: Tensor | None = None
    joint_radius: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Keypoints:
        """Return a copy with all tensors but the heatmaps, which it lacks, as a function returns them.

        Args:
            function: From a tensor (B, K, …) to another one, such as some of its rows.

        Returns:
            The prediction.
        """
        values = {name: getattr(self, name) for name in ("keypoints", *POINT_VALUES)}
        mapped: dict[str, Any] = {name: None if each is None else function(each) for name, each in values.items()}
        return replace(self, heatmaps=None, **mapped)

    @staticmethod
    def concatenate(parts: Sequence[Keypoints]) -> Keypoints:
        """Join predictions of one model.

        Args:
            parts: The predictions, at least one.

        Returns:
            All of their rows in one prediction, on the CPU and without heatmaps.
        """
        first = parts[0]
        rows = {
            name: torch.cat([getattr(part, name).cpu() for part in parts])
            for name in ("keypoints", *POINT_VALUES)
            if getattr(first, name) is not None
        }
        return Keypoints(**rows, dof=first.dof)


@dataclass(frozen=True)
class PointBlock:
    """Rows of a tensor that belong to points: along `axis`, from `start` on, `each` rows for every point, in order.

    Attributes:
        points: Number of points.
        each: Rows of one point.
        axis: Axis of the tensor.
        start: Its first row that belongs to a point.
    """

    points: int
    each: int = 1
    axis: int = 0
    start: int = 0


class Head(nn.Module):
    """A network from feature maps to keypoints. It knows nothing of images or YAML.

    A subclass is built as `cls(pyramid, num_keypoints, **options)`. Its keyword-only parameters are the options that a
    config may set: their annotations are checked, and `Args:` in the class docstring describes them. It implements
    `forward` and `loss`; `decode` and `infer` where the prediction is more than `output.xy`.

    A training step sums the terms of `head.loss(head(features), target, weight)`; a prediction is
    `head.infer(head(features))`.

    Example:
        ```python
        @HEADS.register("linear")
        class LinearHead(Head):
            loss_terms = tuple(COORDINATE_LOSSES)
            predicts_covariance = False

            def __init__(
                self, pyramid: PyramidInfo, num_keypoints: int, *, loss: Losses = {"l1": 1.0}, hardest: Hardest = None
            ) -> None:
                super().__init__()
                check_losses(loss, self.loss_terms, "linear")
                self.loss_weights, self.reduce = loss, reducer(hardest)
                self.layer = nn.Linear(pyramid.channels[-1], 2 * num_keypoints)

            def forward(self, features: list[Tensor]) -> HeadOutput:
                return HeadOutput(self.layer(features[-1].mean((-2, -1))).unflatten(1, (-1, 2)))

            def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
                return self.weighted_terms(
                    lambda name: COORDINATE_LOSSES[name](output.xy, target, weight, self.reduce)
                )
        ```
    """

    size_divisor: int = 1
    """What the height and width of the images must be multiples of."""
    predicts_covariance: bool = True
    """Whether `infer` returns a covariance."""
    loss_terms: ClassVar[tuple[str, ...]] = ()
    """Names of the terms that the option `loss` may weight."""
    loss_weights: dict[str, float]
    """Name of a term to its weight; set by heads with an option `loss`."""
    reduce: Reduce = staticmethod(mean_over_visible)
    """Turns errors and weights (B, K) into a term of the loss; set by heads with an option `hardest`."""
    frame_window: tuple[int, int] = (0, 0)
    """Frames before and after the predicted one that the head looks at. Where this is not (0, 0), `forward` takes the
    maps of clips, (B, T, C, h, w), too."""

    finds_instances: ClassVar[bool] = False
    """Whether it finds the 0 to N instances of an image, as the head `centers` does."""

    loaded: HeadReport | None = None
    """What was taken from a trained head; None if nothing was."""

    @classmethod
    def window_from_options(cls, options: Mapping[str, Any]) -> tuple[int, int]:
        """Return the `frame_window` of a head with these options; the data needs it before the head is built.

        Args:
            options: The head's options in the config.

        Returns:
            Frames before and after the predicted one.
        """
        return cls.frame_window

    @classmethod
    def strides_from_options(cls, options: Mapping[str, Any]) -> list[int]:
        """Return the strides of the maps that a head with these options makes of the backbone's.

        Args:
            options: The head's options in the config.

        Returns:
            The option `stride`, where the head has one; a head that contains others returns theirs.
        """
        stride = inspect.signature(cls).parameters.get("stride")
        return [] if stride is None else [options.get("stride", stride.default)]

    def forward(self, features: list[Tensor]) -> HeadOutput:
        """Compute the output from feature maps.

        Args:
            features: The backbone's maps (B, C, h, w), finest first, as the `PyramidInfo` describes them. Other sizes
                than the configured one are allowed.

        Returns:
            The keypoints, and what `loss` and `infer` need besides.

        Raises:
            KpnetError: The head is bound to the configured input size, and the maps have another.
        """
        raise NotImplementedError

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Compute the terms of the loss.

        Args:
            output: What `forward` returned.
            target: True keypoints (B, K, 2) in [-1, 1]; anything, even NaN, where `weight` is 0.
            weight: Weights (B, K) of the points; 0 for an absent point, which touches no loss and no gradient.

        Returns:
            Name to term, a scalar tensor. The terms are weighted already: their sum is the loss.

        Raises:
            ValueError: The shapes do not match.
        """
        raise NotImplementedError

    def weighted_terms(self, term: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Compute the terms of `loss_weights`, each times its weight; `loss` of most heads returns this.

        Args:
            term: Returns the unweighted term of a name. It is not called for terms of weight 0.

        Returns:
            Name to weighted term.
        """
        return {name: weight * term(name) for name, weight in self.loss_weights.items() if weight}

    def denominators(self, weight: Tensor) -> dict[str, Tensor]:
        """Return how many points each term of the loss is a mean over.

        Batches, and the processes of a training, are weighted by it: the mean of their terms is then that of one batch
        with all their images.

        Args:
            weight: Weights (B, K), as `loss` takes them.

        Returns:
            Name of a term to its number of points, a scalar: what `reduce` averages over, for the names in
            `loss_weights`. A term without a number counts as a mean over the visible points.
        """
        names = [name for name, factor in getattr(self, "loss_weights", {}).items() if factor]
        return dict.fromkeys(names, points_averaged(weight, self.reduce))

    def point_blocks(self) -> dict[str, list[PointBlock]]:
        """Say which rows of the weights belong to which point, so that a training can go on with other points.

        Returns:
            Name of a tensor in `state_dict` to its rows that belong to points, all along one axis. Nothing is said by
            default: then the weights are taken only for the same points in the same order.
        """
        return {}

    def decode(self, output: HeadOutput) -> Tensor:
        """Return the predicted keypoints alone.

        Args:
            output: What `forward` returned.

        Returns:
            Points (B, K, 2) in [-1, 1]: `output.xy`, unless the head predicts otherwise than it trains.
        """
        return output.xy

    def infer(self, output: HeadOutput) -> Keypoints:
        """Return the prediction with the uncertainty that the head has.

        Args:
            output: What `forward` returned.

        Returns:
            The keypoints of `decode`; confidence, covariance and heatmaps where the head has them.
        """
        return Keypoints(self.decode(output))


HEADS: Registry[type[Head]] = Registry("head")


def weight_dtype(layer: nn.Module) -> torch.dtype:
    """Return the dtype of a layer's weights; float32 for one that has no parameters, such as a quantised one."""
    return next((p.dtype for p in layer.parameters()), torch.float32)


def window_of(spec: str | Mapping[str, Any]) -> tuple[int, int]:
    """Return how many frames around the predicted one the head of a config looks at.

    Args:
        spec: The head's name, or a mapping `{"name": …, option: …}`.

    Returns:
        Frames before and after the predicted one; (0, 0) for a head of single frames.

    Raises:
        KpnetError: The head or an option is unknown.
    """
    name, options = split_spec(spec, "head")
    head = HEADS.find(name)
    return head.window_from_options(check_options(head, options, f'head "{name}"'))


def strides_of(spec: str | Mapping[str, Any]) -> list[int]:
    """Return the strides of the maps that the head of a config makes of the backbone's.

    Args:
        spec: The head's name, or a mapping `{"name": …, option: …}`.

    Returns:
        Input pixels per cell of each map; none for a head without such maps.

    Raises:
        KpnetError: The head is unknown.
    """
    name, options = split_spec(spec, "head")
    return HEADS.find(name).strides_from_options(options)


def finds_instances(spec: str | Mapping[str, Any]) -> bool:
    """Return whether the head of a config finds the instances of whole images.

    Args:
        spec: The head's name, or a mapping `{"name": …, option: …}`.

    Returns:
        Whether it does.

    Raises:
        KpnetError: The head is unknown.
    """
    return HEADS.find(split_spec(spec, "head")[0]).finds_instances


def reducer(hardest: int | None) -> Reduce:
    """Return the function from errors (B, K) and weights (B, K) to a loss.

    Args:
        hardest: How many points of each image count, those with the largest errors (online hard keypoint mining; Chen
            et al. 2018, Cascaded Pyramid Network for Multi-Person Pose Estimation). None for all visible points.

    Returns:
        The reduction, as the `reduce` argument of the functions in `kpnet.losses`.
    """
    return mean_over_visible if hardest is None else ohkm(hardest)


def check_losses(weights: dict[str, float], known: Iterable[str], head: str) -> None:
    """Check the weights of an option `loss`.

    Args:
        weights: Name of a term to its weight.
        known: Names of the terms that the head has.
        head: The head's name, for the message.

    Raises:
        KpnetError: A term is unknown, a weight is negative or not finite, or no weight is above 0.
    """
    for name, weight in weights.items():
        if name not in known:
            raise KpnetError(
                f'unknown loss "{name}" for head "{head}"{did_you_mean(name, known)}; there are: {", ".join(known)}'
            )
        if not 0 <= weight < math.inf:
            raise KpnetError(f'head "{head}": loss {name}: expected a finite weight of at least 0, found {weight}')
    if not any(weights.values()):
        raise KpnetError(f'head "{head}": loss: expected at least one weight above 0, e.g. {{l1: 1.0}}')
