"""What all formats with labels in arrays share: what is skipped, what is kept, and how samples are numbered."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.formats.instances import InstanceDataset, Instances, tell_apart, unnamed_skeleton
from kpnet.data.formats.skipped import Skipped

PAIR = Skeleton.of_names(["left_eye", "right_eye"])
SOURCE = Path("labels.file")


class Arrays(InstanceDataset):
    """Images of 10x20 whose grey value is the sample's index among those handed over."""

    def image(self, index: int) -> np.ndarray:
        return np.full((10, 20), self.kept[index], np.uint8)


def instances(count: int = 4, **values: Any) -> Instances:
    """`count` instances on three images, 2, 0, 2, 1, …; point k of instance i is at (i, k)."""
    xy = np.stack(np.broadcast_arrays(np.arange(float(count))[:, None], np.arange(2.0)), -1).copy()
    image = np.resize([2, 0, 2, 1], count)
    names = np.array(["a", "b", "c"])
    return Instances(PAIR, names, image, xy, [f"row {i}" for i in range(count)], **values)


def opened(given: Instances, *, strict: bool = False, **options: Any) -> Arrays:
    return Arrays(given, Skipped(SOURCE, strict), **options)


def test_samples_are_in_the_files_order_and_numbered_within_their_image() -> None:
    data = opened(instances())
    assert [data.image_name(i) for i in range(len(data))] == ["c", "a", "c", "b"]
    assert [data.instance(i) for i in range(len(data))] == [0, 0, 1, 0]
    image, xy = data.read(2)
    assert image.shape == (10, 20)
    assert xy.tolist() == [[2, 0], [2, 1]]
    assert data.visibility(0).tolist() == [2, 2]
    assert data.box(0) is None
    xy[:] = 9
    assert data.keypoints(2).tolist() == [[2, 0], [2, 1]], "a copy was given"


def test_visibility_and_coordinates_agree() -> None:
    """A point of level 0 has no coordinates, one without coordinates has level 0, and no level means seen."""
    given = instances(3, visibility=np.array([[0.0, 1], [2, np.nan], [np.nan, 2]]))
    given.keypoints[2, 0] = np.nan
    data = opened(given)
    assert [data.visibility(i).tolist() for i in range(3)] == [[0, 1], [2, 2], [0, 2]]
    assert np.isnan(data.keypoints(0)[0]).all()
    assert data.labels().tolist() == [[False, True], [True, True], [False, True]]


def spoiled(name: str) -> Instances:
    """Instance 1 of 4 is wrong in one way."""
    boxes = np.tile([0.0, 0, 5, 5], (4, 1))
    given = instances(visibility=np.full((4, 2), 2.0), boxes=boxes, sizes=np.tile([10, 20], (3, 1)))
    assert given.visibility is not None
    if name == "infinite":
        given.keypoints[1, 1] = [np.inf, 3]
    elif name == "level":
        given.visibility[1, 0] = 3
    elif name == "levels":
        given.visibility[1] = 3
    elif name == "half a box":
        boxes[1] = [4, np.nan, 6, 8]
    elif name == "endless box":
        boxes[1] = [0, 0, 1e8, 5]
    elif name == "no box":
        boxes[1] = np.nan
    elif name == "flat box":
        boxes[1] = [4, 4, 4, 8]
    elif name == "box beyond":
        boxes[1] = [19.5, 0, 25, 5]  # the image ends at 19.5
    return given


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("infinite", ("right_eye", "inf, 3")),
        ("levels", ("left_eye", "3")),
        ("flat box", ("[4, 4, 4, 8]",)),
        ("half a box", ("[4, nan, 6, 8]",)),
        ("endless box", ("[0, 0, 1e+08, 5]",)),
        ("box beyond", ("[19.5, 0, 25, 5]", "20x10")),
        ("no box", ("no box",)),
    ],
)
def test_what_cannot_be_used_is_skipped_with_one_warning(
    name: str, parts: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    boxed = "box" in name
    with caplog.at_level(logging.WARNING, "kpnet"):
        data = opened(spoiled(name), boxed_only=boxed)
    assert data.kept.tolist() == [0, 2, 3]
    assert [int(data.read(i)[0][0, 0]) for i in range(3)] == [0, 2, 3]
    assert [data.instance(i) for i in range(3)] == [0, 1, 0], "numbered among those that are left"
    (message,) = data.skipped.messages
    assert all(part in message for part in ("row 1", *parts)), message
    (record,) = caplog.records
    assert str(SOURCE) in record.getMessage()
    with pytest.raises(KpnetError, match="row 1"):
        opened(spoiled(name), boxed_only=boxed, strict=True)
    if not boxed:
        return
    data = opened(spoiled(name))  # which needs no boxes
    assert data.kept.tolist() == [0, 1, 2, 3]
    assert [data.box(i) is None for i in range(4)] == [False, True, False, False]
    assert len(data.skipped.notes) == (name != "no box")


def test_an_odd_visibility_costs_its_point_alone(caplog: pytest.LogCaptureFixture) -> None:
    data = opened(spoiled("level"))
    assert data.kept.tolist() == [0, 1, 2, 3]
    assert data.visibility(1).tolist() == [0, 2]
    assert data.labels()[1].tolist() == [False, True]
    given = spoiled("level")
    given.sources = np.ones((4, 2), np.uint8)
    assert np.array(opened(given).point_sources(1)).tolist() == [0, 1]  # nobody said that the point is absent
    (note,) = data.skipped.notes
    assert note == "row 1: left_eye has visibility 3; expected 0, 1 or 2; the point is left out"
    assert note in caplog.text
    with pytest.raises(KpnetError, match="row 1"):
        opened(spoiled("level"), strict=True)


def test_instances_that_stand_twice_are_noted() -> None:
    given = instances()
    given.keypoints[2] = given.keypoints[0]
    given.keypoints[3] = given.keypoints[1]  # on another image
    data = opened(given, strict=True)
    assert len(data) == 4
    assert data.skipped.notes == [
        "instances with the same points on the same image appear more than once: row 2 is row 0"
    ]


def test_one_name_of_several_images_is_told_apart() -> None:
    pixels = np.array([0, 1, 0, 2, 1, 3], np.uint8).reshape(-1, 1, 1)
    skipped = Skipped(SOURCE)
    names = tell_apart(["a", "a", "a", "b", "a", "a_2"], pixels, skipped)
    assert names == ["a", "a_3", "a", "b", "a_3", "a_2"]
    assert skipped.notes == ['names that stand for several images are kept apart by a number: "a" as "a_3"']
    assert tell_apart(["a", "b"], pixels[:2], Skipped(SOURCE)) == ["a", "b"]


def test_a_box_that_touches_the_image_is_used() -> None:
    given = spoiled("")
    assert given.boxes is not None
    given.boxes[1:3] = [[19.4, 0, 25, 5], [-9, 0, -0.4, 5]]
    boxes = [opened(given).box(i) for i in (1, 2)]
    assert [None if box is None else box.tolist() for box in boxes] == given.boxes[1:3].tolist()


def test_all_instances_of_an_image_that_cannot_be_read_are_skipped() -> None:
    data = Arrays(instances(), Skipped(SOURCE), [None, None, "c is damaged"])
    assert data.kept.tolist() == [1, 3]
    assert [m.partition(":")[0] for m in data.skipped.messages] == ["row 0", "row 2"]
    with pytest.raises(KpnetError, match="c is damaged"):
        Arrays(instances(), Skipped(SOURCE), ["a", "b", "c is damaged"])


def test_an_instance_with_several_faults_is_named_once() -> None:
    given = spoiled("infinite")
    assert given.boxes is not None
    given.boxes[1] = 0
    assert len(opened(given).skipped.messages) == 1


def test_complete_only_asks_for_the_points_that_skeleton_and_file_share() -> None:
    given = instances()
    given.keypoints[[0, 3], 1] = np.nan
    assert opened(given, complete_only=True).kept.tolist() == [1, 2]
    assert opened(instances(), complete_only=True).kept.tolist() == [0, 1, 2, 3]
    left = Skeleton.load(["left_eye", "tail"])
    given.keypoints[2, 0] = np.nan
    assert opened(given, complete_only=True, skeleton=left).kept.tolist() == [0, 1, 3]
    given.keypoints[:, 0] = np.nan
    with pytest.raises(KpnetError, match="complete_only"):
        opened(given, complete_only=True)


def test_the_skeleton_asked_for_is_taken_where_its_points_are_the_files() -> None:
    known = Skeleton(PAIR.names, pairs=PAIR.pairs, name="eyes")
    assert opened(instances(), skeleton=known).skeleton.name == "eyes"
    assert opened(instances(), skeleton=Skeleton(("right_eye", "left_eye"))).skeleton.names == PAIR.names
    assert unnamed_skeleton(2, known) is known
    assert unnamed_skeleton(3, known).names == ("0", "1", "2")
