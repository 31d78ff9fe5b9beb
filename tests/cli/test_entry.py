"""However a command ends, the user sees one line, and the exit code says what kind of end it was."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support.console import Run

from kpnet.core.errors import KpnetError


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`failing(error)` makes `kpnet config` raise it, or call it; reports go to `tmp_path`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail(error: Any) -> None:
        def act() -> Any:
            if isinstance(error, BaseException):
                raise error
            return error()

        monkeypatch.setattr("kpnet.config.loading.list_configs", act)

    return fail


def test_a_bug_leaves_one_line_and_a_report(kpnet: Run, failing: Any, tmp_path: Path) -> None:
    failing(lambda: {"": 0}["secret://me:hunter2@host"])
    done = kpnet("config")
    assert (done.code, done.out, done.err.count("\n")) == (70, "", 1)
    assert done.err.startswith("kpnet: KeyError: ")
    (report,) = tmp_path.glob("kpnet-crash-*.txt")
    assert done.err.rstrip().endswith(str(report))
    text = report.read_text()
    assert "in act" in text
    assert text.startswith("command: kpnet config\n")
    assert re.search(r"^torch \d", text, re.MULTILINE)
    assert "hunter2" not in text + done.err
    assert report.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("arguments", [("--storage", "mysql:me:hunter2@h/d"), ("--storage=mysql://me:hunter2@h/d",)])
def test_a_report_has_no_password_of_the_command_line(
    arguments: tuple[str, ...], kpnet: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*given: Any, **options: Any) -> None:
        raise RuntimeError(f"cannot parse {options['storage']}")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("kpnet.experiments.sweeping.sweep", fail)
    done = kpnet("sweep", "i2dl_grid", *arguments)
    assert done.code == 70
    (report,) = tmp_path.glob("kpnet-crash-*.txt")
    assert "hunter2" not in report.read_text() + done.err
    assert "cannot parse" in done.err


def test_a_report_that_cannot_be_written(kpnet: Run, failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(ZeroDivisionError("x"))
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    done = kpnet("config")
    assert (done.code, done.err.count("\n")) == (70, 1)
    assert "no report" in done.err


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: np.zeros((2**20, 2**25)),
        lambda: np.zeros((2**40, 2**40)),
        lambda: torch.empty(2**50),
        lambda: cv2.resize(np.zeros((2, 2), np.uint8), (2**30, 2**30)),
        lambda: bytearray(2**60),
    ],
    ids=["numpy", "numpy, too large to count", "torch", "opencv", "python"],
)
def test_too_little_memory(allocate: Any, kpnet: Run, failing: Any) -> None:
    failing(allocate)
    kpnet("config").refused("not enough memory")


def test_ctrl_c(kpnet: Run, failing: Any) -> None:
    failing(KeyboardInterrupt())
    done = kpnet("config")
    assert done.code == 130
    assert "Traceback" not in done.err


def test_ctrl_c_in_a_training_says_how_to_go_on(kpnet: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kpnet.training.supervised.train", stop)
    done = kpnet("train", recipe)
    assert (done.code, done.err.count("\n")) == (130, 1)
    assert "--resume" in done.err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KpnetError("a.csv: \x1b[31mred\nline 2"), r"a.csv: \x1b[31mred line 2"),
        (KpnetError("x" * 10**6), "…"),
        (KpnetError("http://me:hunter2@host: no such file"), "http://***@host"),
        (FileNotFoundError(2, "No such file", b"caf\xe9".decode(errors="surrogateescape")), r"caf\xe9: No such file"),
    ],
    ids=["control", "long", "password", "bytes"],
)
def test_an_error_is_one_printable_line(error: Exception, expected: str, kpnet: Run, failing: Any) -> None:
    failing(error)
    done = kpnet("config")
    done.refused(expected)
    assert done.err[:-1].isprintable()
    assert len(done.err) < 2100


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train"], "Missing argument 'CONFIG'"),
        (["predict", "--nope"], "--nope"),
        (["tra"], "train"),
        (["data", "check", "x", "--count", "many"], "--count"),
        (["\x1b[31m"], r"\x1b[31m"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str], expected: str, kpnet: Run) -> None:
    kpnet(*arguments).refused(expected, "--help")


def test_a_call_without_arguments_shows_the_help(kpnet: Run) -> None:
    done = kpnet()
    assert done.code == 2
    assert "pretrain" in done.out + done.err


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m kpnet.cli config facial_heatmap | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1)  # 0 where all was written before the pipe was closed
    assert not done.stderr


def test_a_terminal_without_unicode(kpnet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    assert kpnet("train", "日本.yaml").code == 2
    stream.flush()
    assert rb"\u65e5\u672c.yaml: no such config file" in stream.buffer.getvalue()


def test_home_and_variables_in_arguments(
    kpnet: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINE", str(tmp_path))
    monkeypatch.setenv("NAME", tmp_path.name)
    for argument in ("~/tiny.yaml", "$MINE/tiny.yaml", f"{tmp_path.parent}/$NAME/tiny.yaml"):
        kpnet("train", argument, "train.epochs=0").refused("train.epochs")
    kpnet("data", "check", "x", "--sheet=~/a.txt").refused(f"{tmp_path}/a.txt")
    (tmp_path / "$MINE.yaml").write_text("- 1")
    kpnet("train", "$MINE.yaml").refused("mapping", "$MINE.yaml")  # a file of that name


def test_libraries_advice_to_programmers_is_not_shown(kpnet: Run, failing: Any) -> None:
    failing(lambda: warnings.warn("deprecated", UserWarning, stacklevel=1) or [])
    done = kpnet("config")
    assert (done.code, done.err) == (0, "")
