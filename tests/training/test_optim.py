"""Optimizers and schedules against their papers' formulas, written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from kpnet.config import optim as schema
from kpnet.config.loading import load_config
from kpnet.core.skeleton import Skeleton
from kpnet.models.build import assemble
from kpnet.training.freezing import ParameterGroup
from kpnet.training.optim import GroupSchedule, build_optimizer, build_schedule

LR, DECAY = 0.1, 0.05


def weight_and_bias() -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64)), nn.Parameter(torch.tensor([3.0]).double())


def stepped(settings: Any, gradients: list[tuple[float, float, float]]) -> tuple[Tensor, Tensor]:
    """Weight (2,) and bias (1,) after a step with each of the gradients."""
    weight, bias = weight_and_bias()
    optimizer = build_optimizer([ParameterGroup("model", [weight, bias])], settings)
    for first, second, third in gradients:
        weight.grad, bias.grad = torch.tensor([[first, second]]).double(), torch.tensor([third]).double()
        optimizer.step()
    return weight.detach()[0], bias.detach()


GRADIENTS = [(0.5, -1.0, 2.0), (-0.25, 3.0, 1.0)]


def by_hand(name: str, nesterov: bool, value: float, gradients: list[float], decay: float) -> float:
    """One number after these gradients: SGD with Nesterov's momentum 0.9, or Adam and AdamW with betas 0.9, 0.99."""
    mean = square = 0.0
    velocity: float | None = None
    for t, gradient in enumerate(gradients, 1):
        if name == "adamw":  # Loshchilov and Hutter 2019: the decay is apart from the gradient
            value -= LR * decay * value
        else:
            gradient += decay * value
        if name == "sgd":
            velocity = gradient if velocity is None else 0.9 * velocity + gradient
            value -= LR * (gradient + 0.9 * velocity if nesterov else velocity)
            continue
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        value -= LR * (mean / (1 - 0.9**t)) / (math.sqrt(square / (1 - 0.99**t)) + 1e-8)
    return value


@pytest.mark.parametrize(
    "settings",
    [
        schema.SGD(lr=LR, weight_decay=DECAY),
        schema.SGD(lr=LR, weight_decay=DECAY, nesterov=False),
        schema.Adam(lr=LR, weight_decay=DECAY, betas=(0.9, 0.99)),
        schema.AdamW(lr=LR, weight_decay=DECAY, betas=(0.9, 0.99)),
    ],
    ids=["nesterov", "momentum", "adam", "adamw"],
)
def test_two_steps_by_the_formula_and_a_bias_without_decay(settings: Any) -> None:
    weight, bias = stepped(settings, GRADIENTS)
    columns = list(zip(*GRADIENTS, strict=True))
    nesterov = getattr(settings, "nesterov", False)
    expected = [
        by_hand(settings.name, nesterov, value, list(column), decay)
        for value, column, decay in zip((1.0, -2.0, 3.0), columns, (DECAY, DECAY, 0.0), strict=True)
    ]
    assert [*weight.tolist(), *bias.tolist()] == pytest.approx(expected, rel=1e-9)


def test_without_momentum_there_is_no_nesterov() -> None:
    weight, bias = stepped(schema.SGD(lr=LR, momentum=0.0), GRADIENTS[:1])
    assert [*weight.tolist(), *bias.tolist()] == pytest.approx([1 - 0.05, -2 + 0.1, 3 - 0.2])


def test_parts_learn_at_their_share_of_the_rate() -> None:
    parts = [ParameterGroup("head", [*weight_and_bias()]), ParameterGroup("backbone", [*weight_and_bias()], 0.1)]
    groups = build_optimizer(parts, schema.AdamW(lr=LR, weight_decay=DECAY)).param_groups
    found = [(group["part"], group["lr"], group["weight_decay"]) for group in groups]
    assert found == [
        ("head", LR, DECAY),
        ("head", LR, 0.0),
        ("backbone", pytest.approx(0.1 * LR), DECAY),
        ("backbone", pytest.approx(0.1 * LR), 0.0),
    ]


def test_weight_decay_skips_biases_and_norms() -> None:
    backbone = {"name": "conv_sandwich", "channels": [8, 16], "norm": "batch"}
    head = {"name": "heatmap", "stride": 4, "decoder": {"name": "top_down", "width": 8}}
    config = load_config({"model": {"backbone": backbone, "head": head, "in_channels": 1, "input_size": 32}})
    model = assemble(config.model, Skeleton.load("facial15"))
    decayed, plain = ParameterGroup("model", list(model.parameters())).groups(0.1, 1e-3)
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    kinds = {id(p): type(m) for m in model.modules() for p in m.parameters(recurse=False)}
    assert {kinds[id(p)].__name__ for p in decayed["params"]} == {"Conv2d"}
    biases = {id(m.bias) for m in model.modules() if getattr(m, "bias", None) is not None}
    assert not biases & {id(p) for p in decayed["params"]}
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def rates(settings: Any, steps: int, epochs: int, lr: float = 2.0) -> list[float]:
    """The learning rate of each step."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = build_schedule(optimizer, settings, steps, epochs)
    assert schedule["interval"] == "step"
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule["scheduler"].step()
    return found


def test_one_cycle_on_paper() -> None:
    """Half a cosine from 0.1 to 1 over 4 of 13 steps, half a cosine down to 0.01 over the other 8."""
    settings = schema.OneCycle(warmup=4 / 13, start_factor=0.1, final_factor=0.01)
    up = [0.1, 0.1 + 0.9 * (1 - math.sqrt(0.5)) / 2, 0.55, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2]
    down = [0.01 + 0.99 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(9)]
    assert rates(settings, 13, 1) == pytest.approx([2 * factor for factor in up + down], rel=1e-9)
    assert down[4] == pytest.approx(0.505)


def test_cosine_on_paper() -> None:
    """A linear rise over two epochs of 2 steps, then half a cosine to a tenth over the other 6."""
    settings = schema.Cosine(warmup_epochs=2, final_factor=0.1)
    up = [0.2, 0.4, 0.6, 0.8]
    down = [0.1 + 0.9 * (1 + math.cos(math.pi * k / 5)) / 2 for k in range(6)]
    assert rates(settings, 10, 5) == pytest.approx([2 * factor for factor in up + down], rel=1e-9)
    assert rates(schema.Cosine(), 3, 3) == pytest.approx([2, 1, 0], abs=1e-12)


def test_constant_and_a_training_of_one_step() -> None:
    assert rates(schema.Constant(), 5, 1) == [2.0] * 5
    for settings in (schema.OneCycle(), schema.Cosine()):
        (only,) = rates(settings, 1, 1)
        assert 0 < only <= 2.0


def test_plateau_falls_after_patience_epochs_without_a_better_loss() -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    entry = build_schedule(optimizer, schema.Plateau(factor=0.5, patience=2), 10, 10)
    assert (entry["interval"], entry["monitor"]) == ("epoch", "val_loss")
    found = []
    for loss in (1.0, 0.9, 0.95, 0.95, 0.95, 0.95):
        entry["scheduler"].step(loss)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == [2, 2, 2, 2, 1, 1]


def halving(optimizer: Optimizer, warmup: float = 3) -> GroupSchedule:
    return GroupSchedule(optimizer, lambda step: 0.5**step, warmup)


def test_a_part_that_joins_late_warms_up_to_the_others_rate() -> None:
    optimizer = build_optimizer([ParameterGroup("head", [*weight_and_bias()])], schema.SGD(lr=1.0))
    schedule = halving(optimizer)
    for _ in range(2):
        optimizer.step()
        schedule.step()
    schedule.add(ParameterGroup("backbone", [*weight_and_bias()], 0.1), DECAY, 1.0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0, DECAY, 0]
    found = []
    for _ in range(5):
        found.append([group["lr"] for group in optimizer.param_groups[1:3]])
        optimizer.step()
        schedule.step()
    head, backbone = zip(*found, strict=True)
    assert head == pytest.approx([0.5**step for step in range(2, 7)])
    share = [0.25, 0.5, 0.75, 1, 1]
    assert backbone == pytest.approx([0.1 * s * 0.5**step for s, step in zip(share, range(2, 7), strict=True)])


def test_a_schedule_goes_on_from_its_state() -> None:
    optimizers = [SGD([nn.Parameter(torch.zeros(1))], lr=1.0) for _ in range(2)]
    whole, resumed = map(halving, optimizers)
    for _ in range(3):
        optimizers[0].step()
        whole.step()
    state = whole.state_dict()
    assert all(isinstance(value, int) for value in state.values()), "numbers alone: a checkpoint is loaded safely"
    resumed.load_state_dict(state)
    for schedule, optimizer in zip((whole, resumed), optimizers, strict=True):
        optimizer.step()
        schedule.step()
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == [0.0625, 0.0625]


def test_a_longer_training_goes_on_with_the_rates_of_its_own_schedule() -> None:
    """From the very next step: of 10 steps that have ended, a schedule of 20 goes on at its eleventh."""

    def begun(steps: int) -> tuple[SGD, Any]:
        optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
        return optimizer, build_schedule(optimizer, schema.OneCycle(), steps, 4)["scheduler"]

    optimizer, schedule = begun(10)
    for _ in range(10):
        optimizer.step()
        schedule.step()
    longer, resumed = begun(20)
    longer.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    found = []
    for _ in range(10):
        found.append(longer.param_groups[0]["lr"])
        longer.step()
        resumed.step()
    assert found == rates(schema.OneCycle(), 20, 4)[10:]
    # On paper: 6 of 20 steps rise, and half a cosine falls over the other 13 intervals.
    assert found[0] == pytest.approx(2.0 * (1e-5 + (1 - 1e-5) * (1 + math.cos(math.pi * 4 / 13)) / 2))
