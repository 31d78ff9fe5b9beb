"""The file of labels: what it holds, who may change it, and what a crash leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import COCO, PointsCSV
from kpnet.labelling.label_rows import Instance, Point, parse_instances
from kpnet.labelling.labels import ChangedFileError, LabelFile, StaleRevisionError, is_label_file, read_labels

NAMES = ("left_eye", "right_eye", "<b>nose</b>")
IMAGES = ("a.png", 'b, "c".png', "sub/d.png")
FIRST = Instance((Point(1.5, 2.25, 2, "person"), Point(3.0, 4.1234, 1, "proposed"), Point(None, None, 0, "person")))
SECOND = Instance((None, Point(-0.5, 0.0, 2, "person"), None), (0.0, 1.0, 7.5, 8.25))


@pytest.fixture(params=["csv", "json"])
def labels(tmp_path: Path, request: pytest.FixtureRequest) -> LabelFile:
    (tmp_path / "sub").mkdir()
    for name in IMAGES:
        cv2.imwrite(str(tmp_path / name), np.zeros((9, 10), np.uint8))
    return LabelFile(tmp_path / f"labels.{request.param}", IMAGES, Skeleton(NAMES))


def test_what_is_put_is_read_again_and_by_the_format(labels: LabelFile) -> None:
    assert not labels.path.exists()
    assert labels.put(1, (FIRST, SECOND), 0) == 1
    assert labels.put(2, (SECOND,), 1) == 2
    again = LabelFile(labels.path, IMAGES)
    assert again.skeleton is not None
    assert again.skeleton.names == NAMES
    assert [again.instances(i) for i in range(3)] == [(), (FIRST, SECOND), (SECOND,)]
    assert again.labelled_counts() == [0, 4, 1]
    read = PointsCSV if labels.path.suffix == ".csv" else COCO
    data = read(labels.path, proposed_weight=0.25)
    assert not data.skipped.messages + data.skipped.notes
    assert [data.image_name(i) for i in range(3)] == [IMAGES[1], IMAGES[1], IMAGES[2]]
    np.testing.assert_allclose(data.keypoints(0), [[1.5, 2.25], [3, 4.1234], [np.nan, np.nan]])
    assert data.visibility(0).tolist() == [2, 1, 0]
    assert data.point_weights(0).tolist() == [1, 0.25, 1]
    if read is PointsCSV:
        assert data.box(0) is None
    else:  # COCO has a box for each instance: here that of the points' pixels
        np.testing.assert_allclose(data.box(0), [1, 1.75, 3.5, 4.6234])  # type: ignore[arg-type]
    assert data.box(1).tolist() == [0, 1, 7.5, 8.25]  # type: ignore[union-attr]


def test_rows_of_other_images_stay(labels: LabelFile) -> None:
    labels.put(1, (FIRST,), 0)
    fewer = LabelFile(labels.path, IMAGES[:1])
    fewer.put(0, (SECOND,), 0)
    assert read_labels(labels.path)[1] == {IMAGES[0]: (SECOND,), IMAGES[1]: (FIRST,)}


def test_a_stale_revision_writes_nothing(labels: LabelFile) -> None:
    labels.put(0, (FIRST,), 0)
    before = labels.path.read_bytes()
    with pytest.raises(StaleRevisionError, match="revision 1"):
        labels.put(0, (), 0)
    assert labels.path.read_bytes() == before
    assert labels.instances(0) == (FIRST,)


def test_another_programs_change_is_never_overwritten(labels: LabelFile) -> None:
    labels.put(0, (FIRST,), 0)
    other = LabelFile(labels.path, IMAGES)
    other.put(1, (SECOND,), 0)
    theirs = labels.path.read_bytes()
    with pytest.raises(ChangedFileError, match=r"labels\.(csv|json): was changed by another program"):
        labels.put(0, (), 1)
    assert labels.path.read_bytes() == theirs
    assert labels.continue_beside() == 2
    before, labels_2 = other.path, f"labels_2{other.path.suffix}"
    assert labels.path.name == labels_2
    labels.put(2, (SECOND,), 2)
    assert read_labels(labels.path)[1] == {IMAGES[0]: (FIRST,), IMAGES[2]: (SECOND,)}
    assert before.read_bytes() == theirs
    labels.path.unlink()
    with pytest.raises(ChangedFileError, match="was removed"):
        labels.put(0, (), 3)


def test_a_reload_takes_what_the_file_has(labels: LabelFile) -> None:
    labels.put(0, (FIRST,), 0)
    LabelFile(labels.path, IMAGES).put(0, (SECOND,), 0)
    assert labels.reload() == 2
    assert labels.instances(0) == (SECOND,)
    labels.put(1, (FIRST,), 2)


def test_a_reload_that_fails_leaves_the_file_to_the_other_program(labels: LabelFile, tmp_path: Path) -> None:
    labels.put(0, (FIRST,), 0)
    other = LabelFile(tmp_path / f"other{labels.path.suffix}", IMAGES, Skeleton((*NAMES, "tail")))
    other.put(0, (Instance((*FIRST.points, Point(1.0, 1.0, 2, "person"))),), 0)
    theirs = other.path.read_bytes()
    labels.path.write_bytes(theirs)
    with pytest.raises(KpnetError, match="has labels of tail, which the skeleton lacks"):
        labels.reload()
    assert labels.instances(0) == (FIRST,)
    with pytest.raises(ChangedFileError):
        labels.put(0, (), labels.revision)
    assert labels.path.read_bytes() == theirs


def test_a_file_that_was_only_touched_is_not_changed(labels: LabelFile) -> None:
    labels.put(0, (FIRST,), 0)
    labels.path.write_bytes(labels.path.read_bytes())
    assert labels.put(0, (SECOND,), 1) == 2


def test_a_full_disk_leaves_file_and_labels(labels: LabelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    labels.put(0, (FIRST,), 0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(labels.path))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            labels.put(0, (SECOND,), 1)
    assert labels.instances(0) == (FIRST,)
    assert read_labels(labels.path)[1] == {IMAGES[0]: (FIRST,)}
    assert [path.name for path in labels.path.parent.glob(".*")] == []
    assert labels.put(0, (SECOND,), 1) == 2


def test_a_skeleton_keeps_labels_by_name(labels: LabelFile) -> None:
    labels.put(0, (Instance((FIRST.points[0], FIRST.points[1], None)),), 0)
    labels.set_skeleton(Skeleton(("ear", "right_eye", "left_eye")))
    assert labels.instances(0) == (Instance((None, FIRST.points[1], FIRST.points[0])),)
    skeleton, found = read_labels(labels.path)
    assert (skeleton.names, found) == (("ear", "right_eye", "left_eye"), {"a.png": labels.instances(0)})
    with pytest.raises(KpnetError, match="has labels of right_eye, which the skeleton lacks"):
        labels.set_skeleton(Skeleton(("ear", "left_eye")))
    with pytest.raises(KpnetError, match="has labels of right_eye"):
        LabelFile(labels.path, IMAGES, Skeleton(("left_eye",)))


@pytest.mark.parametrize("name", ["", " a", "a,b", 'a"b', "a;b", "a\nb", "a" * 101, "a\\b"])
def test_names_that_no_column_can_have_are_refused(labels: LabelFile, name: str) -> None:
    with pytest.raises(KpnetError, match="expected"):
        labels.set_skeleton(Skeleton((name,)))


@pytest.mark.parametrize("name", ["labels.csv", "labels.json"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "image,nose_x,nose_y\na.png,1,2\n",
        "hello",
        "image,box_x0,box_y0,box_x1,box_y1\n",
        "\x00\xff",
        '{"images": [], "annotations": [], "categories": []}',
    ],
)
def test_a_file_of_another_program_is_refused(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert not is_label_file(path)
    with pytest.raises(KpnetError, match=r"labels\.(csv: .*|json: exists, and kpnet label|json, line 1: not JSON)"):
        LabelFile(path, IMAGES)
    assert path.read_text() == text


@pytest.mark.parametrize(("old", "new", "why"), [(",2.25,", ",x,", "could not"), (",2.25,", ",nan,", "point"),
                                                 (",person", ",me", "point"), (",0.0", "", "cells"),
                                                 ("1.5,2.25,2", "1.5,2.25,9", "point")])  # fmt: skip
@pytest.mark.parametrize("labels", ["csv"], indirect=True)
def test_a_damaged_row_is_named(labels: LabelFile, old: str, new: str, why: str) -> None:
    labels.put(0, (FIRST,), 0)
    text = labels.path.read_text()
    old = old if old in text else ",,,,\n"
    labels.path.write_text(text.replace(old, new or "\n", 1))
    with pytest.raises(KpnetError, match=rf"labels\.csv: line 2: .*{why}"):
        read_labels(labels.path)


@pytest.mark.parametrize(
    "value",
    [
        None, [None], [{}], [{"points": []}], [{"points": [1, 2, 3]}], [{"points": [[1, 2, 2, "robot"], None, None]}],
        [{"points": [[1, float("nan"), 2, "person"], None, None]}], [{"points": [[1, 1e9, 2, "person"], None, None]}],
        [{"points": [[1, 2, 3, "person"], None, None]}], [{"points": [[1, 2, 0, "person"], None, None]}],
        [{"points": [[True, 2, 2, "person"], None, None]}], [{"points": [None] * 3, "box": [5, 0, 1, 9]}],
        [{"points": [None] * 3, "box": "all"}], [{"points": [[10**400, 2, 2, "person"], None, None]}],
        [{"points": [[1, 2, 2, ""], None, None]}], [{"points": [None] * 3}] * 1001,
    ],
)  # fmt: skip
def test_what_is_no_label_is_refused(value: object) -> None:
    with pytest.raises(KpnetError, match="expected"):
        parse_instances(value, 3)


def test_threads_take_turns(labels: LabelFile) -> None:
    """Each thread tries until its revision is the newest: no change is lost."""

    def write(index: int) -> None:
        for _ in range(10):
            while True:
                revision = labels.revision
                try:
                    labels.put(index, (*labels.instances(index), SECOND), revision)
                    break
                except StaleRevisionError:
                    continue

    threads = [threading.Thread(target=write, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert labels.revision == 30
    assert read_labels(labels.path)[1] == dict.fromkeys(IMAGES, (SECOND,) * 10)


@pytest.mark.parametrize("name", ["labels.csv", "labels.json"])
def test_kill_9_loses_at_most_the_point_in_hand(tmp_path: Path, name: str) -> None:
    """A process that writes as fast as it can is killed: the file has every change that was acknowledged."""
    script = (
        "import sys; from pathlib import Path; from kpnet.core.skeleton import Skeleton\n"
        "from kpnet.labelling.labels import LabelFile; from kpnet.labelling.label_rows import Instance, Point\n"
        "labels = LabelFile(Path(sys.argv[1]), [str(i) for i in range(500)], Skeleton(('a',)))\n"
        "for i in range(500):\n"
        "    labels.put(i, (Instance((Point(float(i), 1.0, 2, 'person'),)),), i); print(i, flush=True)\n"
    )
    path = tmp_path / name
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 60:
            process.send_signal(signal.SIGKILL)
            break
    acknowledged = max([60, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    process.wait()
    assert acknowledged < 499, "it had ended before"
    found = read_labels(path)[1]
    assert acknowledged + 1 <= len(found) <= acknowledged + 2
    assert all(float(name) == instances[0].points[0].x for name, instances in found.items())  # type: ignore[union-attr]
