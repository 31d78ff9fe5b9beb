"""Labelled images that are shown anew: which ones, without what, and where the labels go."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.labelling import server
from kpnet.labelling.again import draw_again
from kpnet.labelling.label_rows import Instance, Point
from kpnet.labelling.labels import LabelFile, read_labels
from kpnet.labelling.session import Session
from kpnet.labelling.source import open_source

NAMES = ("left_eye", "right_eye", "nose")
LABELLED, PROPOSED, IMAGES = 8, 2, 12  # the first eight by a person, two by a model, two not at all


def instance(source: str = "person") -> tuple[Instance, ...]:
    return (Instance((Point(1.0, 2.0, 2, source), Point(3.0, 2.0, 1, source), None), (0.0, 0.0, 8.0, 8.0)),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "my images"
    made.mkdir()
    names = [f"{k:02d}.png" for k in range(IMAGES)]
    for k, name in enumerate(names):
        cv2.imwrite(str(made / name), np.full((8, 8), k, np.uint8))
    labels = LabelFile(made / "labels.csv", names, Skeleton(NAMES))
    for k in range(LABELLED + PROPOSED):
        labels.put(k, instance("person" if k < LABELLED else "proposed"), labels.revision)
    return made


def drawn_names(folder: Path, count: int) -> list[str]:
    return [path.name for path in draw_again(open_source(folder), count).source.images]


def test_a_persons_images_are_drawn_in_one_random_order(folder: Path) -> None:
    names = drawn_names(folder, LABELLED)
    assert sorted(names) == [f"{k:02d}.png" for k in range(LABELLED)]
    assert names != sorted(names)
    assert names == drawn_names(folder, LABELLED)
    assert drawn_names(folder, 3) == names[:3]


def test_nothing_of_the_labels_is_shown_and_they_stay(folder: Path) -> None:
    before = (folder / "labels.csv").read_bytes()
    drawn = draw_again(open_source(folder), 3)
    session = Session(drawn.source, skeleton=drawn.skeleton, again=drawn.first)
    state = session.state()
    assert state["counts"] == [0, 0, 0]
    assert state["shape"] is None
    assert state["skeleton"]["names"] == list(NAMES)
    assert [session.instances(index)["instances"] for index in range(3)] == [[], [], []]
    assert [session.proposals(index) for index in range(3)] == [[], [], []]
    session.put(0, [{"points": [[1.5, 2.0, 2, "person"], None, None], "box": None}], 0)
    session.close()
    assert (folder / "labels.csv").read_bytes() == before
    assert list(read_labels(folder / "labels_again.csv")[1]) == [drawn.source.images[0].name]
    assert shlex.split(state["compare"]) == [
        *("kpnet", "data", "agree", str(folder / "labels.csv"), str(folder / "labels_again.csv"))
    ]


def test_what_was_begun_is_continued(folder: Path) -> None:
    first = drawn_names(folder, 3)
    again = LabelFile(folder / "labels_again.csv", [*first[:2], "07.png"], Skeleton(NAMES))
    again.put(1, instance(), 0)
    assert drawn_names(folder, 3) == first
    # A label that is new in the meantime changes the order; what was begun stays among the images.
    labels = LabelFile(folder / "labels.csv", [f"{k:02d}.png" for k in range(IMAGES)])
    labels.put(11, instance(), 0)
    found = drawn_names(folder, 3)
    assert len(found) == 3
    assert first[1] in found
    drawn = draw_again(open_source(folder), 1)
    assert [path.name for path in drawn.source.images] == [first[1]]
    session = Session(drawn.source, skeleton=drawn.skeleton, again=drawn.first)
    assert session.state()["counts"] == [2]
    session.close()


def test_labels_of_another_format_are_written_to_be_compared(folder: Path) -> None:
    (folder / "labels.csv").rename(folder / "mine.csv")
    source = open_source(folder / "mine.csv", "points_csv")
    drawn = draw_again(source, 2)
    assert drawn.first == folder / "mine_labels.json"
    assert len(read_labels(drawn.first)[1]) == LABELLED + PROPOSED
    assert drawn.source.labels == folder / "mine_labels_again.json"
    assert not drawn.source.labels.exists()


def test_too_few_labels(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match=r"--again: expected at most 8, the images with a person's points, found 9"):
        draw_again(open_source(folder), 9)
    (folder / "labels.csv").unlink()
    with pytest.raises(KpnetError, match=r"--again: .*labels\.csv: no image has points that a person placed"):
        draw_again(open_source(folder), 1)
    assert not (folder / "labels.csv").exists()


def test_a_skeleton_that_the_page_has_extended_goes_on(folder: Path) -> None:
    drawn = draw_again(open_source(folder), 2)
    session = Session(drawn.source, skeleton=drawn.skeleton, again=drawn.first)
    session.set_skeleton({"names": [*NAMES, "chin"]})
    session.put(0, [{"points": [[1, 2, 2, "person"]] * 4, "box": None}], session.labels.revision)
    session.close()
    drawn = draw_again(open_source(folder), 2)
    assert drawn.skeleton.names == (*NAMES, "chin")
    session = Session(drawn.source, skeleton=drawn.skeleton, again=drawn.first)
    assert session.state()["counts"] == [-1, 0]
    session.close()


def test_a_folder_that_is_not_there_is_not_made(folder: Path) -> None:
    out = folder / "new" / "x.csv"
    with pytest.raises(KpnetError, match=r"x\.csv: there is no folder .*new; make it, or give another --out"):
        draw_again(open_source(folder / "labels.csv", out=out), 2, out=out)
    assert not out.parent.exists()


def test_another_programs_file_stays(folder: Path) -> None:
    (folder / "labels_again.csv").write_text("mine\n")
    with pytest.raises(KpnetError, match=r"labels_again\.csv: exists, and kpnet label did not write it"):
        draw_again(open_source(folder), 2)
    assert (folder / "labels_again.csv").read_text() == "mine\n"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """The sessions that the command serves; each is closed at once."""
    sessions: list[Session] = []

    def serve(session: Session, port: int, ready: Callable[[str], None]) -> None:
        sessions.append(session)
        ready("http://127.0.0.1:1/token/")
        session.close()

    monkeypatch.setattr(server, "serve", serve)
    return sessions


def test_the_command(kpnet: Callable[..., Any], folder: Path, served: list[Session], trained: Path) -> None:
    done = kpnet("label", folder, "--again", 4, "--no-browser")
    assert done.code == 0
    assert "4 images; labels: " in done.out
    assert f"compare: kpnet data agree '{folder / 'labels.csv'}' '{folder / 'labels_again.csv'}'" in done.out
    assert len(served) == 1
    assert "compare" not in kpnet("label", folder, "--no-browser").out
    for options in (["--run", trained], ["--queue", "random"], ["--train", "facial_heatmap"]):
        kpnet("label", folder, "--again", 4, *options).refused("--again", "leave out --run, --train, --queue")
    kpnet("label", folder, "--again", 9).refused("expected at most 8")
    kpnet("label", folder, "--queue", "suspicious").refused("give --run")
    kpnet("label", folder, "--queue", "suspect").refused("suspicious")


def test_a_run_that_saw_the_labels_is_refused(kpnet: Callable[..., Any], served: list[Session], trained: Path) -> None:
    data = trained.parent / "data" / "train.csv"
    kpnet("label", data, "--run", trained, "--queue", "suspicious").refused(
        "was trained on it", "give a run of other data", "kpnet data doctor"
    )
    assert served == []
    assert not data.with_name("train_images").exists()
