"""Averages of the weights against averages taken by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kpnet.config.optim import EMA, SWA
from kpnet.training.weight_averaging import weight_average

STEPS = 3  # an epoch


class Climber(pl.LightningModule):
    """One weight that is 0 and grows by 1 each step; a buffer that counts the steps too."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("count", torch.zeros(1))
        self.validated: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.count += 1
        return -self.weight.sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(self.weight.item())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def climbed(
    settings: EMA | SWA, epochs: int, folder: Path, dtype: torch.dtype = torch.float32, resume: Path | None = None
) -> Climber:
    steps: Any = torch.zeros(STEPS, 1)
    module = Climber().to(dtype)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[
            weight_average(settings, epochs, half=dtype != torch.float32),
            ModelCheckpoint(folder / str(epochs), save_last=True, save_top_k=0),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(module, DataLoader(steps, batch_size=1), DataLoader(steps[:1]), ckpt_path=resume)
    return module


def test_ema_by_hand(tmp_path: Path) -> None:
    """The average starts at the weights of the first step; validation and the end see it."""
    module = climbed(EMA(decay=0.8), 2, tmp_path)
    averages = [1.0]
    for weight in range(2, 2 * STEPS + 1):
        averages.append(0.8 * averages[-1] + 0.2 * weight)
    assert module.weight.item() == pytest.approx(averages[-1], rel=1e-6)
    assert module.validated == pytest.approx([averages[STEPS - 1], averages[-1]], rel=1e-6)


def test_an_average_of_weights_of_16_bits_is_kept_in_32(tmp_path: Path) -> None:
    """In bfloat16, 1 + 0.001 (2 - 1) is 1, and the average would never move."""
    module = climbed(EMA(decay=0.999), 2, tmp_path, torch.bfloat16)
    averages = [1.0]
    for weight in range(2, 2 * STEPS + 1):
        averages.append(0.999 * averages[-1] + 0.001 * weight)
    rounded = torch.tensor(averages).bfloat16()
    assert rounded[-1] > 1
    assert (module.weight.dtype, module.weight.item()) == (torch.bfloat16, rounded[-1].item())
    assert module.validated == [rounded[STEPS - 1].item(), rounded[-1].item()]


@pytest.mark.parametrize(("start", "first"), [(0.5, 2), (0.0, 0), (0.99, 3), (0.74, 2)])
def test_swa_is_the_mean_of_the_last_epochs_ends(start: float, first: int, tmp_path: Path) -> None:
    """Epochs end at 3, 6, 9 and 12; until the first that counts is over, validation sees the weights as they are."""
    module = climbed(SWA(start=start), 4, tmp_path)
    ends = [3.0 * (epoch + 1) for epoch in range(4)]
    assert module.weight.item() == pytest.approx(sum(ends[first:]) / len(ends[first:]))
    seen = [end if epoch <= first else sum(ends[first:epoch]) / (epoch - first) for epoch, end in enumerate(ends)]
    assert module.validated == pytest.approx(seen)


@pytest.mark.parametrize(("start", "epochs", "first"), [(0.5, 4, 2), (0.6, 5, 3)])
def test_a_lengthened_training_averages_its_new_last_epochs(
    start: float, epochs: int, first: int, tmp_path: Path
) -> None:
    """After two epochs, the second of which was averaged, also where the new ones begin with the next epoch."""
    climbed(SWA(start=start), 2, tmp_path)
    module = climbed(SWA(start=start), epochs, tmp_path, resume=tmp_path / "2" / "last.ckpt")
    ends = [3.0 * (epoch + 1) for epoch in range(epochs)]
    assert module.weight.item() == pytest.approx(sum(ends[first:]) / len(ends[first:]))
