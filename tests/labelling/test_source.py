"""What there is to label: folders, videos, files of labels, and what may be written beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image
from support.format_files import write_coco

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import COCO
from kpnet.data.images import read_image
from kpnet.data.video import write_video
from kpnet.labelling.label_rows import Instance, Point
from kpnet.labelling.labels import LabelFile, is_label_file, read_labels
from kpnet.labelling.session import Session
from kpnet.labelling.source import open_source


def test_frames_of_a_video_are_spread_evenly_and_written_once(tmp_path: Path) -> None:
    with write_video(tmp_path / "clip.mp4", 25.0) as add:
        for level in range(0, 250, 10):
            add(np.full((32, 32, 3), level, np.uint8))
    source = open_source(tmp_path / "clip.mp4", frames=5)
    assert [path.name for path in source.images] == [f"frame_{n:06d}.png" for n in (0, 6, 12, 18, 24)]
    assert [int(source.read(i).mean().round(-1)) for i in range(5)] == [0, 60, 120, 180, 240]
    assert source.labels == tmp_path / "clip_labels.csv"
    before = {path: path.stat().st_mtime_ns for path in source.images}
    assert open_source(tmp_path / "clip.mp4", frames=3).images == source.images
    assert {path: path.stat().st_mtime_ns for path in source.images} == before


def test_a_folder_in_the_way_of_the_frames_is_left_alone(tmp_path: Path) -> None:
    with write_video(tmp_path / "clip.mp4", 25.0) as add:
        add(np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "clip_frames").mkdir()
    with pytest.raises(KpnetError, match="clip_frames: exists, and kpnet label did not write it"):
        open_source(tmp_path / "clip.mp4")


def test_a_labelled_file_is_where_the_labels_start_and_stays(data: Path) -> None:
    given = (data / "val.csv").read_bytes()
    source = open_source(data / "val.csv")
    session = Session(source)
    assert source.names == ("left_eye", "right_eye", "nose")
    first = session.labels.instances(0)
    session.put(0, [each.to_json() | {"points": [list(p) for p in each.points if p]} for each in first], 0)
    session.close()
    assert (data / "val.csv").read_bytes() == given
    skeleton, found = read_labels(data / "val_labels.csv")
    assert skeleton == source.skeleton
    assert list(found) == [f"val_images/{n:06d}.png" for n in range(5)]
    header, row = (line.split(",") for line in given.decode().splitlines()[:2])
    wanted = [float(row[header.index(f"left_eye_{axis}")]) for axis in "xy"]
    assert list(found["val_images/000000.png"][0].points[0] or ())[:2] == pytest.approx(wanted, abs=1e-4)
    pixels = read_image(data / "val_images" / "000000.png")[..., 0]
    assert pixels.ravel().tolist() == [int(v) for v in row[-1].split()]
    # The file that was written is labelled further as it is.
    again = Session(open_source(data / "val_labels.csv"))
    assert again.labels.path == data / "val_labels.csv"
    assert again.labels.labelled_counts() == [-1] * 5
    again.close()


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match="found no images in it"):
        open_source(tmp_path)


def test_a_skeleton_that_does_not_fit(data: Path) -> None:
    with pytest.raises(KpnetError, match=r"val.csv: has labels of nose, which the skeleton lacks"):
        Session(open_source(data / "val.csv"), skeleton=Skeleton(("left_eye", "right_eye", "ear")))


def test_a_file_of_labels_of_another_program_in_the_folder_is_not_replaced(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    (tmp_path / "labels.csv").write_text("image,nose_x,nose_y\na.png,1,2\n")
    with pytest.raises(KpnetError, match="kpnet label did not write it"):
        Session(open_source(tmp_path))


def test_out_must_be_a_csv_or_json_in_a_folder_that_exists(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    for out, why in (("labels.txt", r"ends in \.csv or \.json"), ("nowhere/labels.csv", "there is no folder")):
        with pytest.raises(KpnetError, match=why):
            Session(open_source(tmp_path), out=tmp_path / out)


def test_a_coco_file_stays_and_its_labels_go_on_in_a_new_one(tmp_path: Path) -> None:
    """Several instances or boxes are labelled into COCO JSON, unless a file of labels is there already."""
    foreign = write_coco(tmp_path)
    given = foreign.read_bytes()
    source = open_source(foreign)
    assert (source.labels, source.stays) == (tmp_path / "heads_labels.json", foreign)
    session = Session(source)
    session.put(0, json.loads(json.dumps(session.instances(0)["instances"])), 0)
    assert session.labels.skeleton == COCO(foreign).skeleton  # with its edges
    session.close()
    assert foreign.read_bytes() == given
    assert is_label_file(source.labels)
    before, after = COCO(foreign), COCO(source.labels)
    for index in range(len(before)):
        np.testing.assert_allclose(after.keypoints(index), before.keypoints(index), atol=1e-4)
        np.testing.assert_allclose(after.box(index), before.box(index), atol=1e-4)  # type: ignore[arg-type]
    assert open_source(foreign).labels == source.labels
    with pytest.raises(KpnetError, match=r"heads\.json: exists, and kpnet label did not write it"):
        Session(open_source(foreign), out=foreign)
    Session(open_source(foreign), out=tmp_path / "table.csv").close()


def test_the_file_of_labels_that_is_there_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    assert open_source(tmp_path).labels.name == "labels.csv"
    (tmp_path / "labels.json").write_text("{}")  # of another program
    assert open_source(tmp_path).labels.name == "labels.csv"
    (tmp_path / "labels.json").unlink()
    for name in ("labels.json", "labels.csv"):
        session = Session(open_source(tmp_path), out=tmp_path / name, skeleton=Skeleton(("nose",)))
        session.put(0, [{"points": [[1, 2, 2, "person"]], "box": None}], 0)
        session.close()
        caplog.clear()
        assert open_source(tmp_path).labels.name == name
    assert "labels.csv: the labels in" in caplog.text
    (tmp_path / "labels.csv").write_text("image,a_x,a_y\n")  # of another program
    assert open_source(tmp_path).labels.name == "labels.json"


def test_labels_of_the_stored_pixels_of_a_turned_image_are_not_taken(tmp_path: Path) -> None:
    """Of images that EXIF turns, COCO's labels are those of the stored pixels, unless the stated size is the other."""
    for name, orientation, size in (("square", 6, (20, 20)), ("half", 3, (20, 30)), ("upright", 6, (20, 30))):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"{name}.jpg", exif=exif)
    cv2.imwrite(str(tmp_path / "plain.jpg"), np.zeros((20, 20, 3), np.uint8))
    sizes = {"square": (20, 20), "half": (30, 20), "upright": (20, 30), "plain": (20, 20)}  # width and height
    values = {
        "images": [
            {"id": k, "file_name": f"{name}.jpg", "width": width, "height": height}
            for k, (name, (width, height)) in enumerate(sizes.items())
        ],
        "annotations": [{"id": k, "image_id": k, "category_id": 1, "keypoints": [5, 10, 2]} for k in range(4)],
        "categories": [{"id": 1, "name": "head", "keypoints": ["nose"]}],
    }
    (tmp_path / "heads.json").write_text(json.dumps(values))
    source = open_source(tmp_path / "heads.json")
    assert sorted(source.problems) == [0, 1]
    assert "square.jpg: turned by EXIF" in source.problems[0]
    assert sorted(source.start) == [2, 3]
    session = Session(source)
    session.put(3, [{"points": [[6, 10, 2, "person"]], "box": None}], 0)
    session.close()
    assert list(read_labels(session.labels.path)[1]) == ["upright.jpg", "plain.jpg"]


def test_what_a_file_of_labels_would_lose_stays_in_it_and_its_labels_go_on_in_another(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    labels = LabelFile(tmp_path / "mine.json", ["a.png"], Skeleton(("nose",)))
    labels.put(0, (Instance((Point(1.0, 2.0, 2, "person"),)),), 0)
    labels.path.write_text(labels.path.read_text().replace('{"info"', '{"licenses": [], "info"'))
    given = labels.path.read_bytes()
    with pytest.raises(KpnetError, match="has licenses, which kpnet label would not keep; give another --out"):
        open_source(labels.path)
    session = Session(open_source(labels.path, out=tmp_path / "other.json"))
    assert session.labels.path == tmp_path / "other.json"
    assert session.labels.instances(0)[0].points == (Point(1.0, 2.0, 2, "person"),)
    session.close()
    assert labels.path.read_bytes() == given


@pytest.mark.parametrize("name", ["labels.csv", "labels.json"])
def test_a_file_of_labels_is_parsed_once_unless_it_changes(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    labels = LabelFile(tmp_path / name, ["a.png"], Skeleton(("nose",)))
    labels.put(0, (Instance((Point(1.0, 2.0, 2, "person"),)),), 0)
    source, parsed = open_source(labels.path), []
    cls = type(labels.encoding)
    parse = cls.parse
    monkeypatch.setattr(cls, "parse", lambda *args: parsed.append(0) or parse(*args))  # type: ignore[func-returns-value]
    Session(source).close()
    assert parsed == []
    two = (Instance((Point(3.0, 2.0, 2, "person"),)),)
    labels.put(0, two, 1)
    session = Session(source)
    session.close()
    assert len(parsed) == 1
    assert session.labels.instances(0) == two


def test_pick_without_a_video(kpnet: Callable[..., Any], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    kpnet("label", tmp_path, "--pick", "difference").refused(
        "--pick: expected a video whose frames are picked", str(tmp_path), "leave out --pick"
    )
    kpnet("label", tmp_path / "gone.mp4", "--pick", "difference").refused("gone.mp4", "no such file")
