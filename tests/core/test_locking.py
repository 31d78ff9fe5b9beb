"""Locks: one process at a time, and none that has died."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from kpnet.core.errors import KpnetError
from kpnet.core.locking import locked


def test_one_at_a_time_and_the_other_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        locked(path, tmp_path),
        pytest.raises(KpnetError, match=rf"another kpnet process \(process {os.getpid()} on"),
        locked(path, tmp_path),
    ):
        pytest.fail("it is held")
    with pytest.raises(ZeroDivisionError), locked(path, tmp_path):
        raise ZeroDivisionError
    with locked(path, tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"process \x1b[31m", b"something else"])
def test_a_file_that_does_not_say_who_holds_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, tmp_path):
        path.write_bytes(content)
        with pytest.raises(KpnetError, match="another kpnet process works in it"), locked(path, tmp_path):
            pytest.fail("it is held")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed process is a fork")
def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    child = os.fork()
    if child == 0:
        with locked(path, tmp_path):
            (tmp_path / "held").touch()
            time.sleep(60)
        os._exit(0)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(KpnetError, match=str(child)), locked(path, tmp_path):
        pytest.fail("the child holds it")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(path, tmp_path):
        pass
