"""channels_last only where it is safe."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kpnet import build_model
from kpnet.models.memory_format import set_memory_format


def is_channels_last(conv: nn.Conv2d) -> bool:
    """Of a weight with more than one cell and channel, by its strides."""
    return conv.weight.stride(1) == 1


def conv(channels: int = 3, kernel: int = 1, stride: int = 2, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, 48, kernel, stride, groups=groups)


@pytest.mark.parametrize(
    ("unsafe", "safe"),
    [
        (conv(), conv(stride=1)),
        (conv(channels=15), conv(channels=16)),
        (conv(), conv(kernel=3)),
        (conv(channels=12), conv(channels=12, groups=12)),
        (nn.Conv2d(3, 8, 1, (1, 2)), nn.Conv2d(3, 8, 1, (1, 1))),
    ],
)
def test_a_strided_1x1_convolution_of_few_channels_keeps_a_network_contiguous(unsafe: Any, safe: Any) -> None:
    for layer, expected in ((unsafe, False), (safe, True)):
        other = nn.Conv2d(4, 4, 3)
        assert set_memory_format(nn.Sequential(other, layer)) is expected
        assert is_channels_last(other) is expected


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)


def test_code_that_is_not_known_keeps_a_network_contiguous() -> None:
    part = Foreign()
    assert not set_memory_format(nn.Sequential(nn.ReLU(), part))
    assert not is_channels_last(part.conv)


def test_weights_of_other_dimensions_stay() -> None:
    assert set_memory_format(nn.Sequential(nn.Conv3d(2, 2, 3), nn.Conv1d(2, 2, 3), nn.Conv2d(2, 2, 3)))


# oneDNN writes past its memory, which ends the interpreter, or does not, later.
TRAIN = """
import sys, torch
from kpnet import build_model
torch.set_num_threads(1)
model = build_model(backbone=sys.argv[1], head="regression", num_keypoints=4, input_size=64)
for layout in (torch.contiguous_format, torch.channels_last):
    for _ in range(3):
        output = model.output(torch.rand(2, 3, 64, 64).to(memory_format=layout))
        sum(model.head.loss(output, torch.zeros(2, 4, 2), torch.ones(2, 4)).values()).backward()
"""
CRASHED = ["repvgg_a0", "mobileone_s0", "mobileone_s1", "fastvit_t8", "fastvit_mci0"]
OTHERS = [
    "resnet18",
    "resnet18d",
    "convnext_atto",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "regnetx_002",
    "edgenext_xx_small",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CRASHED, *OTHERS])
def test_families_train_on_a_cpu(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize(("name", "expected"), [("repvgg_a0", False), ("resnet18", True)])
def test_the_images_of_a_contiguous_backbone_are_contiguous(name: str, expected: bool) -> None:
    model = build_model(backbone=name, head="regression", num_keypoints=2, input_size=32).eval()
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.features(torch.rand(1, 3, 32, 32).to(memory_format=torch.channels_last))
    assert (
        all(is_channels_last(m) for m in model.backbone.modules() if type(m) is nn.Conv2d and m.weight[0].numel() > 9)
        is expected
    )
    assert seen[0].is_contiguous() is not expected
