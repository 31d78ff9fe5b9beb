"""Metrics that accumulate over batches and ranks, with torchmetrics."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.skeleton import Skeleton
from kpnet.metrics import MEASURES, check_points, overall_measures
from kpnet.models.loss_terms import LossTerms


class WeightedMean(Metric):
    """A weighted mean over batches and ranks, such as that of the loss over an epoch.

    Unlike torchmetrics' `MeanMetric` it does not look for NaN in each update, for which a GPU would have to wait: a
    value that is not finite makes the mean so, unless its weight is 0.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "weight"):
            self.add_state(name, default=torch.zeros(()), dist_reduce_fx="sum")

    def update(self, values: Tensor, weights: Tensor) -> None:
        """Add values.

        Args:
            values: Values of any shape.
            weights: Their weights, of a shape that broadcasts to it; bool or whole numbers too.
        """
        self.total += torch.where(weights > 0, values * weights, 0).sum()
        self.weight += weights.broadcast_to(values.shape).sum()

    def compute(self) -> Tensor:
        """Return the mean of everything that was added, a scalar; NaN where the weights sum to 0."""
        return self.total / self.weight


class KeypointMetric(Metric):
    """One measure of accumulated predictions, over all ranks.

    Args:
        measure: Which of `kpnet.metrics.MEASURES`, as `evaluate_points` defines them.
        skeleton: Names of the points.
        size: Height and width of the images in pixels.

    Raises:
        KpnetError: There is no such measure.
    """

    full_state_update = False
    predicted: list[Tensor]
    target: list[Tensor]
    visible: list[Tensor]

    def __init__(self, measure: str, skeleton: Skeleton, size: tuple[int, int]) -> None:
        super().__init__()
        if measure not in MEASURES:
            known = ", ".join(MEASURES)
            raise KpnetError(f'unknown measure "{measure}"{did_you_mean(measure, MEASURES)}; there are: {known}')
        self.measure, self.skeleton, self.size = measure, skeleton, size
        for name in ("predicted", "target", "visible"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, predicted: Tensor, target: Tensor, visible: Tensor) -> None:
        """Add predictions.

        Args:
            predicted: Predicted points (B, K, 2), normalised.
            target: True points (B, K, 2), normalised.
            visible: Bool (B, K).

        Raises:
            ValueError: The shapes do not fit.
        """
        check_points(predicted, target, visible)
        self.predicted.append(predicted.detach().float())
        self.target.append(target)
        self.visible.append(visible)

    def compute(self) -> Tensor:
        """Return the measure of everything that was added, a scalar; NaN where nothing is visible."""
        # A process without any data has nothing to concatenate.
        none = torch.zeros(0, len(self.skeleton), 2)
        states = (self.predicted, none), (self.target, none), (self.visible, none[..., 0].bool())
        parts = [(torch.cat(x) if x else empty) if isinstance(x, list) else x for x, empty in states]
        measures = overall_measures(parts[0], parts[1], parts[2], self.skeleton, self.size)
        return torch.tensor(measures[self.measure], device=self.device)


class KeypointMetrics(MetricCollection):
    """Several measures of the same accumulated predictions; a LightningModule logs it with `self.log_dict(metrics)`.

    Args:
        skeleton: Names of the points.
        size: Height and width of the images in pixels.
        measures: Which of `kpnet.metrics.MEASURES`.
        prefix: Put before the names of the measures, such as "val_".

    Raises:
        KpnetError: There is no such measure.

    Example:
        ```python
        self.metrics = KeypointMetrics(model.skeleton, model.config.input_size, prefix="val_")  # in __init__
        self.metrics.update(model(batch["image"]), batch["keypoints"], batch["visible"])  # in validation_step
        self.log_dict(self.metrics)
        ```
    """

    def __init__(
        self,
        skeleton: Skeleton,
        size: tuple[int, int],
        measures: Iterable[str] = ("score", "rmse_px", "mre_px", "nme"),
        prefix: str | None = None,
    ) -> None:
        names = list(measures)
        # One group: the predictions are kept once.
        super().__init__(
            {name: KeypointMetric(name, skeleton, size) for name in names}, prefix=prefix, compute_groups=[names]
        )


class LossMean(Metric):
    """The loss of all batches as one, over all ranks; NaN where no point was visible.

    Args:
        terms: Number of terms.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(terms), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(terms), dist_reduce_fx="sum")

    def update(self, terms: LossTerms) -> None:
        """Add the terms of a batch."""
        self.total += terms.values.detach() * terms.counts
        self.count += terms.counts

    def compute(self) -> Tensor:
        """Return the loss, a scalar."""
        nothing = (self.count == 0).all()
        return torch.where(nothing, torch.nan, (self.total / self.count.clamp(min=1)).sum())
