"""The plan of a comparison: a row per config, with a trial per seed and fold; a trial is identified by its hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kpnet import __version__
from kpnet.config.loading import load_config
from kpnet.config.schema import Config, Fold
from kpnet.core.errors import KpnetError
from kpnet.core.model_folder import weights_file
from kpnet.core.skeleton import Skeleton
from kpnet.data.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES

# A run's place and name do not change its result; the data in `data.root` is hashed itself.
PLACES = (("name",), ("data", "root"), ("data", "workers"), ("data", "cache_gb"))


ShouldContinue = Callable[[int, float], bool]  # given the epoch and its validation score


class TrialStopped(Exception):
    """Raised when a trial is pruned."""


@dataclass(frozen=True)
class Trial:
    """One training: a config with its seed and fold."""

    row: str
    config: Config
    key: str  # hash of the resolved config and the data

    def folder(self, runs: Path) -> Path:
        """Return its run folder in `runs`: the one with its key, under whatever name, or a new one."""
        found = sorted(runs.glob(f"*_{self.key[:12]}"))
        return found[0] if found else runs / self._name

    @property
    def _name(self) -> str:
        fold = self.config.data.fold
        part = "" if fold is None else f"_fold{fold.index + 1}of{fold.of}"
        name = re.sub(r"[^\w.-]+", "-", self.row)
        return f"{name}_seed{self.config.train.seed}{part}_{self.key[:12]}"


@dataclass
class Row:
    """A config of the comparison, with its trials."""

    name: str
    trials: list[Trial] = field(default_factory=list)
    problem: str | None = None  # why there are none


def plan(sources: Sequence[str | Path], overrides: Sequence[str], seeds: int, folds: int | None) -> list[Row]:
    """Plan the trainings of several configs.

    Args:
        sources: YAML files or names of recipes; `CONFIG:5` has five seeds, whatever `seeds` says.
        overrides: Config values for all of them.
        seeds: Trainings per config, whose seeds count up from the config's own.
        folds: Number of folds to cross-validate with; None for no cross-validation.

    Returns:
        A row per config. If a config cannot be read or its data is missing, its row has no trials but a problem.

    Raises:
        KpnetError: If a config is given twice, or nothing can be trained.
    """
    rows: list[Row] = []
    seen: dict[str, str] = {}
    for source, own in map(split_seeds, sources):
        try:
            config = load_config(source, overrides)
            if folds is None and config.data.val is None and config.data.fold is None:
                raise KpnetError(f"{source}: data.val is missing: nothing to compare on; set it, or give --folds")
            row = Row(unique_name(config.name, [row.name for row in rows]))
            row.trials = [
                _trial(row.name, config, seed, fold) for seed in range(own or seeds) for fold in _folds(folds)
            ]
        except KpnetError as error:
            rows.append(Row(unique_name(Path(source).stem, [row.name for row in rows]), problem=str(error)))
            continue
        key = row.trials[0].key
        if key in seen:
            raise KpnetError(f"{source} and {seen[key]} are the same config: leave one out")
        seen[key] = str(source)
        rows.append(row)
    if not any(row.trials for row in rows):
        raise KpnetError(rows[0].problem or "nothing to compare")
    return rows


def fold_trials(config: Config, folds: int) -> Row:
    """Plan the trainings of one config on all folds of its training data, with the config's seed.

    Args:
        config: The config.
        folds: Number of folds.

    Returns:
        The row of this config.
    """
    return Row(config.name, [_trial(config.name, config, 0, fold) for fold in _folds(folds)])


def split_seeds(source: str | Path) -> tuple[str | Path, int | None]:
    """Split `CONFIG:5` into CONFIG and 5; without a number, the second is None."""
    match = re.fullmatch(r"(.+):([1-9]\d*)", str(source))
    return (source, None) if match is None else (match[1], int(match[2]))


def _folds(count: int | None) -> list[Fold | None]:
    return [None] if count is None else [Fold(index=index, of=count) for index in range(count)]


def _trial(name: str, config: Config, seed: int, fold: Fold | None) -> Trial:
    train = config.train.model_copy(update={"seed": config.train.seed + seed})
    data = config.data if fold is None else config.data.model_copy(update={"fold": fold})
    config = on_one_device(config).model_copy(update={"train": train, "data": data, "name": name})
    return Trial(name, config, fingerprint(config))


def on_one_device(config: Config) -> Config:
    """Return the config with one device, or raise KpnetError if it asks for more.

    Lightning starts further devices by running the command line again, which would start the whole comparison again.
    """
    trainer = config.trainer
    devices = trainer.devices if "devices" in trainer.model_fields_set else 1
    if devices != 1:
        raise KpnetError(f"{config.name}: trainer.devices: each run is trained on one device, found {devices}")
    return config.model_copy(update={"trainer": trainer.model_copy(update={"devices": 1})})


def unique_name(name: str, taken: Sequence[str]) -> str:
    """Return the name, with a number appended if it is taken."""
    number = 2
    while (named := name if number == 2 and name not in taken else f"{name} ({number})") in taken:
        number += 1
    return named


def fingerprint(config: Config) -> str:
    """Return a hash of everything that a run depends on.

    That is the config without names and places, the bytes of its data and weights, the skeleton, and kpnet's version.
    """
    values: dict[str, Any] = config.model_dump(mode="json")
    for *sections, key in PLACES:
        inner = values
        for section in sections:
            inner = inner[section]
        inner.pop(key)
    files = [entry.file for entry in config.data.train] + [config.data.val]
    held: dict[str, Any] = {name: _content(Path(config.data.root) / name) for name in files if isinstance(name, str)}
    if isinstance(config.model.pretrained, str):
        held["pretrained"] = _content(weights_file(config.model.pretrained))
    if config.data.skeleton is not None:
        held["skeleton"] = Skeleton.load(config.data.skeleton).to_dict()
    text = json.dumps([__version__, values, held], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(path: Path) -> str:
    """Return a hash of a file's bytes, or of a folder: names and sizes of its files, and the bytes of label files."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        held = [
            [file.relative_to(path).as_posix(), file.stat().st_size]
            + ([] if file.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES else [_content(file)])
            for file in files
        ]
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()
    if not path.is_file():
        raise KpnetError(f"{path}: no such file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
