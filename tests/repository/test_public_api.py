"""The public face: the names that callers rely on, and what `import kpnet` does not import."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

import kpnet

API = ROOT / "tests" / "public_api.json"
MODULES = (
    *("kpnet", "kpnet.backbones", "kpnet.coordinates", "kpnet.data", "kpnet.decoding", "kpnet.heads", "kpnet.losses"),
    *("kpnet.metrics", "kpnet.models", "kpnet.oks", "kpnet.plot", "kpnet.rendering", "kpnet.smoothing"),
    "kpnet.uncertainty",
)
HEAVY = {
    *("torch", "torchvision", "numpy", "pandas", "cv2", "timm", "albumentations", "lightning", "torchmetrics"),
    *("matplotlib", "pydantic", "safetensors", "typer", "rich", "yaml", "tensorboard", "scipy", "PIL"),
}


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh process has imported after `code`."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def signature(thing: object) -> str | None:
    """A function's or constructor's parameters; None for what is not called."""
    if not inspect.isfunction(thing) and not (inspect.isclass(thing) and not issubclass(thing, Exception)):
        return None
    return ", ".join(inspect.signature(thing).parameters)


def public_names(module: str) -> dict[str, str | None]:
    """What `module` promises: its `__all__`, or, for a module of functions, what it defines without an underscore."""
    held = importlib.import_module(module)
    defined = [n for n, v in vars(held).items() if not n.startswith("_") and getattr(v, "__module__", None) == module]
    return {name: signature(getattr(held, name)) for name in sorted(getattr(held, "__all__", defined))}


def test_the_public_names_and_their_parameters_are_the_promised_ones() -> None:
    """A name that goes or changes is a decision: change `public_api.json` and the CHANGELOG with it."""
    assert {module: public_names(module) for module in MODULES} == json.loads(API.read_text())


def test_import_is_light() -> None:
    assert not HEAVY & modules_after("import kpnet; dir(kpnet); kpnet.__version__; kpnet.KpnetError")


def test_help_and_config_import_no_torch() -> None:
    help_ = modules_after(
        "from kpnet.cli import app\n"
        "for arguments in (['--help'], ['train', '--help'], ['visualize', '--help'], ['tune', '--help'], ['config']):\n"
        "    try: app(arguments)\n"
        "    except SystemExit as stop: assert not stop.code, stop.code"
    )
    assert not {"torch", "numpy", "lightning", "timm", "albumentations", "matplotlib"} & help_


def test_building_and_predicting_import_only_what_they_need() -> None:
    imported = modules_after(
        "from kpnet import build_model, load_model, Predictor\n"
        "build_model(backbone='conv_sandwich', head='heatmap', num_keypoints=2, in_channels=1)"
    )
    assert "torch" in imported
    assert not {"lightning", "timm", "albumentations", "matplotlib", "scipy"} & imported


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("kpnet.cli.data_report", {"torchmetrics", "torchvision", "timm", "albumentations", "lightning", "pandas"}),
        ("kpnet.data.convert", {"torchmetrics", "torchvision", "timm", "albumentations", "lightning", "matplotlib"}),
        ("kpnet.inference.pipeline", {"torchmetrics", "torchvision", "timm", "lightning", "matplotlib", "pandas"}),
        ("kpnet.experiments.comparison", {"lightning"}),
    ],
)
def test_commands_import_only_what_they_use(module: str, heavy: set[str]) -> None:
    assert not heavy & modules_after(f"import {module}")


@pytest.mark.parametrize(
    "name",
    [
        "build_model",
        "load_model",
        "list_backbones",
        "list_heads",
        "load_config",
        "Predictor",
        "KpnetError",
        "Skeleton",
        "train",
        "evaluate",
    ],
)
def test_names(name: str) -> None:
    assert callable(getattr(kpnet, name))
    assert name in dir(kpnet)
    assert name in kpnet.__all__


def test_every_listed_name_exists() -> None:
    for name in dir(kpnet):
        assert getattr(kpnet, name) is not None
    assert set(kpnet.__all__) <= set(dir(kpnet))


def test_modules_as_attributes() -> None:
    code = "import kpnet; print(kpnet.data.SyntheticFaces, kpnet.data.KaggleCSV, kpnet.decoding, kpnet.losses)"
    assert "torch" in modules_after(code)


def test_star_import() -> None:
    namespace: dict[str, object] = {}
    exec("from kpnet import *", namespace)
    assert namespace["build_model"] is kpnet.build_model


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match=r"module 'kpnet' has no attribute 'build_modle'"):
        kpnet.build_modle  # noqa: B018
    with pytest.raises(ImportError):
        exec("from kpnet import build_modle")


def test_error_is_a_value_error() -> None:
    assert issubclass(kpnet.KpnetError, ValueError)


def test_lists() -> None:
    assert {"heatmap", "regression"} <= set(kpnet.list_heads())
    backbones = kpnet.list_backbones()
    wanted = {"conv_sandwich", "resnet18", "convnext_tiny", "torchvision/alexnet", "torchvision/squeezenet1_0"}
    assert wanted <= set(backbones)
    assert len(backbones) == len(set(backbones))


def test_typed() -> None:
    assert (Path(kpnet.__file__).parent / "py.typed").is_file()


def test_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert kpnet.__version__ == version("kpnet")
