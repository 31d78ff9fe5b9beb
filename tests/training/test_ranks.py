"""The processes of one training: one of them is killed, one reports, and steps keep their number of images."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from support.two_ranks import TINY
from torch.multiprocessing import ProcessExitedException

from kpnet.core.errors import KpnetError, NotFiniteError
from kpnet.training import ranks
from kpnet.training.ranks import LOST, STEP, check_step, is_lost, one_voice

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError(GLOO), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted on rank 1"), True),
        (ProcessExitedException("process 1 terminated with signal SIGKILL", 1, 1, -9, "SIGKILL"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 5x2)"), False),
        (RuntimeError("DataLoader timed out after 5 seconds"), False),
    ],
)
def test_errors_that_another_process_causes(error: Exception, lost: bool) -> None:
    assert is_lost(error) is lost


@pytest.mark.parametrize(
    ("error", "rank", "orphan", "raised"),
    [
        (RuntimeError(GLOO), 0, False, KpnetError),
        (RuntimeError(GLOO), 1, False, SystemExit),
        (RuntimeError(GLOO), 1, True, KpnetError),  # the first process, its parent, was the one that was killed
        (RuntimeError(GLOO), 2, True, SystemExit),
        (NotFiniteError("the loss is not finite"), 0, False, NotFiniteError),
        (NotFiniteError("the loss is not finite"), 1, False, SystemExit),
        (RuntimeError("a bug"), 1, False, RuntimeError),
        (KpnetError("an image that only this process reads"), 1, False, KpnetError),
    ],
)
def test_one_process_reports(
    monkeypatch: pytest.MonkeyPatch, error: Exception, rank: int, orphan: bool, raised: type[BaseException]
) -> None:
    trainer: Any = SimpleNamespace(global_rank=rank, is_global_zero=rank == 0, strategy=None)
    # A killed process has lost its connections before its children have another parent.
    parents = chain([7, 7, 7], repeat(1 if orphan else 7))
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(ranks.time, "sleep", lambda seconds: None)
    with pytest.raises(raised) as caught, one_voice(trainer):
        raise error
    assert caught.type is raised
    assert raised is not KpnetError or str(caught.value) in (LOST, str(error))


@pytest.mark.parametrize(
    ("saved", "batch", "ranks", "accumulate", "fix"),
    [(16, 8, 1, 1, r"or trainer\.accumulate_grad_batches=2$"), (16, 8, 3, 1, "on as many devices as before$")],
)
def test_steps_of_another_number_of_images(
    tmp_path: Path, saved: int, batch: int, ranks: int, accumulate: int, fix: str
) -> None:
    torch.save({STEP: saved}, tmp_path / "last.ckpt")
    trainer: Any = SimpleNamespace(world_size=ranks, accumulate_grad_batches=accumulate)
    with pytest.raises(KpnetError, match=rf"last\.ckpt: a step of this run has {saved} images.*{fix}"):
        check_step(trainer, batch, tmp_path / "last.ckpt")
    trainer.world_size = trainer.accumulate_grad_batches = 1
    check_step(trainer, saved, tmp_path / "last.ckpt")
    torch.save({}, tmp_path / "last.ckpt")  # of an earlier version
    check_step(trainer, batch, tmp_path / "last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_with_one_line_and_the_run_goes_on(tmp_path: Path, victim: int) -> None:
    values = {**TINY, "trainer": {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "logger": None}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "kpnet.cli", "train", "tiny.yaml", "--out", "run"]
    log = tmp_path / "log"
    with log.open("w") as file:
        first = subprocess.Popen([*command, "train.epochs=500"], cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT)
        metrics = tmp_path / "run" / "metrics.csv"
        deadline = time.monotonic() + 240
        while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 2):
            assert first.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        (second,) = [each for each in children if b"train" in Path(f"/proc/{each}/cmdline").read_bytes()]
        os.kill((first.pid, int(second))[victim], signal.SIGKILL)
        code = first.wait(60)
        while Path(f"/proc/{second}/cmdline").exists() and Path(f"/proc/{second}/cmdline").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert code == (-signal.SIGKILL, 2)[victim]
    text = log.read_text()
    assert text.count("a process of the training ended") == 1, text
    assert "Traceback" not in text
    assert "interrupted" not in text
    epochs = len(metrics.read_text().splitlines())
    done = subprocess.run(
        [*command, f"train.epochs={epochs + 1}", "--resume"], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the run is in run") == 1
