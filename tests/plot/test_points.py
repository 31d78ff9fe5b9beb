"""kpnet.plot: the image is the oracle."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from support.pixels import read_bgr
from torch import Tensor, nn

from kpnet import plot
from kpnet.core.errors import KpnetError


def centroid(weights: np.ndarray) -> np.ndarray:
    y, x = np.indices(weights.shape)
    return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()


def rendered(figure: plot.Figure) -> np.ndarray:
    data = np.frombuffer(figure._repr_png_(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    assert image is not None
    return image.astype(float)


def colour_of(picture: np.ndarray, channel: int) -> np.ndarray:
    """How much more of a channel than of the others there is."""
    others = [c for c in range(3) if c != channel]
    return np.clip(picture[..., channel] - picture[..., others].max(-1), 0, None)


@pytest.mark.parametrize("size", [(96, 96), (60, 100), (255, 31), (300, 400), (1024, 768)])
@pytest.mark.parametrize("colour", [False, True])
def test_a_dot_is_centred_on_its_keypoint(size: tuple[int, int], colour: bool) -> None:
    height, width = size
    image = np.full((*size, 3) if colour else size, 0, np.uint8)
    draw = np.random.default_rng(0)
    for x, y in draw.uniform((8, 8), (width - 8, height - 8), (10, 2)):
        picture = plot.draw_points(image, np.array([[x, y]]))
        scale = picture.shape[1] / width
        assert picture.dtype == np.uint8
        assert picture.shape == (height * scale, width * scale, 3)
        assert scale == 1 if max(size) >= 256 else scale == int(scale) > 1
        found = (centroid(colour_of(picture.astype(float), 0)) + 0.5) / scale - 0.5  # a pixel's centre is its index
        assert np.abs(found - (x, y)).max() < 0.1
        assert np.abs(found - (x, y)).max() * scale < 0.1


def test_an_enlarged_picture_stays_under_its_points() -> None:
    y, x = np.indices((96, 96))
    image = np.rint(255 * np.exp(-((x - 30.3) ** 2 + (y - 61.7) ** 2) / 18)).astype(np.uint8)
    blob = plot.draw_points(image, np.empty((0, 2)))[..., 0].astype(float)
    dot = colour_of(plot.draw_points(np.zeros_like(image), np.array([[30.3, 61.7]])).astype(float), 0)
    assert np.abs(centroid(blob) - centroid(dot)).max() < 0.1


def test_points_that_are_not_there_are_not_drawn_and_the_image_is_left_alone() -> None:
    image = np.full((300, 300, 3), 90, np.uint8)
    nowhere = np.array([[np.nan, 5], [5, np.inf], [1e30, 5], [-4000, 40000], [20, 30]])
    edges = [(0, 4), (4, 2), (3, 4)]
    assert np.array_equal(plot.draw_points(image, nowhere[:4]), image)
    one = plot.draw_points(image, nowhere[4:])
    assert np.array_equal(plot.draw_points(image, nowhere, edges=edges), one)
    assert (image == 90).all()
    assert not np.array_equal(one, image)


def test_confidence_colours_and_edges_join() -> None:
    image = np.zeros((300, 300), np.uint8)
    xy = np.array([[50.0, 50], [150, 50], [250, 50], [250, 250]])
    picture = plot.draw_points(image, xy, np.array([0, 1, 0.5, np.nan]), [(0, 3)])
    unsure, sure, half, unknown = (picture[int(y), int(x)].astype(int) for x, y in xy)
    assert unsure[0] > 200 > 50 > unsure[1]
    assert sure[1] > 200 > 50 > sure[0]
    assert min(half[:2]) > 200
    assert np.array_equal(unknown, unsure)
    assert picture[150, 150].max() > 100
    assert not picture[100, 200].any()


def test_each_instance_has_its_colour() -> None:
    image = np.zeros((300, 300), np.uint8)
    xy = np.array([[[50.0, 50], [150, 50]], [[50, 200], [150, 200]], [[np.nan, 5], [np.nan, 5]]])
    boxes = np.array([[20.0, 20, 180, 80], [20, 170, 180, 230], [250, 250, 280, 280]])
    drawn = plot.draw_instances(image, xy, None, [(0, 1)], boxes, ids=[7, 3, 4])
    for n, (corner, number) in enumerate(zip(((20, 50), (20, 200), (250, 265)), (7, 3, 4), strict=True)):
        colour = np.array(plot.instance_colour(number))
        assert np.abs(drawn[corner[1], corner[0]] - colour).max() < 60  # the box's left edge
        if n < 2:
            for x, y in (*xy[n], xy[n].mean(0)):
                assert np.abs(drawn[int(y), int(x)] - colour).max() < 60
    assert not drawn[120, 240].any()
    sure = plot.draw_instances(image, xy, np.array([[0, 1], [1, 0], [0, 0]]), ids=[7, 3, 4])
    assert sure[50, 50].tolist() == sure[200, 150].tolist() == [255, 0, 40]
    assert sure[50, 150, 1] > 200 > sure[50, 150, 0]
    assert plot.draw_instances(image, xy[:0]).max() == 0
    labelled = plot.draw_instances(image, xy, labels=["1", "2", "3"])
    assert labelled.astype(int).sum() > plot.draw_instances(image, xy).astype(int).sum()


@pytest.mark.parametrize("side", [100, 400])  # enlarged, and as it is
def test_circles_have_the_guaranteed_radius(side: int) -> None:
    image, xy = np.zeros((side, side), np.uint8), np.array([[0.5 * side, 0.4 * side], [0.2 * side, 0.2 * side]])
    plain = plot.draw_points(image, xy)
    picture = plot.draw_points(image, xy, radius=np.array([0.3 * side, np.nan]))
    scale = picture.shape[0] / side
    y, x = np.nonzero((picture != plain).any(-1))
    away = np.hypot((x + 0.5) / scale - 0.5 - xy[0, 0], (y + 0.5) / scale - 0.5 - xy[0, 1])
    assert len(away) > 2 * np.pi * 0.25 * side
    assert np.abs(away - 0.3 * side).max() < 2
    several = plot.draw_instances(image, xy[:, None], radius=np.array([[0.3 * side], [0.1 * side]]))
    for n, (point, length) in enumerate(zip(xy, (0.3 * side, 0.1 * side), strict=True)):
        column, row = (np.rint((point + [0, length] + 0.5) * scale - 0.5)).astype(int)
        near = several[row - 2 : row + 3, column].astype(int)
        assert np.abs(near - plot.instance_colour(n)).max(-1).min() < 110  # a thin line, smoothed


def test_colours_of_neighbouring_instances_differ() -> None:
    colours = np.array([plot.instance_colour(number) for number in range(20)], float)
    apart = np.linalg.norm(colours[:, None] - colours, axis=-1)
    assert min(apart[i, j] for i in range(20) for j in range(max(0, i - 4), i)) > 100


def blob(x: float, y: float, size: tuple[int, int] = (64, 96)) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)[None]


def normalized(x: float, y: float, size: tuple[int, int] = (64, 96)) -> Tensor:
    return torch.tensor([[(2 * x + 1) / size[1] - 1, (2 * y + 1) / size[0] - 1]])


@pytest.mark.parametrize("name", ["true", "predicted"])
def test_points_of_a_figure_lie_on_what_they_mark(name: str) -> None:
    x, y = 30.3, 41.7
    there, nothing = normalized(x, y), torch.full((1, 2), 9.0)
    true, predicted = (there, nothing) if name == "true" else (nothing, there)
    pictures = []
    for image in (blob(x, y), torch.zeros(1, 64, 96)):
        figure = plot.draw_predictions([image], [true], [predicted], titles=[""])
        pictures.append(rendered(figure)[: -int(0.35 * figure.dpi)])  # without the legend
    with_blob, without = pictures
    bright = np.clip(with_blob.min(-1) - without.min(-1), 0, None)
    mark = colour_of(without, 1 if name == "true" else 0)
    # The mark hides the blob's middle, evenly: both centroids are the keypoint. Matplotlib puts
    # marks on whole pixels of the screen, of which there are 3.6 to a pixel of the image here.
    assert mark.any()
    assert np.abs(centroid(mark) - centroid(bright)).max() < 1


def test_invisible_points_get_no_cross_and_titles_say_the_distance() -> None:
    truth = torch.zeros(1, 2, 2)
    predicted = torch.tensor([[[2 * 3 / 96, 2 * 4 / 64], [0.9, 0.9]]])  # 3 px and 4 px off: 5
    visible = torch.tensor([[True, False]])
    figure = plot.draw_predictions(torch.zeros(1, 1, 64, 96), truth, predicted, visible)
    assert figure.axes[0].get_title() == "5.00 px off"
    crosses, dots = figure.axes[0].get_lines()
    assert len(crosses.get_xdata()) == 1  # type: ignore[arg-type]
    assert len(dots.get_xdata()) == 2  # type: ignore[arg-type]
    nothing = plot.draw_predictions(torch.zeros(1, 1, 64, 96), truth, predicted, torch.zeros(1, 2, dtype=torch.bool))
    assert nothing.axes[0].get_title() == ""


@pytest.mark.parametrize("images", [torch.rand(5, 3, 20, 30), torch.randint(0, 256, (5, 1, 20, 30), dtype=torch.uint8)])
def test_float_and_uint8_images_in_any_grid(images: Tensor) -> None:
    points = torch.zeros(5, 4, 2)
    figure = plot.draw_predictions(images, None, points, columns=2)
    assert len(figure.axes) == 5
    assert figure.axes[0].get_gridspec().ncols == 2  # type: ignore[union-attr]
    shown = np.asarray(figure.axes[2].images[0].get_array())
    top = 255 if images.dtype == torch.uint8 else 1
    assert np.allclose(shown.reshape(20, 30, -1), images[2].permute(1, 2, 0).numpy() / top)
    with pytest.raises(KpnetError, match="no images"):
        plot.draw_predictions(images[:0], None, points[:0])


class Course(nn.Module):
    """The exercise's model: 30 numbers for a (C, H, W) or (B, C, H, W) image."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.drop = nn.Linear(9216, 30), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        return self.drop(self.fc(x.view(-1, 9216))).tanh()


@pytest.mark.parametrize("swapped", [False, True])
def test_the_course_shows_predictions(swapped: bool) -> None:
    model = Course().train()
    model.drop.eval()
    items = [{"image": torch.rand(1, 96, 96), "keypoints": torch.zeros(15, 2)} for _ in range(5)]
    show: Callable[..., plot.Figure] = plot.show_keypoint_predictions
    figure = show(model, items, 2) if swapped else show(items, model)
    assert len(figure.axes) == (2 if swapped else 3)
    x, y = (np.asarray(v) for v in figure.axes[1].get_lines()[1].get_data())
    with torch.no_grad():
        expected = model.fc(items[1]["image"].view(1, -1)).tanh().view(15, 2).numpy()
    assert np.allclose(np.stack([x, y], -1), (expected + 1) * 48 - 0.5, atol=1e-4)
    assert model.training
    assert not model.drop.training
    assert len(show(items, model, 9).axes) == 5
    with pytest.raises(KpnetError, match="nothing to show"):
        show([], model)


def history(epochs: int, **columns: float) -> pd.DataFrame:
    k = np.arange(epochs)
    values = {"train_loss": np.exp(-k / 5), "val_loss": np.exp(-k / 6), "val_score": 10.0 * k, "lr": 0.01 / (k + 1)}
    return pd.DataFrame({"epoch": k, **values, **columns})


@pytest.mark.parametrize(
    ("metrics", "scale", "pass_mark", "marked", "panels"),
    [
        (history(30), "log", 100.0, True, 3),
        (history(30), "log", None, False, 3),
        (history(5), "linear", 100.0, False, 3),  # falls to 0.45
        (history(7), "log", 100.0, False, 3),
        (history(1), "linear", 100.0, False, 3),
        (history(4, val_loss=-1.0), "linear", None, False, 3),
        (history(4, val_loss=np.nan, val_score=np.nan, lr=np.nan), "linear", 100.0, False, 1),
        (history(4)[["train_loss"]], "linear", None, False, 1),
    ],
)
def test_curves(
    metrics: pd.DataFrame, scale: str, pass_mark: float | None, marked: bool, panels: int, tmp_path: Path
) -> None:
    figure = plot.draw_curves(metrics, pass_mark)
    losses = figure.axes[0]
    assert losses.get_yscale() == scale
    assert losses.get_lines()[0].get_label() == "train loss"
    assert np.allclose(np.asarray(losses.get_lines()[0].get_ydata()), metrics["train_loss"])
    assert len(figure.axes) == panels
    assert any("pass mark 100" in str(line.get_label()) for axes in figure.axes for line in axes.get_lines()) is marked
    plot.save_figure(figure, tmp_path / "curves.png")
    assert read_bgr(tmp_path / "curves.png").std() > 5


def test_figures_are_saved_whole_and_closed(tmp_path: Path) -> None:
    figure = plot.draw_predictions([blob(20, 30)], [normalized(20, 30)], [normalized(21, 30)])
    plot.save_figure(figure, tmp_path / "new" / "faces.png")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["faces.png"]
    assert min(read_bgr(tmp_path / "new" / "faces.png").shape[:2]) > 200
    assert not figure.axes
    plot.save_figure(plot.draw_curves(history(3)), tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text()


@pytest.mark.parametrize("step", ["savefig", "write_bytes", "replace"])
def test_a_failure_leaves_the_old_picture(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    def half(target: object, data: object, *args: object, **kwargs: object) -> None:
        if isinstance(target, Path):
            target.open("wb").write(b"half")
        if isinstance(data, io.BytesIO):
            data.write(b"half")
        raise OSError(28, "No space left on device")

    where = {"savefig": plot.Figure, "write_bytes": Path, "replace": __import__("os")}[step]
    with monkeypatch.context() as patch:
        patch.setattr(where, step, lambda a, b=None, *c, **d: half(a, b))
        with pytest.raises(OSError, match="No space"):
            plot.save_figure(plot.draw_curves(history(3)), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mosaic_has_each_image_in_its_place(channels: int, tmp_path: Path) -> None:
    images = torch.rand(2, 4, channels, 6, 5) * 1.4 - 0.2
    figure = plot.draw_mosaic(images, ["first", "second"], list("abcd"))
    axes = figure.axes[0]
    canvas = np.asarray(axes.images[0].get_array())
    for i, (y, row) in enumerate(zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)):
        assert row.get_text() == ("first", "second")[i]
        for j, (x, column) in enumerate(zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)):
            assert column.get_text() == "abcd"[j]
            tile = canvas[int(y) - 3 : int(y) + 3, int(x - 2.5) : int(x - 2.5) + 5]
            expected = images[i, j].clamp(0, 1).permute(1, 2, 0).numpy()
            assert np.array_equal(tile, np.broadcast_to(expected, tile.shape))
    plot.save_figure(figure, tmp_path / "mosaic.png")
    plot.save_figure(plot.draw_mosaic(images), tmp_path / "bare.png")
    assert all(read_bgr(tmp_path / name).size for name in ("mosaic.png", "bare.png"))


def test_a_notebook_shows_a_figure_by_itself() -> None:
    assert plot.draw_curves(history(3))._repr_png_().startswith(b"\x89PNG")
