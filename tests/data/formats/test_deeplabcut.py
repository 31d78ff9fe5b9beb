"""DeepLabCut projects, with tables as its versions write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.format_files import NAMES, PICTURES, dlc_lines, write_dlc, write_pictures
from support.paths import SHARED

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import DeepLabCut
from kpnet.data.formats.detect import detect_format

PROJECTS = SHARED / "data" / "deeplabcut"
real_data = pytest.mark.skipif(not PROJECTS.is_dir(), reason=f"no {PROJECTS} (set KPNET_SHARED)")
TABLE = "labeled-data/v1/CollectedData_me.csv"


@real_data
@pytest.mark.parametrize(("project", "count"), [("openfield", 116), ("reaching", 55)])
def test_real_projects_as_pandas_reads_them(project: str, count: int) -> None:
    data = DeepLabCut(PROJECTS / project)
    (table,) = (PROJECTS / project).glob("labeled-data/*/CollectedData_*.csv")
    frame = pd.read_csv(table, header=[0, 1, 2], index_col=0)
    assert len(data) == len(frame) == count
    for part in range(len(data.skeleton)):
        name = data.skeleton.names[part]
        xy = np.stack([data.keypoints(i)[part] for i in range(count)])
        columns = frame.xs(name, axis=1, level=1)
        assert np.allclose(xy, columns.to_numpy(), equal_nan=True)
    assert [data.image_name(i) for i in range(count)] == frame.index.tolist()
    if project == "openfield":
        assert data.skeleton == Skeleton.load("mouse4")
        assert data.skeleton.flip_permutation == [0, 2, 1, 3]
    else:
        assert data.skeleton.edges == (("Hand", "Finger1"), ("Joystick1", "Joystick2"))
        assert not data.labels().all()


def test_several_videos_and_scorers(tmp_path: Path) -> None:
    write_dlc(tmp_path)
    write_pictures(tmp_path / "labeled-data" / "v2")
    (tmp_path / "labeled-data" / "v2_labeled").mkdir()
    table = tmp_path / "labeled-data" / "v2" / "CollectedData_you.csv"
    table.write_text("\n".join(dlc_lines("v2", scorer="you")) + "\n")
    data = DeepLabCut(tmp_path)  # the only scorer of that video
    assert [data.image_name(i) for i in (0, 3)] == ["labeled-data/v1/a.png", "labeled-data/v2/a.png"]
    assert len(DeepLabCut(tmp_path, videos=["v2"])) == 3
    with pytest.raises(KpnetError, match=r'no folder "v3" \(did you mean "v[12]"\?\)'):
        DeepLabCut(tmp_path, videos=["v3"])
    table.with_name("CollectedData_they.csv").write_text(table.read_text())
    with pytest.raises(KpnetError, match="v2: labels of they, you, and the config's scorer is me"):
        DeepLabCut(tmp_path)


def test_a_moved_project_and_backslashes(tmp_path: Path) -> None:
    table = write_dlc(tmp_path) / TABLE
    table.write_text(table.read_text().replace("labeled-data/v1/", "C:\\old\\labeled-data\\v1\\"))
    assert DeepLabCut(tmp_path).image_name(0) == "labeled-data/v1/a.png"


def test_several_animals(tmp_path: Path) -> None:
    write_pictures(tmp_path / "labeled-data" / "v1")
    (tmp_path / "config.yaml").write_text(
        "scorer: me\nmultianimalproject: true\nbodyparts: MULTI!\nindividuals: [one, two]\n"
        "multianimalbodyparts: [nose, left_ear, right_ear]\nuniquebodyparts: [corner]\n"
    )
    parts = ["nose", "left_ear", "right_ear"]
    who = [name for name in ("one", "two") for _ in range(6)] + ["single"] * 2
    lines = [
        ["scorer", "", "", *["me"] * 14], ["individuals", "", "", *who],
        ["bodyparts", "", "", *[p for p in parts for _ in "xy"] * 2, "corner", "corner"], ["coords", "", "", *"xy" * 7],
    ]  # fmt: skip
    for name, _, instances in PICTURES:
        given = [np.array(xy).ravel().tolist() for xy in instances] + [[np.nan] * 6]
        corner = [5.0, 6.0] if name == "b.png" else [np.nan] * 2
        lines.append(
            ["labeled-data", "v1", name, *["" if np.isnan(v) else str(v) for v in [*given[0], *given[1], *corner]]]
        )
    (tmp_path / TABLE).write_text("\n".join(",".join(line) for line in lines))
    data = DeepLabCut(tmp_path)
    assert data.skeleton.names == ("nose", "left_ear", "right_ear", "corner")
    named = [(Path(data.image_name(i)).name, data.instance(i)) for i in range(len(data))]
    assert named == [("a.png", 0), ("a.png", 1), ("b.png", 0), ("b.png", 1), ("c.png", 0)]
    assert data.keypoints(1)[0].tolist() == [64, 30.5]
    assert data.keypoints(3)[3].tolist() == [5, 6]
    assert data.labels()[3].tolist() == [False, False, False, True]


CHANGED: dict[str, tuple[str, str, str, str]] = {
    "a part that the config lacks": (
        TABLE, "left_ear", "left_aer", 'body part "left_aer" (did you mean "left_ear"?), which the config lacks'),
    "a short line": (TABLE, "10.0,10.0,", "", "CollectedData_me.csv, line 5: cells: expected 7, found 5"),
    "a word": (TABLE, "10.0,10.0", "10.0,ten", "line 5: could not convert string to float: 'ten'; expected pixels"),
    "infinite": (TABLE, "10.0,10.0", "10.0,inf", "line 5: nose is at 10, inf"),
    "a missing frame": (TABLE, "b.png", "z.png", "line 5: no image"),
    "an edge": ("config.yaml", "[[nose, left_ear]]", "[[nose, tail]]", "skeleton: pairs with a name that is no body"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_what_is_wrong_is_left_out_and_named(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    file, old, new, message = CHANGED[name]
    path = write_dlc(tmp_path) / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    data = DeepLabCut(tmp_path)
    assert len(data) == (3 if name.startswith(("a part", "an edge")) else 2)
    (record,) = caplog.records
    assert message in record.getMessage()
    if name == "an edge":
        assert len(DeepLabCut(tmp_path, strict=True)) == 3, "no label is lost"
        return
    with pytest.raises(KpnetError):
        DeepLabCut(tmp_path, strict=True)
    if name.startswith("a part"):
        assert data.labels().tolist() == [[True, False, True]] * 3


def test_likelihoods_between_the_points(tmp_path: Path) -> None:
    """A column more a part, as in the tables of an older version; the last may be cut off, but no point."""
    table = write_dlc(tmp_path) / TABLE
    lines = [line.split(",") for line in table.read_text().splitlines()]
    wide = [[*line[:1], *(c for k in (1, 3, 5) for c in (*line[k : k + 2], line[k + 1]))] for line in lines]
    wide[2] = ["coords", *["x", "y", "likelihood"] * 3]
    wide[4] = wide[4][:8]  # ends in the third point
    wide[5] = wide[5][:9]  # ends before its likelihood
    table.write_text("\n".join(",".join(line) for line in wide))
    data = DeepLabCut(tmp_path)
    assert data.skipped.messages == [
        "labeled-data/v1/CollectedData_me.csv, line 5: cells: expected 9, found 8; is the line cut short?"
    ]
    assert [data.image_name(i)[-5:] for i in range(len(data))] == ["a.png", "c.png"]
    expected = [np.array(instances[0]) for name, _, instances in PICTURES if name != "b.png"]
    assert all(np.array_equal(data.keypoints(i), expected[i], equal_nan=True) for i in range(2))


REFUSED: dict[str, tuple[str, str | None, str]] = {
    "no config": ("config.yaml", None, "config.yaml: no such file; expected a DeepLabCut config.yaml"),
    "no YAML": ("config.yaml", "a: [", "config.yaml:.* not YAML"),
    "no parts": ("config.yaml", "Task: x", "no bodyparts in it"),
    "a part twice": ("config.yaml", "scorer: me\nbodyparts: [a, a]", "bodyparts: .*appear twice: a"),
    "no table": (TABLE, None, "labeled-data: found no VIDEO/CollectedData_me.csv"),
    "no header": (TABLE, "a,b,c\n1,2,3", "expected header lines scorer, bodyparts and coords, found a, b, c"),
    "no rows": (TABLE, "\n".join(dlc_lines("v1")[:3]), "no usable labelled instances"),
    "a column twice": (
        TABLE,
        "scorer,me,me,me,me\nbodyparts,nose,nose,nose,nose\ncoords,x,y,x,y\na.png,1,2,3,4",
        'CollectedData_me.csv: body part "nose" has two columns x, expected one',
    ),
    "x alone": (TABLE, "scorer,me\nbodyparts,nose\ncoords,x\na.png,1", "nose: expected a column x and a column y"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_project(tmp_path: Path, name: str) -> None:
    file, text, message = REFUSED[name]
    path = write_dlc(tmp_path) / file
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(KpnetError, match=message) as caught:
        DeepLabCut(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names", [["on", "off", "no"], ["1.10", "007", "3e1"], ["1_1", "0x1", "2020-13-45"], ["~", "null", "1:30"]]
)
def test_names_stay_as_config_yaml_has_them(tmp_path: Path, names: list[str]) -> None:
    """YAML would make truth values, numbers and dates of them."""
    folder = write_dlc(tmp_path)
    (folder / "config.yaml").write_text(
        f"scorer: 007\nbodyparts: [{', '.join(names)}]\nskeleton: [[{names[0]}, {names[1]}]]\n"
    )
    table = folder / "labeled-data" / "v1" / "CollectedData_me.csv"
    text = table.read_text()
    for old, new in zip(NAMES, names, strict=True):
        text = text.replace(old, new)
    table.with_name("CollectedData_007.csv").write_text(text)
    table.write_text(text.replace("20.25", "1"))  # another scorer's
    data = DeepLabCut(folder)
    assert data.skeleton.names == tuple(names)
    assert data.skeleton.edges == ((names[0], names[1]),)
    assert data.labels().sum() == 8
    assert data.keypoints(0)[0].tolist() == [20.25, 12.5]


def test_a_project_written_in_windows_1252(tmp_path: Path) -> None:
    folder = write_dlc(tmp_path)
    for path in (folder / "config.yaml", folder / "labeled-data" / "v1" / "CollectedData_me.csv"):
        path.write_bytes(path.read_text().replace("nose", "Schnauze_\xfc").encode("cp1252"))
    assert DeepLabCut(folder).skeleton.names[0] == "Schnauze_\xfc"


@pytest.mark.parametrize("value", ["bodyparts", "{a: b}", "[[a, b], c]", "[&a [x, *a]]", "[", "[]"])
def test_bodyparts_that_are_no_names(tmp_path: Path, value: str) -> None:
    folder = write_dlc(tmp_path)
    (folder / "config.yaml").write_text(f"bodyparts: {value}\n")
    with pytest.raises(KpnetError, match=r"config\.yaml") as caught:
        DeepLabCut(folder)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("place", [".", "labeled-data/v1"])
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_a_table_without_a_project(tmp_path: Path, place: str, slash: str) -> None:
    """As Lightning Pose has it, or the table of a project on its own."""
    folder = write_dlc(tmp_path)
    (folder / "config.yaml").unlink()
    (folder / "labeled-data" / "v1" / "CollectedData_me.csv").unlink()
    table = folder / place / "CollectedData.csv"
    table.write_text(
        "\n".join(dlc_lines("v1")).replace("v1/", f"v1{slash}").replace("labeled-data/", f"labeled-data{slash}")
    )
    assert detect_format(table) == (table, "deeplabcut")
    assert detect_format(folder) == (table, "deeplabcut")
    data = DeepLabCut(table)
    assert data.skeleton.names == NAMES
    for index, (name, _, instances) in enumerate(PICTURES):
        image, xy = data.read(index)
        np.testing.assert_array_equal(xy, np.array(instances[0], float))
        assert image.max() > 200
        assert data.image_name(index) == f"labeled-data/v1/{name}"
    with pytest.raises(KpnetError, match="videos: a single table has none"):
        DeepLabCut(table, videos=["v1"])


def test_predictions_on_a_video_are_no_labels(tmp_path: Path) -> None:
    (tmp_path / "videoDLC.csv").write_text("scorer,me,me\nbodyparts,nose,nose\ncoords,x,y\n0,1,2\n1,1,2\n")
    with pytest.raises(
        KpnetError, match=r"videoDLC\.csv: its rows are numbers of frames, as in DeepLabCut's predictions"
    ):
        DeepLabCut(tmp_path / "videoDLC.csv")


def test_a_frame_that_stands_twice_is_used_once(tmp_path: Path) -> None:
    folder = write_dlc(tmp_path)
    table = folder / "labeled-data" / "v1" / "CollectedData_me.csv"
    table.write_text(table.read_text() + "labeled-data/v1/a.png,1,2,3,4,5,6\n")
    data = DeepLabCut(folder)
    assert len(data) == 3
    (message,) = data.skipped.messages
    assert message.startswith(f"{TABLE}, line 7: labeled-data/v1/a.png stands in {TABLE}, line 4 already")


MICE = SHARED / "data" / "mirror_mouse"


@pytest.mark.skipif(not MICE.is_dir(), reason=f"no {MICE} (set KPNET_SHARED)")
def test_lightning_poses_example_as_pandas_reads_it() -> None:
    data = DeepLabCut(detect_format(MICE)[0])
    frame = pd.read_csv(MICE / "CollectedData.csv", header=[1, 2], index_col=0)
    assert len(data) == len(frame) == 75
    expected = frame.to_numpy().reshape(75, 17, 2)
    for index in range(75):
        xy = data.keypoints(index)
        both = np.isfinite(expected[index]).all(-1)
        np.testing.assert_array_equal(xy[both], expected[index][both])
        assert np.isnan(xy[~both]).all()


def test_a_row_of_empty_cells_is_no_empty_image(tmp_path: Path) -> None:
    """Such a frame may not have been labelled yet."""
    folder = write_dlc(tmp_path)
    table = folder / TABLE
    table.write_text(table.read_text().rsplit("c.png", 1)[0] + "c.png" + "," * 6 + "\n")
    assert [(Path(each.name).name, each.partial) for each in DeepLabCut(folder).surroundings()] == [("c.png", True)]
