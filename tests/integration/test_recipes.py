"""Every recipe in configs/ does what its users will ask of it first."""

from __future__ import annotations

import pytest
from rich.console import Console
from support.paths import SHARED
from support.recipes import TRAINED

from kpnet.config.loading import load_config
from kpnet.models.build import build_model
from kpnet.models.summary import summarize
from kpnet.training.overfitting import TARGET_PX, overfit

FACES = SHARED / "data" / "faces15"
ONE_INSTANCE = [name for name in TRAINED if name != "flies_single_stage"]  # whose head sees one in each image


@pytest.mark.parametrize("name", TRAINED)
def test_recipe_builds_and_explains_itself(name: str) -> None:
    model = build_model(name, pretrained=False, num_keypoints=15)  # there is no network
    summary = summarize(model, (model.config.in_channels, *model.config.input_size))
    assert summary.parameters == sum(p.numel() for p in model.parameters())
    if "conv_sandwich" in str(
        model.config.backbone
    ):  # the strided layers of others never divide, by the slides' formula
        assert not [layer.name for layer in summary.layers if layer.warning]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seed"), [*((name, 0) for name in ONE_INSTANCE), ("facial_heatmap", 1), ("facial_regression", 1)]
)
def test_recipe_memorises_one_image(name: str, seed: int) -> None:
    """The slides' sanity check; on a real face where there is one."""
    overrides = [f"train.seed={seed}", "model.pretrained=false"]
    if name == "flies":  # the crops of one
        overrides += ["data.format=synthetic_scenes", "data.train=1", "data.val=null"]
    elif name != "demo":
        real = [f"data.root={FACES}"]
        overrides += real if FACES.is_dir() else ["data.format=synthetic", "data.train=1", "data.val=null"]
    error, steps = overfit(load_config(name, overrides), 1, Console(quiet=True))
    assert error < TARGET_PX, f"{error:.3f} px after {steps} steps"


def test_channels_for_an_rgb_task_are_one_override_away() -> None:
    model = build_model("facial_heatmap", in_channels=3, num_keypoints=5, input_size=(64, 128))
    assert model.config.num_keypoints == 5
    assert len(model.skeleton) == 5
