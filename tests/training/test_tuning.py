"""The learning rate's range test and the search for the largest batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.console import Run
from support.pixels import read_bgr

from kpnet import plot
from kpnet.config.loading import load_config
from kpnet.core.errors import KpnetError
from kpnet.data.build import build_train
from kpnet.heads.heatmap import HeatmapHead
from kpnet.models.build import assemble
from kpnet.training import tuning
from kpnet.training.tuning import HIGHEST, LOWEST, RangeTest, suggest_lr

Tree = Callable[[Path], dict[str, bytes | None]]
RATES = np.geomspace(LOWEST, HIGHEST, 100)


# The curve


def descent(curvature: float, noise: float = 0.0) -> np.ndarray:
    """The losses c x² / 2 of gradient descent from x = 1 at `RATES`."""
    draw, x, losses = np.random.default_rng(0), 1.0, []
    for rate in RATES:
        losses.append(curvature * x * x / 2 * (1 + noise * draw.normal()))
        x *= 1 - rate * curvature
    return np.array(losses)


@pytest.mark.parametrize("curvature", [0.5, 10.0, 1000.0])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_quadratics_rate(curvature: float, noise: float) -> None:
    """1 / curvature is Newton's step, and 2 / curvature diverges."""
    curve = suggest_lr(RATES, descent(curvature, noise))
    assert 0.02 < curve.suggestion * curvature < 1


def test_noise_at_the_smallest_rates_and_a_fall_after_the_divergence_count_for_nothing() -> None:
    decades = np.log10(RATES)
    losses = 2 - 1 / (1 + np.exp(-6 * (decades + 3))) + 0.02 * np.random.default_rng(0).normal(size=100)
    losses += 0.5 * np.exp(-(((decades + 1) / 0.3) ** 2))  # begins to diverge at 0.1
    losses[decades > -0.7] -= 1.2  # and comes to rest, saturated
    assert suggest_lr(RATES, losses).suggestion == pytest.approx(1e-3, rel=0.5)


def test_steps_that_diverged_do_not_reach_back() -> None:
    losses = descent(10.0)
    whole = suggest_lr(RATES, np.minimum(losses, 10))
    losses[-4:] = 1e30
    exploded = suggest_lr(RATES, losses)
    losses[-4:] = math.nan
    cut = suggest_lr(RATES, losses)
    assert whole.suggestion == exploded.suggestion == cut.suggestion
    assert len(cut.losses) == len(cut.rates) == len(cut.smoothed) == 96


def test_curves_without_a_rate() -> None:
    noise = np.random.default_rng(0).normal(1, 0.1, 100)
    for losses in (noise, np.ones(100), np.linspace(1, 2, 100)):
        with pytest.raises(KpnetError, match="no learning rate found: from 1e-07 to 1e"):
            suggest_lr(RATES, losses)
    noise[12] = math.inf
    with pytest.raises(KpnetError, match=r"not finite after 12 steps, at a rate of 9\.3e-07"):
        suggest_lr(RATES, noise)


def test_the_picture_is_the_curve() -> None:
    curve = suggest_lr(RATES, descent(10.0, 0.05))
    axes = plot.draw_lr_curve(curve.rates, curve.losses, curve.smoothed, curve.suggestion).axes[0]
    lines = {str(line.get_label()): np.array(line.get_data()) for line in axes.get_lines()}
    assert np.array_equal(lines["loss of each step"], [curve.rates, curve.losses])
    assert np.array_equal(lines["smoothed"], [curve.rates, curve.smoothed])
    assert lines[f"steepest fall: {curve.suggestion:.1e}"][0] == curve.suggestion
    assert axes.get_xscale() == "log"


# The test's steps


class Watched(RangeTest):
    """Notes the rate of each part at each step."""

    def on_fit_start(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.seen.append({group["part"]: group["lr"] for group in optimizer.param_groups})


@pytest.mark.parametrize("schedule", ["one_cycle", "plateau"])
def test_each_part_keeps_its_share_of_the_rate(tiny: dict[str, Any], schedule: str) -> None:
    tiny["train"] |= {"lr_scale": {"backbone": 0.1}, "layer_decay": 0.5, "schedule": schedule}
    tiny["trainer"] |= {"accumulate_grad_batches": 2}
    config = load_config(tiny)
    data = build_train(config)
    module = Watched(assemble(config.model, data.skeleton), config.train, RATES[60:70])
    tuning._run(module, config, data)
    shares = {"head": 1, "backbone_stride_4": 0.05, "backbone_stride_2": 0.025}
    assert len(module.seen) == 10
    for rate, seen in zip(RATES[60:70], module.seen, strict=True):
        assert seen == pytest.approx({part: share * rate for part, share in shares.items()})
    assert [len(losses) for losses in module.losses] == [2] * 10


def test_what_is_frozen_at_first_rests_throughout(tiny: dict[str, Any]) -> None:
    tiny["train"] |= {"freeze": {"until": 1}, "epochs": 3}
    config = load_config(tiny)
    data = build_train(config)
    model = assemble(config.model, data.skeleton)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    module = Watched(model, config.train, np.full(7, 1e-2))  # of two steps an epoch
    tuning._run(module, config, data)
    assert module.seen == [{"head": 1e-2}] * 7
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head"}


# The command


def test_tune_gives_lines_for_train_and_writes_a_picture_alone(
    kpnet: Run, recipe: Path, data: Path, tmp_path: Path, tree: Tree
) -> None:
    before = tree(tmp_path)
    outputs = []
    for overrides in ([], ["train.schedule=plateau", "train.average=ema", "train.early_stopping={}", "train.epochs=1"]):
        done = kpnet("tune", recipe, *overrides, "--steps", "60")
        assert done.code == 0, done.err
        assert "where the loss falls fastest, at batch size 4" in done.err
        assert "tuning/learning_rate.png" in done.err
        outputs.append(done.out)
    assert outputs[0] == outputs[1]  # neither schedule nor average has a part in it
    (line,) = outputs[0].splitlines()
    assert 1e-4 < load_config(recipe, [line]).train.optimizer.lr < 1
    after = tree(tmp_path)
    assert after.keys() - before.keys() == {"tuning", "tuning/.kpnet", "tuning/learning_rate.png"}
    assert all(after[path] == content for path, content in before.items())
    assert read_bgr(tmp_path / "tuning" / "learning_rate.png").std() > 5


def test_tune_says_whose_rate_it_is(kpnet: Run, recipe: Path) -> None:
    done = kpnet("tune", recipe, "train.lr_scale={backbone: 0.1}", "--steps", "50")
    assert "it is the head's; other parts learned at their own multiple of it: backbone 0.1" in done.err
    done = kpnet("tune", recipe, "train.freeze={until: 1}", "--steps", "50")
    assert "2 of 2 stages of the backbone were frozen, as in the first epoch" in done.err


def test_the_batch_size_ends_with_the_data_or_the_option(kpnet: Run, recipe: Path, tmp_path: Path, tree: Tree) -> None:
    before = tree(tmp_path)
    done = kpnet("tune", recipe, "--batch-size", "--no-lr")
    assert (done.code, done.out) == (0, "train.batch_size=8\n")
    assert "there are 8 training samples; memory was not the limit" in done.err
    done = kpnet("tune", recipe, "--batch-size", "--no-lr", "--max-batch-size", "7")
    assert (done.code, done.out) == (0, "train.batch_size=4\n")
    assert "--max-batch-size allows no larger one; memory was not the limit" in done.err
    assert tree(tmp_path) == before


def test_the_batch_size_ends_with_the_memory(kpnet: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, sizes = HeatmapHead.loss, []

    def short(self: Any, output: Any, target: torch.Tensor, weight: torch.Tensor) -> Any:
        sizes.append(len(target))
        if len(target) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return loss(self, output, target, weight)

    monkeypatch.setattr(HeatmapHead, "loss", short)
    most = 4
    done = kpnet("tune", recipe, "--batch-size", "--steps", "50")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "train.batch_size=4"
    assert "batch size 4: 8 does not fit into memory" in done.err
    assert "at batch size 4" in done.err
    assert sizes == [2] * 3 + [4] * 3 + [8] + [4] * 50
    most = 1
    kpnet("tune", recipe, "--batch-size").refused("a batch of 2 does not fit into memory")


def test_tune_refuses(kpnet: Run, recipe: Path, tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(tmp_path)
    kpnet("tune", recipe, "data.train=null").refused("data.train is missing")
    kpnet("tune", recipe, "data.train=gone.csv").refused("gone.csv")
    kpnet("tune", recipe, "--no-lr").refused("nothing to find")
    kpnet("tune", recipe, "--max-batch-size", "4").refused("--max-batch-size goes with --batch-size")
    kpnet("tune", recipe, "trainer.precison=16").refused('"trainer.precison"', '"precision"')
    kpnet("tune", recipe, "trainer.accelerator=abacus").refused("trainer.accelerator", "abacus")
    nan = {"l1": torch.tensor(math.nan, requires_grad=True)}
    monkeypatch.setattr(HeatmapHead, "loss", lambda *_: nan)
    kpnet("tune", recipe).refused("the loss of the first batch is not finite")
    kpnet("tune", recipe, "--batch-size", "--no-lr").refused("the loss of the first batch is not finite")
    assert tree(tmp_path) == before


def test_a_divergence_ends_the_test(kpnet: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = HeatmapHead.loss
    calls: list[None] = []

    def explode(self: Any, *arguments: Any) -> Any:
        calls.append(None)
        terms = loss(self, *arguments)
        return {name: term * math.inf for name, term in terms.items()} if len(calls) > 6 else terms

    monkeypatch.setattr(HeatmapHead, "loss", explode)
    kpnet("tune", recipe).refused("no learning rate found", "not finite after 6 steps")
    assert len(calls) == 8  # a loss is read one step late
