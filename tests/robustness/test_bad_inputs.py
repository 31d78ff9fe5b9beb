"""Bad inputs of every kind end in a result or in one line, within bounds, and leave the user's files alone."""

from __future__ import annotations

import contextlib
import io
import math
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.bad_inputs import KINDS

from kpnet.cli import entry
from kpnet.core.yaml import read_yaml, write_yaml

SECONDS, WAITING, BYTES = 60, 300, 2 * 2**30  # of the processor; of waiting, on a machine with other work, too
EACH = 180  # cases of each kind
PARTLY = {"predict", "visualize", "data"}  # commands that end with 1 where some inputs of several failed
STATUS = Path("/proc/self/status")


class TooLong(BaseException):
    """Raised in whatever runs when the time is up."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Limit time and address space, so that a case that goes wrong takes neither the tests nor the machine with it."""

    def stop(*_: Any) -> None:
        raise TooLong

    before = [(name, signal.signal(name, stop)) for name in (signal.SIGPROF, signal.SIGALRM)]
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (held + BYTES if held else soft, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAITING)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for name, handler in before:
            signal.signal(name, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def status(key: str) -> int:
    """A number of bytes that Linux tells of this process; 0 elsewhere."""
    lines = STATUS.read_text().splitlines() if STATUS.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


def run_kpnet(arguments: list[str]) -> tuple[Any, str, str]:
    """Exit code, stdout and stderr of the command, in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    argv, sys.argv = sys.argv, ["kpnet", *arguments]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), bounded():
            entry.main()
    except SystemExit as stop:
        code = stop.code or 0
    except TooLong:
        code = f"more than {SECONDS} s"
    finally:
        sys.argv = argv
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return code, texts[0], texts[1]


def faults(arguments: list[str], folder: Path) -> tuple[Any, list[str]]:
    """The exit code of a command, and what is wrong with how it ends; nothing if all is well."""
    given = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    held = status("VmRSS")  # by the tests before: not what this command takes
    code, out, err = run_kpnet(arguments)
    found = []
    taken = status("VmHWM") - held
    if taken > BYTES / 2:
        found.append(f"took {taken / 2**20:.0f} MiB")
    lines = err.splitlines()
    if code not in (0, 2) and not (code == 1 and arguments[0] in PARTLY):
        found.append(f"exit {code}")
    if code == 2 and (not lines or not lines[-1].startswith("kpnet: ") or len(lines) > 4 or len(lines[-1]) > 2100):
        found.append(f"exit 2 with {len(lines)} lines")
    if "Traceback" in out + err:
        found.append("traceback")
    if not all(line.isprintable() for line in lines):
        found.append("control characters on stderr")
    changed = [path.name for path, data in given.items() if not path.is_file() or path.read_bytes() != data]
    if changed and "--resume" not in arguments and arguments[0] != "calibrate":
        found.append(f"changed {changed}")
    found += [f"left {path.name}" for path in folder.rglob("*.part*")]
    found += ["trained to a loss that is no number"] * (code == 0 and not finite_losses(folder))
    return code, [f"{'; '.join(found)}: kpnet {arguments}\n{err[-1500:]}"] if found else []


def finite_losses(folder: Path) -> bool:
    return all(math.isfinite(loss) for path in folder.rglob("metrics.csv") for loss in pd.read_csv(path).train_loss)


@pytest.fixture(scope="module")
def place(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """An empty folder to work in, and a copy of a trained run."""
    import shutil

    folder = tmp_path_factory.mktemp("robust")
    run = Path(shutil.copytree(trained, folder / "run"))
    model = read_yaml(run / "final" / "model.yaml", "a model")
    model["skeleton"]["sigmas"] = [0.05] * 3  # for COCO's AP
    (run / "final" / "model.yaml").write_text(write_yaml(model))
    before = Path.cwd()
    (folder / "here").mkdir()
    os.chdir(folder / "here")
    yield folder, run
    os.chdir(before)


def attempt(kind: str, random: Random, place: tuple[Path, Path]) -> tuple[Any, list[str]]:
    import shutil

    folder, run = place
    case = folder / "case"
    shutil.rmtree(case, ignore_errors=True)
    case.mkdir()
    return faults(KINDS[kind](random, case, run), case)


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=3,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(random=st.randoms(use_true_random=False))
def test_a_sample(kind: str, random: Random, place: tuple[Path, Path]) -> None:
    assert not attempt(kind, random, place)[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many(kind: str, place: tuple[Path, Path]) -> None:
    ends = [attempt(kind, Random(f"{kind} {number}"), place) for number in range(EACH)]
    bad = [f"{number}: {fault}" for number, (_, faults) in enumerate(ends) for fault in faults]
    assert not bad, f"{len(bad)} of {EACH}:\n" + "\n".join(bad[:20])
    assert sum(code == 0 for code, _ in ends) >= 3, "the inputs are so bad that none gets past the first check"
