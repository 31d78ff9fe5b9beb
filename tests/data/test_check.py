"""What `kpnet data check` finds, in data that was spoilt on purpose."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.console import Run
from support.format_files import coco_values, write_coco, write_dlc, write_pts
from support.paths import SHARED

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import COCO, DeepLabCut, KeypointDataset, SyntheticFaces
from kpnet.data.build import open_dataset
from kpnet.data.check import check_data, find_swapped_sides

MICE = SHARED / "data" / "deeplabcut" / "openfield"


def test_counts(tmp_path: Path) -> None:
    found = check_data(COCO(write_coco(tmp_path)))
    assert (found.samples, found.images, found.most, found.boxes) == (4, 3, 2, 4)
    assert found.missing.tolist() == [0, 1, 0]
    assert found.hidden.tolist() == [0, 0, 4]
    assert found.outside.tolist() == [0, 0, 0]
    assert found.sizes == ((64, 48), (80, 60))
    assert not found.unusable
    assert not found.duplicates
    assert not found.same_names


def test_what_is_wrong(tmp_path: Path) -> None:
    values = coco_values()
    values["annotations"][2]["keypoints"][:2] = [64, 10]  # the image is 64 wide: to 63.5
    values["annotations"] += [{**values["annotations"][0], "id": 99, "keypoints": [1]}]
    for name in ("copies/a.png", "copies/d.png", "broken.png"):
        values["images"].append({"id": len(values["images"]), "file_name": name})
        row = {**values["annotations"][0], "id": 50 + len(values["images"]), "image_id": len(values["images"]) - 1}
        values["annotations"].append(row)
    path = write_coco(tmp_path, values)
    images = tmp_path / "images"
    (images / "copies").mkdir()
    shutil.copy(images / "a.png", images / "copies" / "a.png")
    cv2.imwrite(str(images / "copies" / "d.png"), np.zeros((60, 80, 3), np.uint8))
    whole = bytearray((images / "a.png").read_bytes())
    whole[len(whole) // 2 - 40 : len(whole) // 2 + 40] = bytes(80)  # both ends are as they were
    (images / "broken.png").write_bytes(whole)
    found = check_data(COCO(path))
    assert found.outside.tolist() == [1, 0, 0]
    assert len(found.outside_samples) == 1
    assert len(found.skipped) == 1
    assert "annotation 99" in found.skipped[0]
    assert len(found.failed) == 1
    assert "broken.png" in found.failed[0]
    assert found.duplicates == [["a.png", "copies/a.png"]]
    assert found.same_names == [["a.png", "copies/a.png"]]
    assert found.unusable == 2


class Odd(KeypointDataset):
    """Images of 1 MB: in each ten, one that cannot be read, one that is black, one with a point outside, two alike."""

    skeleton = Skeleton(("a",))

    def __init__(self, count: int, log: list[str]) -> None:
        super().__init__()
        self.count, self.log = count, log

    def __len__(self) -> int:
        return self.count

    def visibility(self, index: int) -> np.ndarray:
        return np.full(1, 2, np.uint8)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        self.log.append(f"read {index}")
        kind = index % 10
        if kind == 2:
            raise KpnetError(f"{index}: cut short")
        image = np.full((1000, 1000), 9 if kind == 4 else 200, np.uint8)
        if kind != 4 or index > 4:
            image.ravel()[:2] = index % 256, (index - (kind == 9)) // 256
        if kind == 9:  # like the one before
            image.ravel()[0] -= 1
        return image, np.full((1, 2), 2000.0 if kind == 6 else 5.0)


def test_a_finding_is_given_before_the_next_image_is_read() -> None:
    log: list[str] = []
    found = check_data(Odd(10, log), on_finding=log.append)
    assert [log[k + 1] for k, line in enumerate(log[:-1]) if line in ("read 2", "read 4", "read 6", "read 9")] == [
        "2: cut short",
        "4: a single value everywhere",
        "6 #0: 1 points outside",
        "9: the same pixels as 8",
    ]
    assert len(log) == 10 + 4
    assert found.failed == ["2: cut short"]
    assert found.duplicates == [["8", "9"]]
    assert found.outside_samples == [6]


def test_no_image_stays_in_memory() -> None:
    """What is kept of 1 MB of pixels is their digest, their size and a line."""
    tracemalloc.start()
    try:
        check_data(Odd(60, []))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6


def faces(count: int = 40) -> tuple[np.ndarray, Skeleton]:
    data = SyntheticFaces(count, seed=3)
    return np.stack([data.read(index)[1] for index in range(count)]), data.skeleton


def test_swapped_sides_are_found_and_others_are_left_alone() -> None:
    xy, skeleton = faces()
    assert find_swapped_sides(xy, skeleton) == {}
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, len(xy))
    turns = np.stack(
        [np.stack([np.cos(angles), -np.sin(angles)], -1), np.stack([np.sin(angles), np.cos(angles)], -1)], -2
    )
    xy = np.einsum("nij,nkj->nki", turns, xy)  # any way up
    xy[7] = xy[7, skeleton.flip_permutation]
    a, b = (skeleton.names.index(name) for name in skeleton.pairs[2])
    xy[9, [a, b]] = xy[9, [b, a]]
    xy[11, 3] = np.nan
    found = find_swapped_sides(xy, skeleton)
    assert list(found) == [7, 9]
    assert found[7] == "left and right may be swapped"
    assert " and ".join(skeleton.pairs[2]) in found[9]


def test_sides_where_nothing_can_be_said() -> None:
    xy, skeleton = faces(10)
    assert find_swapped_sides(np.full_like(xy, np.nan), skeleton) == {}
    assert find_swapped_sides(xy, Skeleton(skeleton.names)) == {}
    assert find_swapped_sides(np.zeros_like(xy), skeleton) == {}
    assert find_swapped_sides(xy[:2], skeleton) == {}


@pytest.mark.skipif(not MICE.is_dir(), reason=f"no {MICE} (set KPNET_SHARED)")
def test_the_one_mouse_whose_ears_are_swapped() -> None:
    """Frame 102 of DeepLabCut's open field example, as the image shows."""
    data = DeepLabCut(MICE)
    xy = np.stack([data.keypoints(index) for index in range(len(data))])
    found = find_swapped_sides(xy, data.skeleton)
    assert [data.image_name(index) for index in found] == ["labeled-data/m4s1/img0102.png"]


def test_the_command(kpnet: Run, tmp_path: Path) -> None:
    write_coco(tmp_path / "data")
    done = kpnet("data", "check", "data")
    assert done.code == 0, done
    assert "4 samples on 3 images, at most 2 per image; 4 boxes" in done.out
    assert "11 of 12 points labelled, 4 hidden, 0 outside" in done.out
    assert [line.split() for line in done.out.splitlines() if line.startswith("left_ear")] == [
        ["left_ear", "3", "1", "0", "0"]
    ]
    sheet = cv2.imread(str(tmp_path / "contact_sheet.png"))
    assert sheet is not None
    # Orange for left, blue for right (BGR), on pictures that are black and white.
    for colour in ((26, 140, 255), (255, 167, 63)):
        assert (np.abs(sheet.astype(int) - colour).max(-1) < 6).sum() > 15


def test_the_command_says_what_cannot_be_used_once(kpnet: Run, tmp_path: Path) -> None:
    write_pts(tmp_path / "faces")
    (tmp_path / "faces" / "a.pts").write_text("left [eye] right")
    done = kpnet("data", "check", "faces", "--sheet", "x.png", "--count", "1")
    assert done.code == 1
    assert "1 skipped:\n" in done.out
    assert 'a.pts: line 1: "left [eye] right"; expected x y of a point' in done.out
    assert done.err.count("\n") == 1
    assert done.err.startswith("a.pts: line 1")
    assert (tmp_path / "x.png").is_file()
    kpnet("data", "check", "faces", "--sheet", "x.jpg").refused("--sheet: x.jpg: expected a file that ends in .png")
    kpnet("data", "check", "faces", "--format", "coco").refused("faces: not a file; expected COCO")
    kpnet("data", "check", "faces", "--format", "{name: pts, a: 1}").refused('unknown key "a"')


def test_the_command_prints_all_that_cannot_be_read(kpnet: Run, tmp_path: Path) -> None:
    """As it is found, to stderr; the report has the number and the first ones."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(30):
        _, data = cv2.imencode(".png", np.random.default_rng(index).integers(0, 255, (40, 40, 3), np.uint8))
        (folder / f"{index:02}.png").write_bytes(
            b"no image" if index < 5 else bytes([*data[:900], *bytes(200), *data[1100:]])
        )
    cv2.imwrite(str(folder / "30.png"), np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    done = kpnet("data", "check", "photos")
    assert done.code == 1
    names = [Path(line.split(":")[0]).name for line in done.err.splitlines()]
    assert names == [f"{index:02}.png" for index in range(30)]
    assert "5 skipped" in done.out
    assert "25 images that cannot be read" in done.out
    assert "… 5 more" in done.out


def test_a_format_is_told_from_the_data(tmp_path: Path) -> None:
    write_dlc(tmp_path / "dlc")
    for path in (tmp_path / "dlc", tmp_path / "dlc" / "config.yaml"):
        assert type(open_dataset(path)) is DeepLabCut
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "p.csv").write_text('"image",a_x,a_y\n')
    with pytest.raises(KpnetError, match="no usable labelled instances"):
        open_dataset(tmp_path / "p")
    unclear = {
        "x.txt": ("", "unknown format"),
        "x.csv": ("scorer,a,a\nbodyparts", "expected header lines scorer, bodyparts and coords"),
        "y.csv": ("a_x,a_y\n", "no Image column"),
    }
    for name, (text, message) in unclear.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(KpnetError, match=message):
            open_dataset(tmp_path / name)
    (tmp_path / "p" / "q.json").write_text(json.dumps({}))
    with pytest.raises(KpnetError, match=r"several files of labels: p\.csv, q\.json; give one"):
        open_dataset(tmp_path / "p")
    (tmp_path / "none").mkdir()
    with pytest.raises(KpnetError, match="neither labels nor images"):
        open_dataset(tmp_path / "none")
