"""The memory of a step of training is known before it is taken."""

from __future__ import annotations

import pytest
import torch

from kpnet import KpnetError, build_model
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.memory import check_training_memory


@pytest.fixture
def model() -> KeypointModel:
    options = {"name": "conv_sandwich", "channels": [8, 16], "norm": "batch"}
    return build_model(backbone=options, head="heatmap", num_keypoints=2, input_size=32, in_channels=1)


def maps(model: KeypointModel) -> int:
    """Bytes of the outputs of all layers, from a forward pass on values."""
    sizes: list[int] = []
    for module in model.backbone.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, inputs, output: sizes.append(4 * output.numel()))
    model.eval().backbone(torch.zeros(1, 1, 32, 32))
    return sum(sizes)


def test_a_step_keeps_the_maps_of_every_image(model: KeypointModel, monkeypatch: pytest.MonkeyPatch) -> None:
    need = 8 * maps(model)
    monkeypatch.setattr("kpnet.models.memory.available_memory", lambda: need / 2)
    check_training_memory(model, 8)
    monkeypatch.setattr("kpnet.models.memory.available_memory", lambda: need / 2 - 1)
    with pytest.raises(KpnetError, match=r"^train\.batch_size=8: .*32x32.* smaller batches"):
        check_training_memory(model, 8)


def test_the_model_is_left_as_it_was(model: KeypointModel) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_training_memory(model, 4)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_backbone_that_needs_values_is_let_through(model: KeypointModel) -> None:
    model.backbone.forward = lambda images: [images * images.sum().item()]  # type: ignore[method-assign]
    check_training_memory(model, 10**6)
