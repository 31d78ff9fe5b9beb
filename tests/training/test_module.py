"""The LightningModule of supervised training."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch._dynamo
from rich.console import Console
from support.every_head import EVERY
from support.recipes import small
from torch.utils._python_dispatch import TorchDispatchMode

from kpnet import load_model
from kpnet.config.schema import TrainConfig
from kpnet.core.errors import KpnetError, NotFiniteError
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.loss_terms import LossTerms
from kpnet.training.module import KeypointModule, compute_terms
from kpnet.training.supervised import train


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


class Waits(TorchDispatchMode):
    """Notes where a value of a tensor decides what Python does next: on a GPU, both would wait for each other."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().split(".")[0] in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal"):
            where = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
            # The optimizer's own counters are on the CPU, and so are the samples.
            if not any("/torch/optim/adam" in frame.filename for frame in traceback.extract_stack()):
                self.found.append(f"{where[-2].filename}:{where[-2].lineno}")
        return func(*args, **(kwargs or {}))


class Steps(pl.Callback):
    """Watches the training steps of an epoch, from the first batch to the last, without the loading between them."""

    def __init__(self) -> None:
        self.waits, self.steps = Waits(), 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.waits.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self.waits.__exit__(None, None, None)
        self.steps += 1


@pytest.mark.parametrize("device_transforms", [False, True])
def test_a_step_waits_for_no_value(device_transforms: bool, tiny: dict[str, Any], tmp_path: Path) -> None:
    """From the batch to the updated weights, average included; in the second epoch, which looks for saturation, too."""
    names = ("regression", "simcc", "rle", "gaussian_nll")
    heads: dict[str, Any] = {name: name for name in names}
    tiny["model"]["head"] = {
        "name": "multi",
        "heads": heads | {"offset": {"name": "offset", "stride": 4}, "heatmap": {"name": "heatmap", "hardest": 2}},
    }
    tiny["train"] |= {"average": "ema", "clip_norm": 1.0}
    affine = {"Affine": {"rotate": [-9, 9], "p": 1.0}}
    tiny["data"] |= {
        "device_transforms": device_transforms,
        "transforms": ["D4", affine, "CoarseDropout", "GaussNoise"],
    }
    steps = Steps()
    train(tiny, out=tmp_path / "run", console=Console(quiet=True), callbacks=[steps])
    assert steps.steps == 4
    assert not steps.waits.found


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_a_loss_that_is_not_finite_ends_the_epoch(
    step: int, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read a step late, but before anything of its epoch is saved; the last step's, too."""
    terms, bad = KeypointModel.loss_terms, step

    def spoiled(model: KeypointModel, *args: Any) -> LossTerms:
        nonlocal bad
        found = terms(model, *args)
        bad -= model.training
        if bad != -1:
            return found
        named = {**found.named, "cross_entropy": found.named["cross_entropy"] * torch.inf}
        return found._replace(values=found.values * torch.inf, named=named)

    monkeypatch.setattr(KeypointModel, "loss_terms", spoiled)
    where = rf"epoch {step // 2 + 1}, step {step} \(l1 0\.\d+, cross_entropy inf\): lower train\.optimizer\.lr"
    before = step // 2
    with pytest.raises(NotFiniteError, match=where):
        train(tiny, out=tmp_path / "run", console=Console(quiet=True))
    assert (tmp_path / "run/best/model.safetensors").is_file() == bool(before)
    assert (tmp_path / "run/last.ckpt").is_file() == bool(before)
    if before:
        assert load_model(tmp_path / "run/best").mean.isfinite().all()
        assert all(value.isfinite().all() for value in load_model(tmp_path / "run/best").state_dict().values())


FEW: list[Any] = [
    {"name": "heatmap", "stages": 2, "temperature": "learned", "hardest": 2, "loss": {"kl": 1.0, "js": 1.0}},
    {"name": "multi", "heads": {"a": "rle", "b": "simcc", "c": "offset"}},
]


@pytest.mark.parametrize(
    "head", [*FEW, *(pytest.param(spec, marks=pytest.mark.slow) for spec in EVERY)], ids=lambda spec: str(spec)[:60]
)
def test_forward_and_loss_are_one_graph(head: Any) -> None:
    """Without a break, except at a recurrent layer, which torch calls between two graphs unless it is told not to."""
    channels = {"name": "conv_sandwich", "channels": [4, 6, 8, 8], "norm": "batch"}
    model = small(backbone=channels, head=head, num_keypoints=5, input_size=(48, 64)).train()
    frames = (1 + sum(model.frame_window),) if sum(model.frame_window) else ()
    visible = torch.rand(2, 5) > 0.2
    batch = {"image": torch.rand(2, *frames, 1, 48, 64), "keypoints": torch.rand(2, 5, 2) - 0.5, "visible": visible,
             "weight": torch.rand(2, 5) * visible}  # fmt: skip
    results = []
    with torch._dynamo.config.patch(allow_rnn=True):
        for run in (compute_terms, torch.compile(compute_terms, fullgraph=True, backend="eager")):
            torch._dynamo.reset()
            torch.manual_seed(0)  # of dropout
            model.zero_grad()
            terms = run(model, batch)[1]
            terms.values.sum().backward()
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            results.append([terms.values, *gradients])
    torch.testing.assert_close(*results)


def broken(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no compiler found\nhere")


@pytest.mark.parametrize("backend", ["eager", broken])
def test_a_training_with_compiled_code_is_the_same(
    backend: Any,
    tiny: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And where nothing compiles, one line says so."""
    compiled = torch.compile
    calls: list[Any] = []

    def watched(function: Any) -> Any:
        calls.append(function)
        return compiled(function, backend=backend)

    monkeypatch.setattr(torch, "compile", watched)
    errors = []
    for compiles in (False, True):
        tiny["train"]["compile"] = compiles
        measures = train(tiny, out=tmp_path / str(compiles), console=Console(quiet=True)).measures
        errors.append(measures["rmse_px"])
    assert calls == [compute_terms]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)  # Adam enlarges what rounding changes
    lines = [record.getMessage() for record in caplog.records if "train.compile" in record.getMessage()]
    assert len(lines) == (backend is broken)
    assert all("\n" not in line and "no compiler found" in line for line in lines)
