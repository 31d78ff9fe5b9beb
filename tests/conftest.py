"""Small worlds that the tests share: a CSV of bright dots, a config that trains in a second, a trained run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, settings
from support.console import Result, Run
from support.paths import SHARED

if TYPE_CHECKING:
    from support.exports import Exports
    from support.hub_server import Hub

# No law depends on how busy the machine is.
settings.register_profile("kpnet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kpnet")

SIDE = 32
NAMES = ("left_eye", "right_eye", "nose")


def dot_image(xy: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Uint8 (side, side): black, with a soft dot at each of the points (K, 2)."""
    y, x = np.mgrid[:side, :side]
    dots = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 1.5**2)) for px, py in xy]
    return np.round(220 * np.max(dots, axis=0)).astype(np.uint8)


def csv_lines(rows: int, seed: int) -> list[str]:
    """The header and `rows` rows in Kaggle's layout: three points and a 32x32 image with a dot at each."""
    rng = np.random.default_rng(seed)
    lines = [",".join(f"{name}_{axis}" for name in NAMES for axis in "xy") + ",Image"]
    for _ in range(rows):
        xy = np.array([(21.0, 12.0), (10.0, 12.0), (16.0, 20.0)]) + rng.uniform(-4, 4, (3, 2)).round(2)
        cells = [f"{value:.2f}" for value in xy.ravel()]
        lines.append(",".join(cells) + "," + " ".join(map(str, dot_image(xy).ravel())))
    return lines


def tiny_config(data: Path) -> dict[str, Any]:
    """Trains in a second on `data`/train.csv."""
    return {
        "name": "tiny",
        "model": {
            "backbone": {"name": "conv_sandwich", "channels": [8, 16], "norm": "batch"},
            "head": {"name": "heatmap", "decoder": {"name": "top_down", "width": 8}, "stride": 2},
            "in_channels": 1,
            "input_size": [SIDE, SIDE],
        },
        "data": {"root": str(data), "train": "train.csv", "val": "val.csv", "skeleton": list(NAMES)},
        "train": {"epochs": 2, "batch_size": 4, "optimizer": {"name": "adamw", "lr": 1e-3}},
        "trainer": {"accelerator": "cpu"},
    }


def write_data(folder: Path) -> Path:
    folder.mkdir()
    (folder / "train.csv").write_text("\n".join(csv_lines(8, seed=0)) + "\n")
    (folder / "val.csv").write_text("\n".join(csv_lines(5, seed=1)) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Every test draws the same numbers each time, alone and among others."""
    torch.manual_seed(0)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A stand-in for the Hugging Face hub, which huggingface_hub uses, with an empty cache."""
    from support.hub_server import serve, use_hub

    with serve() as server:
        use_hub(monkeypatch, server.url, tmp_path / "cache")
        yield server


@pytest.fixture
def kpnet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`kpnet("train", path, …)` as the console command does it, in this process and in a folder of its own."""
    from kpnet.cli import entry as cli

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["kpnet", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def make_csv() -> Callable[[int, int], str]:
    """`make_csv(rows, seed)`: the text of a file like those of `data`."""
    return lambda rows, seed: "\n".join(csv_lines(rows, seed)) + "\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with train.csv (8 rows) and val.csv (5 rows)."""
    return write_data(tmp_path / "data")


@pytest.fixture
def tiny(data: Path) -> dict[str, Any]:
    """A config as a mapping that trains on `data` in a second."""
    return tiny_config(data)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder of the tiny config; tests read it and leave it as it is."""
    from rich.console import Console

    from kpnet.config.loading import load_config
    from kpnet.training.supervised import train

    folder = tmp_path_factory.mktemp("trained")
    with (folder / "log.txt").open("w") as log:
        config = load_config(tiny_config(write_data(folder / "data")))
        return train(config, out=folder / "run", console=Console(file=log))[0]


@pytest.fixture
def tree() -> Callable[[Path], dict[str, bytes | None]]:
    """Every path beneath a folder with its bytes (None for a folder): equal before and after, nothing was touched."""

    def read(folder: Path) -> dict[str, bytes | None]:
        return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}

    return read


@pytest.fixture(scope="session")
def faces15() -> Path:
    """The folder of the 15-point faces (KPNET_SHARED names what lies above data/faces15)."""
    folder = SHARED / "data" / "faces15"
    if not (folder / "val.csv").is_file():
        pytest.skip("no faces15: set KPNET_SHARED to the folder above data/faces15")
    return folder


@pytest.fixture
def recipe(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """The tiny config as a file, tiny.yaml."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny, sort_keys=False))
    return path


@pytest.fixture
def run_copy(trained: Path, tmp_path: Path) -> Path:
    """A finished run that a test may change."""
    import shutil

    return Path(shutil.copytree(trained, tmp_path / "runs" / "tiny"))


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """`exports(kind)`: a small model and the ONNX file that it was exported to; tests leave both as they are."""
    from support.exports import Exports

    return Exports(tmp_path_factory.mktemp("exports"))
