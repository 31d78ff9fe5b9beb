"""Checkpoints: what a crash in the middle of one leaves."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from kpnet.config.loading import load_config
from kpnet.core.errors import KpnetError
from kpnet.training.checkpoints import DurableCheckpointIO
from kpnet.training.trainer import run_arguments


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """A checkpoint of epoch 1."""
    path = tmp_path / "run" / "last.ckpt"
    DurableCheckpointIO().save_checkpoint({"epoch": 1}, path)
    return path


def epoch_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["epoch"])


def half(error: BaseException | None) -> Any:
    """In place of `torch.save`: half of the bytes, then an error, or `kill -9` where there is none."""

    def write(_: Any, file: Any) -> None:
        file.write(b"half a checkpoint")
        file.flush()
        if error is not None:
            raise error
        os.kill(os.getpid(), signal.SIGKILL)

    return write


def test_a_checkpoint_replaces_the_one_before(last: Path) -> None:
    assert epoch_of(last) == 1
    DurableCheckpointIO().save_checkpoint({"epoch": 2}, last)
    assert epoch_of(last) == 2
    assert list(last.parent.iterdir()) == [last]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()])
def test_what_fails_in_the_middle_leaves_the_one_before(
    error: BaseException, last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "save", half(error))
    with pytest.raises(type(error)) as caught:
        DurableCheckpointIO().save_checkpoint({"epoch": 2}, last)
    assert epoch_of(last) == 1
    assert list(last.parent.iterdir()) == [last]
    if isinstance(error, OSError):
        assert isinstance(caught.value, OSError)
        assert caught.value.filename == str(last)


def test_a_full_disk_is_named_whatever_torch_makes_of_it(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises a RuntimeError about positions in the file while it handles the OSError."""

    def write(*_: Any) -> None:
        error = RuntimeError("unexpected pos 704 vs 598")
        error.__context__ = OSError(28, "No space left on device")
        raise error

    monkeypatch.setattr(torch, "save", write)
    with pytest.raises(OSError, match="No space left"):
        DurableCheckpointIO().save_checkpoint({"epoch": 2}, last)
    assert epoch_of(last) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed process is a fork")
def test_kill_in_the_middle_leaves_the_one_before(last: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "save", half(None))
    child = os.fork()
    if child == 0:
        DurableCheckpointIO().save_checkpoint({"epoch": 2}, last)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert epoch_of(last) == 1
    monkeypatch.undo()
    DurableCheckpointIO().save_checkpoint({"epoch": 3}, last)  # what was left over disturbs nothing
    assert epoch_of(last) == 3


def test_a_run_writes_its_checkpoints_so_and_not_in_the_folder_for_temporary_files(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config({"model": {"backbone": "conv_sandwich", "head": "heatmap"}})
    (plugin,) = run_arguments(config, last.parent, [None], bar=False)["plugins"]  # type: ignore[list-item]
    monkeypatch.setattr(tempfile, "tempdir", str(last.parent / "no such folder"))
    plugin.save_checkpoint({"epoch": 2}, last)
    plugin.teardown()
    assert epoch_of(last) == 2


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    """Where the list of its tensors is whole: only reading them tells."""
    path = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint({"a": torch.arange(5000), "b": torch.arange(5000)}, path)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x03\x04", 45_000)  # the head of the second tensor's record
    data[at : at + 4] = b"\0\0\0\0"
    path.write_bytes(data)
    with pytest.raises(KpnetError, match=r"last\.ckpt: a damaged checkpoint: .*--force"):
        DurableCheckpointIO().load_checkpoint(path, weights_only=True)


def test_a_checkpoint_of_something_else_is_named(last: Path) -> None:
    with pytest.raises(KpnetError, match=r'last\.ckpt: no checkpoint of a training, as it has no "state_dict"'):
        DurableCheckpointIO().load_checkpoint(last, weights_only=True)
