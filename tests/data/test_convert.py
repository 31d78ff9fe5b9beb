"""From format to format and back: points, names, visibility, boxes and images are what they were."""

from __future__ import annotations

import os
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
    write_points_csv,
    write_pts,
)

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
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


@pytest.mark.parametrize(
    "form",
    [
        "coco",
        "labelme",
        "label_studio",
        "cvat",
        "sleap",
        "yolo",
        "points_csv",
        "deeplabcut",
        {"name": "deeplabcut", "scorer": "me"},
    ],
)
def test_several_instances_an_image(tmp_path: Path, form: Any) -> None:
    first = COCO(write_coco(tmp_path / "a"))
    lost = convert(first, tmp_path / "b", form).lost
    holds = form in ("coco", "yolo", "labelme", "label_studio", "points_csv")
    edges = ["edges (2)"] if form in ("labelme", "label_studio", "yolo", "points_csv") else []
    boxes, hidden = ["boxes (4)"] if not holds else [], ["which points are hidden (4)"] if not holds else []
    assert lost == boxes + (hidden if form != "cvat" else []) + edges
    second = open_dataset(tmp_path / "b")
    same(first, second, boxes=holds, visibility=holds or form == "cvat")
    convert(second, tmp_path / "c", "coco")
    third = COCO(tmp_path / "c" / "annotations.json")
    same(first, third, boxes=holds, visibility=holds or form == "cvat")
    if form == "coco":
        assert np.allclose(third.areas, first.areas)
        assert third.skeleton.edges == first.skeleton.edges


def test_who_made_the_points_is_kept_or_counted(tmp_path: Path) -> None:
    """Columns NAME_source go to COCO and back; other formats hold none, and say of how many points."""
    path = write_points_csv(tmp_path)
    lines = path.read_text().splitlines()
    words = [f"{NAMES[0]}_source,{NAMES[2]}_source", "person,proposed", ",proposed", "proposed,", "person,person"]
    path.write_text("\n".join(f"{line},{more}" for line, more in zip(lines, words, strict=True)) + "\n")
    first = PointsCSV(path)
    expected = [[1, 0, 2], [0, 0, 2], [2, 0, 0], [1, 0, 1]]
    assert [np.array(first.point_sources(i)).tolist() for i in range(4)] == expected
    assert convert(first, tmp_path / "coco", "coco").lost == []
    second = COCO(tmp_path / "coco" / "annotations.json", proposed_weight=0.25)
    assert [second.point_weights(i)[2] for i in range(4)] == [0.25, 0.25, 1, 1]
    for parquet in (False, True):
        target = tmp_path / f"csv_{parquet}"
        convert(COCO(tmp_path / "coco" / "annotations.json"), target, {"name": "points_csv", "parquet": parquet})
        third = open_dataset(target)
        assert isinstance(third, PointsCSV)
        assert [np.array(third.point_sources(i)).tolist() for i in range(4)] == expected
    assert convert(first, tmp_path / "labelme", "labelme").lost == ["who made the points (6)"]


@pytest.mark.parametrize("start", [1, 0])
@pytest.mark.parametrize("write", [write_pts, write_dlc, write_points_csv])
def test_faces_as_pts_and_back(tmp_path: Path, write: Callable[[Path], Path], start: int) -> None:
    write(tmp_path / "a")
    first = open_dataset(tmp_path / "a", None if write is not write_pts else "pts")
    form = {"name": "pts", "index_base": start}
    lost = convert(first, tmp_path / "b", form).lost
    second = open_dataset(tmp_path / "b", form)
    if write is write_points_csv:  # two instances are on one picture
        assert lost == ["the points' names (3)", "which instances share an image (1)"]
        assert {path.name for path in (tmp_path / "b").glob("*.png")} == {"a_1.png", "a_2.png", "b.png", "c.png"}
    assert len(second) == len(first)
    for index in range(len(second)):
        image, xy = second.read(index)
        assert np.allclose(xy, first.read(index)[1], atol=1e-3, equal_nan=True)
        for point in xy[np.isfinite(xy).all(-1)]:
            assert np.abs(brightest(image, point) - point).max() < 0.1


def test_what_lies_outside_its_image_is_left_out_of_yolo_and_counted(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), dots((40, 40), np.array([[8.0, 9.0]])))
    header = "image,eye_l_x,eye_l_y,eye_r_x,eye_r_y,box_x0,box_y0,box_x1,box_y1"
    (tmp_path / "a.csv").write_text(f"{header}\na.png,8,9,-3,5,2,2,30,30\na.png,20,21,41,9,,,,\n")
    first = PointsCSV(tmp_path / "a.csv")
    assert convert(first, tmp_path / "b", "yolo").lost == ["points outside their images (2)"]
    back = open_dataset(tmp_path / "b")
    assert back.skeleton.pairs == (("eye_l", "eye_r"),)
    assert [back.visibility(i).tolist() for i in range(2)] == [[2, 0], [2, 0]]
    assert np.allclose(back.read(1)[1][0], [20, 21], atol=1e-3)
    assert np.allclose(back.box(0), [2, 2, 30, 30], atol=1e-3)  # type: ignore[arg-type]
    assert convert(first, tmp_path / "c", "labelme").lost == []
    assert np.allclose(open_dataset(tmp_path / "c").read(0)[1], first.read(0)[1], atol=1e-3)


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
    assert convert(first, tmp_path / "b.npz").lost == []
    same(first, open_dataset(tmp_path / "b.npz"))
    assert convert(first, tmp_path / "b.csv").lost == ["boxes (3)", "which points are hidden (3)"]
    grey = KaggleCSV(tmp_path / "b.csv")
    for index in range(3):
        assert np.array_equal(grey.read(index)[0], first.read(index)[0][..., 0])
        assert np.allclose(grey.read(index)[1], first.read(index)[1], atol=1e-3)
    assert convert(grey, tmp_path / "c", "points_csv").lost == []
    assert np.allclose(open_dataset(tmp_path / "c").read(2)[1], first.read(2)[1], atol=1e-3)


@pytest.mark.parametrize("target", ["b.npz", "b.csv"])
def test_tables_keep_the_folders_of_names(tmp_path: Path, target: str) -> None:
    one_size(tmp_path / "a")
    table = tmp_path / "a" / "points.csv"
    for number in range(3):
        file = tmp_path / "a" / f"{number}.png"
        (file.parent / "train").mkdir(exist_ok=True)
        file.rename(file.parent / "train" / file.name)
        table.write_text(table.read_text().replace(f"\n{number}.png", f"\ntrain/{number}.png"))
    first = PointsCSV(table)
    convert(first, tmp_path / target)
    back = open_dataset(tmp_path / target)
    assert [back.image_name(index) for index in range(3)] == [f"train/{number}.png" for number in range(3)]


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


def under_its_dot(data: KeypointDataset) -> list[bool]:
    """Whether all points of each sample lie on a dot of its own image."""
    found = []
    for index in range(len(data)):
        image, xy = data.read(index)
        grey = image if image.ndim == 2 else image[..., 0]
        points = xy[np.isfinite(xy).all(-1)].round().astype(int)
        found.append(bool((grey[points[:, 1], points[:, 0]] > 200).all()))
    return found


class Dots(KeypointDataset):
    """Samples with two dots each, on images of their own, by names that may be anything."""

    def __init__(self, names: list[str], numbers: list[int] | None = None) -> None:
        super().__init__()
        self.skeleton = Skeleton(("a", "b"))
        self.names = names
        every = np.random.default_rng(0).integers(4, 36, (len(names), 2, 2)).astype(float)
        self.points = every if numbers is None else every[numbers]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return dots((40, 40), self.points[index]), self.points[index].copy()

    def image_name(self, index: int) -> str:
        return self.names[index]


ODD_NAMES: dict[str, list[str]] = {
    "upper and lower case": ["a", "A", "a.png", "é", "E\u0301", "\u00c9"],
    "numbers that are taken": ["a", "A", "a_2", "A_2"],
    "up and away": ["../a", "../../a", "/a", "/tmp/../a", "x/../../a", " .. /a", "a"],
    "what no file has": ["a\0b", "a\nb", "a\u2028b", "\udcff", "\ud800", "a\\b", "a\x85b", "\x1b[31m"],
    "nothing": ["", " ", ".", "..", "/"],
    "long": ["a" * 300, "a" * 301, "é" * 200, f"{'b' * 300}/{'c' * 300}"],
    "markup": ["[/b]", "$x$", "a,b", 'a"b', "#1", "a: b", "-", "null", "1"],
    "folders": ["x/a", "X/a", "x_a", "images/a", "labeled-data/x/a"],
}


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("names", ODD_NAMES)
def test_each_image_is_written_beside_its_points_whatever_it_is_called(
    tmp_path: Path, tree: Tree, names: str, form: str
) -> None:
    first = Dots(ODD_NAMES[names])
    (tmp_path / "in" / "it").mkdir(parents=True)
    target = tmp_path / "in" / "it" / f"b{WRITERS[form].suffix}"
    done = convert(first, target, form)
    back = open_dataset(target, form if form in ("kaggle_csv", "pts") else None)
    assert done.samples == len(back) == len(first)
    assert under_its_dot(back) == [True] * len(first)
    assert len({back.image_name(i).casefold() for i in range(len(back))}) == len(first)
    assert sorted(back.read(i)[1].ravel().round(3).tolist() for i in range(len(back))) == sorted(
        xy.ravel().tolist() for xy in first.points
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"], "nothing is written outside"
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert all(len(os.fsencode(part)) < 256 for path in tree(tmp_path) for part in Path(path).parts)


@pytest.mark.parametrize("form", WRITERS)
def test_different_images_of_one_name_are_refused(tmp_path: Path, tree: Tree, form: str) -> None:
    with pytest.raises(KpnetError, match="samples 0 and 2 have different images of one name, a; give each image a na"):
        convert(Dots(["a", "b", "a"]), tmp_path / f"b{WRITERS[form].suffix}", form)
    assert tree(tmp_path) == {}
    same_twice = Dots(["a", "b", "a"], [0, 1, 0])
    done = convert(same_twice, tmp_path / f"c{WRITERS[form].suffix}", form)
    assert done.samples == 3


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("source", ["a.npz", "a.csv"])
def test_ids_that_repeat_stay_apart(tmp_path: Path, source: str, form: str, caplog: pytest.LogCaptureFixture) -> None:
    """Files put together: names 1 and 2 stand for two images each, and 1 has two instances on its first."""
    grey = Dots(["1", "2", "1", "2", "1"], [0, 1, 2, 3, 0])
    images = np.stack([grey.read(i)[0][..., 0] for i in range(5)])
    if source == "a.npz":
        np.savez(tmp_path / source, images=images, keypoints=grey.points, names=["a", "b"], image_names=grey.names)
    else:
        lines = ["ImageId,a_x,a_y,b_x,b_y,Image"]
        for name, xy, image in zip(grey.names, grey.points, images, strict=True):
            lines.append(",".join([name, *map(str, xy.ravel()), " ".join(map(str, image.ravel()))]))
        (tmp_path / source).write_text("\n".join(lines))
    first = open_dataset(tmp_path / source)
    assert 'kept apart by a number: "1" as "1_2", "2" as "2_2"' in caplog.text
    assert [first.image_name(i) for i in range(5)] == ["1", "2", "1_2", "2_2", "1"]
    assert [first.instance(i) for i in range(5)] == [0, 0, 0, 0, 1]
    target = tmp_path / f"b{WRITERS[form].suffix}"
    assert convert(first, target, form).samples == 5
    back = open_dataset(target, form if form in ("kaggle_csv", "pts") else None)
    assert len(back) == 5
    assert under_its_dot(back) == [True] * 5
    images_there = len({back.image_name(i) for i in range(5)})
    assert images_there == (5 if form == "pts" else 4)


def test_pictures_that_would_fall_together_get_a_number(tmp_path: Path) -> None:
    """DeepLabCut has one level of folders, and .. leads out of the target."""
    for folder, at in (("images", [1, 2]), ("images/images", [3, 4]), ("", [5, 6])):
        (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "in" / folder / "a.png"), dots((9, 9), np.array([at], float)))
    rows = ["image,nose_x,nose_y", "a.png,1,2", "images/a.png,3,4", "../a.png,5,6"]
    (tmp_path / "in" / "points.csv").write_text("\n".join(rows))
    first = open_dataset(tmp_path / "in" / "points.csv", {"name": "points_csv", "images": "images"})
    for form in ("deeplabcut", "pts", "coco", "points_csv"):
        assert convert(first, tmp_path / form, form).samples == 3
        back = open_dataset(tmp_path / form)
        assert under_its_dot(back) == [True] * 3
        assert len(list((tmp_path / form).rglob("*.png"))) == 3


@pytest.mark.parametrize("form", WRITERS)
def test_the_count_that_is_printed_is_the_count_that_is_there(kpnet: Run, tmp_path: Path, form: str) -> None:
    """Two instances of one image, one of them without a point."""
    images = np.tile(dots((40, 40), np.array([[8.0, 9.0]]))[..., :1], (3, 1, 1, 1))
    xy = np.full((3, 2, 2), np.nan)
    xy[0, 0] = xy[2, 0] = [8, 9]
    np.savez(tmp_path / "a.npz", images=images, keypoints=xy, names=["a", "b"], image_names=["x", "x", "y"])
    target = f"b{WRITERS[form].suffix}"
    done = kpnet("data", "convert", "a.npz", target, "--to", form)
    assert done.code == 0
    expected = 2 if form in ("deeplabcut", "cvat", "labelme", "label_studio", "sleap", "yolo") else 3
    assert done.out == f"{expected} samples: {target}\n"
    assert ("instances without a labelled point" in done.err) == (expected == 2)
    if form == "coco":
        assert len(COCO(tmp_path / target / "annotations.json", empty=True)) == 3
    else:
        read = form if form in ("kaggle_csv", "pts") else None
        assert len(open_dataset(tmp_path / target, read)) == expected


@pytest.mark.parametrize("form", ["points_csv", "kaggle_csv", "deeplabcut"])
def test_names_of_points_that_a_table_cannot_hold_are_refused(tmp_path: Path, tree: Tree, form: str) -> None:
    first = Dots(["x", "y"])
    first.skeleton = Skeleton(("a\nb", " b "))
    with pytest.raises(KpnetError, match=f"the samples cannot be written as {form}: read back, ") as caught:
        convert(first, tmp_path / f"b{WRITERS[form].suffix}", form)
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == {}


def test_what_is_written_as_coco_is_whole_for_others(tmp_path: Path) -> None:
    """pycocotools evaluates it against itself, though the samples have no boxes and one has no point."""
    from pycocotools.coco import COCO as Published
    from pycocotools.cocoeval import COCOeval

    first = Dots(["x", "y", "z"])
    first.points[2] = np.nan
    convert(first, tmp_path / "b", "coco")
    truth = Published(str(tmp_path / "b" / "annotations.json"))
    found = [{**a, "score": 1.0} for a in truth.loadAnns(truth.getAnnIds()) if a["num_keypoints"]]
    run: Any = COCOeval(truth, truth.loadRes(found), "keypoints")
    run.params.kpt_oks_sigmas = np.full(2, 0.1)
    run.evaluate()
    run.accumulate()
    run.summarize()
    assert run.stats[0] == pytest.approx(1)
    back = COCO(tmp_path / "b" / "annotations.json")
    low, high = first.points[0].min(0), first.points[0].max(0)
    assert back.box(0).tolist() == [*low - 0.5, *high + 0.5]  # type: ignore[union-attr]


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
    "no format": (
        "b",
        None,
        "b: give its format with --to; there are: coco, labelme, label_studio, cvat, sleap, pts, deeplabcut",
    ),
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
