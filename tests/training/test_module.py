"""The LightningModule of supervised training, without a Trainer."""

from __future__ import annotations

import pytest
import torch
from support.recipes import small

from kpnet.config.schema import TrainConfig
from kpnet.core.errors import KpnetError, NotFiniteError
from kpnet.training.module import KeypointModule


def test_weights_that_are_not_finite_end_the_training() -> None:
    """A last step may spoil them where every loss was finite."""
    module = KeypointModule(small(), TrainConfig())
    module.check_epoch(0.5)
    with pytest.raises(KpnetError, match="epoch 1: no training image has a labelled point"):
        module.check_epoch(float("nan"))
    name, parameter = next(module.model.named_parameters())
    with torch.no_grad():
        parameter.view(-1)[0] = torch.inf
    with pytest.raises(
        NotFiniteError, match=rf"the weights \({name}\) are not finite after epoch 1, step 0: lower train"
    ):
        module.check_epoch(0.5)
    with pytest.raises(NotFiniteError, match=r"trainer\.precision=bf16-mixed"):
        KeypointModule(module.model.half(), TrainConfig()).check_epoch(0.5)
