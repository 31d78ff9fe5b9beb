"""A training in the background, on the labels that there are, for better proposals."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kpnet.config.loading import load_config
from kpnet.core.errors import KpnetError
from kpnet.core.outputs import check_writable
from kpnet.labelling.labels import LabelFile

LEAST_IMAGES = 2
FOLDS, LEAST_FOR_VALIDATION = 5, 20  # one image in five validates, from so many images on
_LOG = "train.log"


class BackgroundTraining:
    """Trains a recipe on a file of labels in a process of its own, one training at a time.

    The runs are numbered folders beside the file of labels. A run that was interrupted is continued.

    Args:
        recipe: A YAML file or a recipe's name.
        finished: Called with the run folder after a training, from another thread; returns why the model cannot be
            used, or None.

    Raises:
        KpnetError: There is no such recipe, or it is wrong.
    """

    def __init__(self, recipe: str, finished: Callable[[Path], str | None]) -> None:
        self.recipe, self._finished = recipe, finished
        self._epochs = load_config(recipe, ["data.val=null", "data.fold=null"]).train.epochs
        self._process: subprocess.Popen[bytes] | None = None
        self._run: Path | None = None
        self._state, self._message = "idle", ""
        self._lock = threading.Lock()

    def start(self, labels: LabelFile, skeleton: Path) -> None:
        """Start a training.

        Args:
            labels: The labels.
            skeleton: The file of the skeleton.

        Raises:
            KpnetError: A training is running, or there are too few labels.
        """
        with self._lock:
            if self._state == "running":
                raise KpnetError("a training is running already")
            count = sum(count != 0 for count in labels.labelled_counts())
            if count < LEAST_IMAGES:
                raise KpnetError(f"{count} labelled images; expected at least {LEAST_IMAGES} to train on")
            settings = overrides(labels, skeleton, count)
            run = _next_run(runs_folder(labels.path), [self.recipe, *settings])
            command = [
                sys.executable,
                "-m",
                "kpnet.cli",
                "train",
                self.recipe,
                *settings,
                "--out",
                str(run),
                "--resume",
            ]
            with (run.parent / _LOG).open("wb") as log:
                # In a group of its own: Ctrl-C ends the server, which then ends the training.
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            self._run, self._state, self._message = run, "running", ""
            threading.Thread(target=self._wait, args=(self._process, run), daemon=True).start()

    def stop(self) -> None:
        """End a training that is running, as Ctrl-C does; its run can be continued."""
        process = self._process
        if process is not None and process.poll() is None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def status(self) -> dict[str, Any]:
        """Return `state` (idle, running, done or failed), `message`, and the `epoch` of `epochs`."""
        epoch = 0 if self._run is None else _count_epochs(self._run / "metrics.csv")
        return {"state": self._state, "message": self._message, "epoch": epoch, "epochs": self._epochs}

    def _wait(self, process: subprocess.Popen[bytes], run: Path) -> None:
        code = process.wait()
        problem = _last_line(run.parent / _LOG) if code else self._finished(run)
        with self._lock:
            self._state, self._message = ("failed", problem) if problem else ("done", str(run))


def runs_folder(labels: Path) -> Path:
    """Return the folder beside a file of labels that the trainings on it are in."""
    return labels.with_name(f"{labels.stem}_runs")


def overrides(labels: LabelFile, skeleton: Path, count: int) -> list[str]:
    """Return the settings that train a recipe on a file of labels.

    Args:
        labels: The labels.
        skeleton: The file of the skeleton.
        count: Number of labelled images.

    Returns:
        Arguments KEY=VALUE of `kpnet train`.
    """
    fold = f"{{index: 0, of: {FOLDS}}}" if count >= LEAST_FOR_VALIDATION else "null"
    root, file, names = (
        json.dumps(str(p)) for p in (labels.path.parent.absolute(), labels.path.name, skeleton.absolute())
    )
    return [
        *(f"data.root={root}", f"data.train={file}", f"data.format={labels.encoding.format}", "data.val=null"),
        *(f"data.fold={fold}", f"data.skeleton={names}"),
    ]


def _next_run(folder: Path, settings: list[str]) -> Path:
    """Return the folder of the last run, if it was interrupted and had the same settings, and else a new one."""
    check_writable(folder)
    folder.mkdir(exist_ok=True)
    numbers = [int(path.name[4:]) for path in folder.glob("run_*") if path.name[4:].isdecimal()]
    last, text = max(numbers, default=0), "\n".join(settings)
    note = folder / f"run_{last}.txt"
    if last and not (folder / f"run_{last}" / "final").exists() and note.is_file() and note.read_text("utf-8") == text:
        return folder / f"run_{last}"
    (folder / f"run_{last + 1}.txt").write_text(text, encoding="utf-8")
    return folder / f"run_{last + 1}"


def _count_epochs(path: Path) -> int:
    try:
        with path.open(newline="") as file:
            return max(0, sum(1 for _ in csv.reader(file)) - 1)
    except OSError:
        return 0


def _last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:500] if lines else "the training ended without a message"
