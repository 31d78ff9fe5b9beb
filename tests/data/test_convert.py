"""From format to format and back: points, names, visibility, boxes and images are what they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from support.console import Run
from support.format_files import (
    NAMES,
    brightest,
    dots,
    write_coco,
    write_dlc,
    write_pictures,
    write_points_csv,
    write_pts,
)

from kpnet.core.errors import KpnetError
from kpnet.data import COCO, KaggleCSV, KeypointDataset, PointsCSV
from kpnet.data.build import open_dataset
from kpnet.data.convert import WRITERS, convert

Tree = Callable[[Path], dict[str, bytes | None]]


def samples(data: KeypointDataset) -> dict[tuple[str, int], dict[str, Any]]:
    """By image and instance, whatever the order and the folders."""
    found = {}
    for index in range(len(data)):
        image, xy = data.read(index)
        key = (Path(data.image_name(index)).stem, data.instance(index))
        named = dict(zip(data.skeleton.names, xy, strict=True))
        found[key] = {"image": image, "xy": named, "visibility": data.visibility(index), "box": data.box(index)}
    return found


def same(first: KeypointDataset, second: KeypointDataset, *, boxes: bool = True, visibility: bool = True) -> None:
    before, after = samples(first), samples(second)
    assert before.keys() == after.keys()
    assert second.skeleton.pairs == first.skeleton.pairs
    for key, sample in before.items():
        other = after[key]
        assert np.array_equal(sample["image"], other["image"])
        assert sample["xy"].keys() == other["xy"].keys()
        for name, point in sample["xy"].items():
            assert np.allclose(point, other["xy"][name], atol=1e-3, equal_nan=True)
        if visibility:
            assert np.array_equal(sample["visibility"], other["visibility"])
        if boxes:
            assert sample["box"] is not None
            assert np.allclose(sample["box"], other["box"], atol=1e-3)


@pytest.mark.parametrize("form", ["coco", "points_csv", "deeplabcut", {"name": "deeplabcut", "scorer": "me"}])
def test_several_instances_an_image(tmp_path: Path, form: Any) -> None:
    first = COCO(write_coco(tmp_path / "a"))
    lost = convert(first, tmp_path / "b", form)
    holds = form in ("coco", "points_csv")
    assert lost == ([] if holds else ["boxes", "which points are hidden"])
    second = open_dataset(tmp_path / "b")
    same(first, second, boxes=holds, visibility=holds)
    convert(second, tmp_path / "c", "coco")
    third = COCO(tmp_path / "c" / "annotations.json")
    same(first, third, boxes=holds, visibility=holds)
    if form == "coco":
        assert np.allclose(third.areas, first.areas)
        assert third.skeleton.edges == first.skeleton.edges


@pytest.mark.parametrize("start", [1, 0])
@pytest.mark.parametrize("write", [write_pts, write_dlc, write_points_csv])
def test_faces_as_pts_and_back(tmp_path: Path, write: Callable[[Path], Path], start: int) -> None:
    write(tmp_path / "a")
    first = open_dataset(tmp_path / "a", None if write is not write_pts else "pts")
    form = {"name": "pts", "index_base": start}
    lost = convert(first, tmp_path / "b", form)
    second = open_dataset(tmp_path / "b", form)
    if write is write_points_csv:  # two instances are on one picture
        assert lost == ["the points' names", "which instances share an image"]
        assert {path.name for path in (tmp_path / "b").glob("*.png")} == {"a_1.png", "a_2.png", "b.png", "c.png"}
    assert len(second) == len(first)
    for index in range(len(second)):
        image, xy = second.read(index)
        assert np.allclose(xy, first.read(index)[1], atol=1e-3, equal_nan=True)
        for point in xy[np.isfinite(xy).all(-1)]:
            assert np.abs(brightest(image, point) - point).max() < 0.1


def one_size(folder: Path, side: int = 40) -> PointsCSV:
    """Three grey square images with a box and hidden points."""
    folder.mkdir()
    rng, rows = np.random.default_rng(0), []
    for number in range(3):
        xy = np.array([[8, 9], [30, 10], [20, 30]]) + rng.uniform(-3, 3, (3, 2))
        cv2.imwrite(str(folder / f"{number}.png"), dots((side, side), xy))
        rows.append([f"{number}.png", *xy.ravel().tolist(), *rng.integers(1, 3, 3).tolist(), 1, 2, 30, 35.5])
    header = ["image", *(f"{n}_{a}" for n in NAMES for a in "xy"), *(f"{n}_visibility" for n in NAMES)]
    header += ["box_x0", "box_y0", "box_x1", "box_y1"]
    text = "\n".join(",".join(map(str, row)) for row in [header, *rows])
    (folder / "points.csv").write_text(text)
    return PointsCSV(folder / "points.csv")


def test_arrays_and_pixels_as_text(tmp_path: Path) -> None:
    first = one_size(tmp_path / "a")
    assert convert(first, tmp_path / "b.npz") == []
    same(first, open_dataset(tmp_path / "b.npz"))
    assert convert(first, tmp_path / "b.csv") == ["boxes", "which points are hidden"]
    grey = KaggleCSV(tmp_path / "b.csv")
    for index in range(3):
        assert np.array_equal(grey.read(index)[0], first.read(index)[0][..., 0])
        assert np.allclose(grey.read(index)[1], first.read(index)[1], atol=1e-3)
    assert convert(grey, tmp_path / "c", "points_csv") == []
    assert np.allclose(open_dataset(tmp_path / "c").read(2)[1], first.read(2)[1], atol=1e-3)


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    first = one_size(tmp_path / "a")
    convert(first, tmp_path / "b", {"name": "points_csv", "parquet": True})
    same(first, open_dataset(tmp_path / "b" / "points.parquet"))


def test_a_picture_that_exif_turns_is_written_upright(tmp_path: Path) -> None:
    """Another reader, which may or may not turn it, sees the pixels that the points were placed on."""
    folder = tmp_path / "a"
    folder.mkdir()
    upright = dots((50, 70), np.array([[12.0, 9.0]])) // np.array([1, 2, 4], np.uint8)  # in colour
    tag = Image.Exif()
    tag[0x112] = 6
    Image.fromarray(np.rot90(upright).copy()).save(folder / "a.png", exif=tag)
    (folder / "points.csv").write_text("image,nose_x,nose_y\na.png,12,9\n")
    convert(PointsCSV(folder / "points.csv"), tmp_path / "b", "coco")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b" / "images" / "a.png")), upright)
    data = COCO(tmp_path / "b" / "annotations.json")
    assert np.array_equal(data.read(0)[0], upright)
    assert data.read(0)[1].tolist() == [[12, 9]]


def test_pictures_of_one_name_in_two_folders_stay_two(tmp_path: Path) -> None:
    write_pts(tmp_path / "a" / "x")
    write_pts(tmp_path / "a" / "y")
    first = open_dataset(tmp_path / "a")
    for form in WRITERS:
        if form in ("npz", "kaggle_csv"):
            continue
        convert(first, tmp_path / form, form)
        assert len(open_dataset(tmp_path / form)) == 6
        assert len(list((tmp_path / form).rglob("*.png"))) == 6


def test_every_sample_has_a_pts_of_its_own(tmp_path: Path) -> None:
    """Where a number behind a name is another image's name, and where two images have one stem."""
    points = {"img.png": [(5, 6), (30, 20)], "img_1.png": [(12, 9)], "c.png": [(25, 7)], "c.bmp": [(8, 25)]}
    rows = []
    for name, xy in points.items():
        cv2.imwrite(str(tmp_path / name), dots((40, 40), np.array(xy, float)))
        rows += [f"{name},{x},{y}" for x, y in xy]
    (tmp_path / "points.csv").write_text("\n".join(["image,nose_x,nose_y", *rows]))
    convert(PointsCSV(tmp_path / "points.csv"), tmp_path / "b", {"name": "pts", "index_base": 0})
    data = open_dataset(tmp_path / "b", {"name": "pts", "index_base": 0})
    assert {data.image_name(i) for i in range(len(data))} == {
        "img_1.png", "img_2.png", "img_3.png", "c_1.png", "c_2.bmp"}  # fmt: skip
    found = sorted(data.read(i)[1][0].tolist() for i in range(len(data)))
    assert found == sorted(list(map(float, xy)) for each in points.values() for xy in each)
    for i in range(len(data)):
        image, (point, *_) = data.read(i)
        assert np.abs(brightest(image, point) - point).max() < 0.1


def test_pictures_that_would_fall_together_are_refused(tmp_path: Path, tree: Tree) -> None:
    write_pictures(tmp_path / "images")
    write_pictures(tmp_path / "images" / "images")
    (tmp_path / "points.csv").write_text("image,nose_x,nose_y\na.png,1,2\nimages/a.png,3,4\n")
    before = tree(tmp_path)
    with pytest.raises(KpnetError, match=r"a\.png would both be written as .*a\.png: rename one"):
        convert(PointsCSV(tmp_path / "points.csv"), tmp_path / "b", "deeplabcut")
    (tmp_path / "points.csv").write_text("image,nose_x,nose_y\nimages/a.png,1,2\n../images/a.png,3,4\n")
    before = tree(tmp_path)
    with pytest.raises(KpnetError, match=r"a\.png would both be written as .*a\.png: rename one"):
        convert(PointsCSV(tmp_path / "points.csv"), tmp_path / "b", "pts")
    assert tree(tmp_path) == before
    assert tree(tmp_path) == before


def test_nothing_is_overwritten_or_left_half_written(tmp_path: Path, tree: Tree, monkeypatch: Any) -> None:
    first = one_size(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b.npz").write_text("mine")
    before = tree(tmp_path)
    for target, form in (("b", "coco"), ("b.npz", None), ("a", "pts")):
        with pytest.raises(KpnetError, match="it exists already"):
            convert(first, tmp_path / target, form)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        convert(first, tmp_path / "c", "coco")
    assert tree(tmp_path) == before


REFUSED: dict[str, tuple[str, Any, str]] = {
    "no format": ("b", None, "b: give its format with --to; there are: coco, pts, deeplabcut"),
    "unknown": ("b", "cooc", r'no writer for "cooc" \(did you mean "coco"\?\)'),
    "unknown option": (
        "b",
        {"name": "pts", "index_bse": 0},
        r'--to pts: unknown key "index_bse" \(did you mean "index_base"\?\)',
    ),
    "wrong option": ("b", {"name": "pts", "index_base": 2}, "--to pts: index_base: "),
    "suffix": ("b.json", "npz", r"b\.json: npz is a file; expected a name that ends in \.npz"),
    "no folder": ("gone/b", "coco", "there is no folder .*gone"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written(tmp_path: Path, name: str) -> None:
    target, form, message = REFUSED[name]
    with pytest.raises(KpnetError, match=message) as caught:
        convert(one_size(tmp_path / "a"), tmp_path / target, form)
    assert "\n" not in str(caught.value)


def test_images_of_several_sizes_are_no_array(tmp_path: Path) -> None:
    first = COCO(write_coco(tmp_path / "a"))
    with pytest.raises(KpnetError, match=r"b\.png: 64x48 pixels; npz holds images of one size; crop or resize"):
        convert(first, tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()


def test_the_command(kpnet: Run, tmp_path: Path) -> None:
    write_pts(tmp_path / "faces", index_base=0)
    done = kpnet("data", "convert", "faces", "out", "--from", "{name: pts, index_base: 0}", "--to", "coco")
    assert done.code == 0
    assert done.out == "3 samples: out\n"
    assert np.allclose(open_dataset(tmp_path / "out").read(0)[1], np.array([[20.25, 12.5], [50, 14], [14, 40]]))
    done = kpnet("data", "convert", "out", "back", "--to", "pts")
    assert done.code == 0
    kpnet("data", "convert", "out", "back", "--to", "pts").refused("back: it exists already")
    kpnet("data", "convert", "gone", "x", "--to", "pts").refused("gone: no such file or folder")
    kpnet("data", "convert", "out", "x", "--to", "{").refused("--to: not YAML")
