"""What a network sees: the figures hold the network's own numbers, at their places on the image."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from support.console import Run
from support.pixels import read_bgr

from kpnet import KeypointModel, Predictor, build_model, load_model, plot
from kpnet.core.errors import KpnetError
from kpnet.core.runtime import evaluation_mode
from kpnet.models.calibration import Calibration
from kpnet.models.guarantee import Guarantee

Tree = Callable[[Path], dict[str, bytes | None]]
WIDE = np.random.default_rng(0).integers(0, 256, (30, 90, 3), dtype=np.uint8)  # letterboxed: bars above and below
HEATMAP = {"name": "heatmap", "decoder": {"name": "top_down", "width": 8}, "stride": 2, "decoding": "argmax"}


def build(head: Any = HEATMAP, backbone: Any = None, channels: int = 1) -> KeypointModel:
    backbone = backbone or {"name": "conv_sandwich", "channels": [4, 20], "norm": "batch"}
    return build_model(backbone=backbone, head=head, num_keypoints=3, in_channels=channels, input_size=32)


def arrays(axes: Axes) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in axes.images]


# Filters


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_filters_are_the_first_layers_weights(channels: int) -> None:
    model = build(channels=channels)
    weights = model.backbone.get_parameter("blocks.0.0.weight").detach().numpy()
    axes = plot.draw_filters(model).axes[0]
    shown = arrays(axes)
    assert axes.get_title().startswith("blocks.0.0: 4 filters 3x3")
    if channels == 3:
        shown = [(2 * tile - 1).transpose(2, 0, 1) * np.abs(weights).max() for tile in shown]
        assert np.allclose(shown, weights, atol=1e-6)
    else:
        assert np.allclose(shown, weights.mean(1))
        assert all(image.get_clim() == (-np.abs(weights).max(), np.abs(weights).max()) for image in axes.images)


def test_filters_of_a_linear_layer_are_pictures() -> None:
    model = build("regression", {"name": "mlp", "hidden": 80})
    axes = plot.draw_filters(model).axes[0]
    weights = model.backbone.get_parameter("layers.0.weight").detach().numpy()
    assert axes.get_title() == "layers.0: 64 of 80 filters 32x32"
    assert np.array_equal(arrays(axes), weights[:64].reshape(64, 32, 32))


@pytest.mark.parametrize(
    ("backbone", "layer"),
    [
        ("resnet18", "net.conv1"),
        ("torchvision/squeezenet1_0", "net.features.0"),
        ("vit_tiny_patch16_224", "patch_embed"),
    ],
)
def test_any_backbone_has_filters_and_features(backbone: str, layer: str) -> None:
    model = build("regression", backbone, channels=3)
    assert layer in plot.draw_filters(model).axes[0].get_title()
    panels = [axes for axes in plot.draw_features(model, WIDE).axes[1:] if axes.images]
    assert 1 <= len(panels) <= len(model.backbone.strides)  # those of one cell are left out


# Feature maps


def test_features_are_the_channels_that_vary_most() -> None:
    model = build()
    image = torch.rand(1, 32, 32)
    image_axes, *panels = (axes for axes in plot.draw_features(model, image).axes if axes.images)
    assert np.array_equal(arrays(image_axes)[0], image[0])
    with torch.no_grad(), evaluation_mode(model):
        maps = [each[0].numpy() for each in model.features(image)]
    assert len(panels) == len(maps) == 2
    for axes, each in zip(panels, maps, strict=True):
        numbers = [int(label.get_text()) for label in axes.texts]
        assert np.array_equal(arrays(axes), each[numbers])
        spread = each.std((1, 2))
        assert numbers == sorted(range(len(each)), key=lambda c: -spread[c])[:16]
    assert panels[0].get_title() == "stride 2, 16x16 cells: 4 channels"
    assert panels[1].get_title() == "stride 4, 8x8 cells: the 16 of 20 channels that vary most"


def test_a_picture_is_letterboxed_as_for_predictions() -> None:
    model = build(channels=3)
    shown = arrays(plot.draw_features(model, WIDE).axes[0])[0]
    assert shown.shape == (32, 32, 3)
    assert not shown[:10].any()  # 30x90 becomes 11x32, from row 10 on
    assert shown[10:21].min((1, 2)).all()
    assert not shown[21:].any()


def test_looking_changes_nothing() -> None:
    model = build().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for draw in (plot.draw_features, plot.draw_heatmaps, plot.draw_uncertainty):
        draw(model, WIDE)
    plot.draw_filters(model)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


# Heatmaps


def test_a_maps_peak_lies_at_the_predicted_point() -> None:
    """On a image that is letterboxed; `argmax` gives the middle of the map's highest cell."""
    model = build()
    expected = Predictor(model, device="cpu")(WIDE).keypoints[0]
    maps = model.infer(torch.rand(1, 32, 32)).heatmaps
    assert maps is not None
    figure = plot.draw_heatmaps(model, WIDE)
    assert len(figure.axes) == 3
    for axes, point in zip(figure.axes, expected, strict=True):
        picture, heat = arrays(axes)
        assert np.array_equal(picture, WIDE / 255)
        assert heat.shape == maps.shape[2:]
        assert heat.sum() == pytest.approx(1, abs=1e-4)
        left, right, bottom, top = axes.images[1].get_extent()
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        x = left + (column + 0.5) / heat.shape[1] * (right - left)
        y = top + (row + 0.5) / heat.shape[0] * (bottom - top)
        cross = np.concatenate([np.ravel(np.asarray(v)) for v in axes.get_lines()[0].get_data()])
        assert np.allclose(cross, point, atol=1e-4)
        assert np.allclose((x, y), point, atol=1e-3)
    assert figure.axes[0].get_title().startswith("0  ")


# Spread


@pytest.mark.parametrize("dof", [math.inf, 4.0])
def test_ellipses_are_the_covariances_closed_form(dof: float) -> None:
    model = build()
    if math.isfinite(dof):
        model.calibration = Calibration([0.3, 0.0, -0.2], 0.8, dof, 100)
    prediction = Predictor(model, device="cpu")(WIDE)
    assert prediction.covariance is not None
    axes = plot.draw_uncertainty(model, WIDE).axes[0]
    # Chi-square with two degrees of freedom at 0.9, and its counterpart for a Student t.
    squared = -2 * math.log(0.1) if math.isinf(dof) else (dof - 2) * (0.1 ** (-2 / dof) - 1)
    assert len(axes.patches) == 3
    for ellipse, xy, covariance in zip(axes.patches, prediction.keypoints[0], prediction.covariance[0], strict=True):
        turned = ellipse.get_patch_transform().transform([(1, 0), (0, 1), (-1, 0), (math.sqrt(0.5), math.sqrt(0.5))])
        off = turned - xy
        assert np.allclose(np.einsum("ni,ij,nj->n", off, np.linalg.inv(covariance), off), squared, rtol=1e-3)
    dots = np.stack(axes.get_lines()[0].get_data(), -1)
    assert np.allclose(dots, prediction.keypoints[0], atol=1e-4)
    assert ("as calibrated" in axes.get_title()) == math.isfinite(dof)
    assert "90 %" in axes.get_title()


def test_circles_have_the_guaranteed_radius() -> None:
    model = build()
    numbers = [[1.0], [2.0], [0.5], [3.0]]
    model.guarantee = Guarantee(0.8, numbers, [[20]] * 4, [[20]] * 4, [[]] * 4)
    prediction = Predictor(model, device="cpu")(WIDE)
    assert prediction.radius is not None
    axes = plot.draw_uncertainty(model, WIDE).axes[0]
    circles = [patch for patch in axes.patches if isinstance(patch, Circle)]
    assert [circle.get_radius() for circle in circles] == pytest.approx(prediction.radius[0], rel=1e-3)
    assert np.allclose([circle.center for circle in circles], prediction.keypoints[0], atol=1e-4)
    assert axes.get_title().endswith("circles: guaranteed radii at 80 %")


def test_a_head_without_maps_and_spread() -> None:
    model = build("regression")
    with pytest.raises(plot.NothingToDraw, match='the head "regression" gives none'):
        plot.draw_heatmaps(model, WIDE)
    axes = plot.draw_uncertainty(model, WIDE).axes[0]
    assert not axes.patches
    assert axes.get_title().startswith("no uncertainty")
    assert len(axes.get_lines()[0].get_xdata()) == 3  # type: ignore[arg-type]
    with pytest.raises(plot.NothingToDraw, match="one cell"):
        plot.draw_features(build("regression", "mlp"), WIDE)


def test_images_that_are_none() -> None:
    model = build()
    with pytest.raises(KpnetError, match="one image"):
        plot.draw_uncertainty(model, torch.rand(2, 1, 32, 32))
    with pytest.raises(KpnetError, match="expected an image uint8"):
        plot.draw_uncertainty(model, np.zeros((3, 4)))
    with pytest.raises(KpnetError, match="no such file"):
        plot.draw_uncertainty(model, "gone.png")


# The command


def test_visualize_the_runs_own_data(kpnet: Run, trained: Path, tmp_path: Path, tree: Tree) -> None:
    before = tree(trained)
    done = kpnet("visualize", trained, "--limit", "2")
    assert (done.code, done.err) == (0, "")
    assert "2 image(s) in visualizations, a folder each: features.png, heatmaps.png, uncertainty.png" in done.out
    assert "the first 2 of 5 images; --limit takes more" in done.out
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}
    kinds = ("features", "heatmaps", "uncertainty")
    assert files == {
        "visualizations/filters.png",
        *(f"visualizations/val_{i}/{kind}.png" for i in (0, 1) for kind in kinds),
    }
    assert all(read_bgr(tmp_path / file).std() > 5 for file in files)
    assert tree(trained) == before


def test_visualize_pictures_and_what_is_none(kpnet: Run, trained: Path, data: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wide.png"), WIDE)
    (tmp_path / "text.png").write_text("not a picture")
    done = kpnet("visualize", trained, "text.png", "wide.png", data / "val.csv", "--limit", "3", "--out", "seen")
    assert done.code == 1
    assert done.err.startswith("kpnet: text.png: not a readable image")
    assert {path.name for path in (tmp_path / "seen").glob("[!.]*")} == {"filters.png", "wide", "val_0"}
    assert "Traceback" not in done.err


def test_visualize_a_regression_says_what_it_has_not(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    build("regression", "mlp").save(tmp_path / "model")
    cv2.imwrite(str(tmp_path / "wide.png"), WIDE)
    done = kpnet("visualize", "model", "wide.png")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0].endswith("a folder each: uncertainty.png")
    for reason in ("no feature maps: the backbone gives one cell", 'no heatmaps: the head "regression" gives none'):
        assert done.out.count(reason) == 1
    out = tmp_path / "visualizations"
    assert {str(p.relative_to(out)) for p in out.rglob("*.png")} == {"filters.png", "wide/uncertainty.png"}
    kpnet("visualize", "model").refused("model", "no validation data", "kpnet visualize model photo.jpg")


def test_visualize_refuses(kpnet: Run, trained: Path, tmp_path: Path, tree: Tree) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty").mkdir()
    before = tree(tmp_path)
    kpnet("visualize", trained, "text.png").refused("text.png", "not a readable image")
    kpnet("visualize", trained, "gone.png").refused("gone.png", "no such file")
    kpnet("visualize", trained, "empty").refused("empty", "no images")
    kpnet("visualize", "gone").refused("gone", "no such run")
    kpnet("visualize", trained, "--out", "text.png").refused("text.png")
    assert tree(tmp_path) == before
    assert load_model(trained).calibration is None
