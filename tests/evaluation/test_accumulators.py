"""Metrics that accumulate: the same as all predictions at once, and what Lightning's loggers take."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.evaluation.accumulators import KeypointMetric, KeypointMetrics, LossMean
from kpnet.metrics import MEASURES, evaluate_points
from kpnet.models.loss_terms import LossTerms

SIZE = (32, 48)
EYES = Skeleton(("left", "right", "nose"), pairs=(("left", "right"),), nme=("left", "right"))


def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(7, 3, 2, generator=generator) * 2 - 1
    predicted = target + 0.05 * torch.randn(7, 3, 2, generator=generator)
    return predicted, target, torch.rand(7, 3, generator=generator) > 0.2


def same(found: dict[str, Tensor], expected: dict[str, Any]) -> None:
    assert all(value.ndim == 0 for value in found.values())
    for name, value in found.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-6, nan_ok=True), name


@pytest.mark.parametrize("batches", [[7], [1, 1, 5], [3, 1, 3], [4, 3]])
def test_accumulating_uneven_batches_equals_one_shot(batches: list[int]) -> None:
    metrics = KeypointMetrics(EYES, SIZE, MEASURES)
    for parts in zip(*(x.split(batches) for x in example()), strict=True):
        metrics.update(*parts)
    found = metrics.compute()
    assert found.keys() == set(MEASURES)
    same(found, evaluate_points(*example(), EYES, SIZE))


def test_reset_forgets_and_updates_hold_no_graph() -> None:
    predicted, target, visible = example()
    metrics = KeypointMetrics(EYES, SIZE)
    metrics.update(predicted * 2, target, visible)
    metrics.reset()
    metrics.update(predicted.requires_grad_(), target, visible)
    (score,) = (each for name, each in metrics.items() if name == "score")
    assert isinstance(score, KeypointMetric)
    assert not score.predicted[0].requires_grad
    same(metrics.compute(), evaluate_points(predicted.detach(), target, visible, EYES, SIZE))


@pytest.mark.filterwarnings("ignore:.*compute.*was called before")
def test_a_process_without_data_gives_nan() -> None:
    assert all(math.isnan(value) for value in KeypointMetrics(EYES, SIZE).compute().values())


def test_wrong_shapes_and_measures_are_told() -> None:
    predicted, target, visible = example()
    with pytest.raises(ValueError, match=r"expected points \(N, K, 2\) twice"):
        KeypointMetrics(EYES, SIZE).update(predicted, target[:6], visible)
    with pytest.raises(KpnetError, match=r'unknown measure "rsme_px" \(did you mean "rmse_px"\?\); there are: score'):
        KeypointMetrics(EYES, SIZE, ["rsme_px"])


class Own(pl.LightningModule):
    """Somebody else's module, which logs the metrics in three ways."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.metrics, self.by_hand = KeypointMetrics(EYES, SIZE, prefix="val_"), KeypointMetrics(EYES, SIZE)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self.layer(batch[0].mean().view(1, 1)).sum()

    def validation_step(self, batch: Any, index: int) -> None:
        self.metrics.update(*batch)
        self.log_dict(self.metrics)
        self.by_hand.update(*batch)
        self.log("one", self.by_hand["score"])

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.by_hand.compute())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_lightning_module_logs_them() -> None:
    samples: Any = list(zip(*example(), strict=True))
    loader: DataLoader[Any] = DataLoader(samples, batch_size=3)
    quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, **quiet)
    trainer.fit(Own(), loader, loader)
    logged, expected = trainer.callback_metrics, evaluate_points(*example(), EYES, SIZE)
    assert logged["one"].item() == pytest.approx(expected["score"], rel=1e-6)
    for name in ("score", "rmse_px", "mre_px", "nme"):
        same({name: logged[name]}, expected)
        same({name: logged[f"val_{name}"]}, expected)


@pytest.mark.filterwarnings("ignore:.*compute.*was called before")
def test_the_mean_of_a_loss_weighs_each_term_by_its_points() -> None:
    """3 points of 2 and 1 point of 6 are 4 points of 3; the other term has a point of 1 in the first batch alone."""
    mean = LossMean(2)
    assert math.isnan(mean.compute().item())
    mean.reset()
    mean.update(LossTerms(torch.tensor([2.0, 1.0]), torch.tensor([3.0, 1.0])))
    mean.update(LossTerms(torch.tensor([6.0, 0.0]), torch.tensor([1.0, 0.0])))
    assert mean.compute().item() == 4
