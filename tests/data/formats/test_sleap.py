"""SLEAP's projects and analysis files, as sleap-io writes them: visible, predicted and negative frames."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.format_files import dots

from kpnet.core.errors import KpnetError
from kpnet.data import SLEAP
from kpnet.data.build import open_dataset
from kpnet.data.convert import convert

sio: Any = pytest.importorskip("sleap_io", reason="sleap-io is not installed")
NODES = ["nose", "earL", "earR"]
XY = np.array([[20.25, 12.5], [np.nan, np.nan], [14, 40]])


def mouse() -> Any:
    return sio.Skeleton(list(NODES), edges=[("nose", "earL")], symmetries=[("earR", "earL")], name="mouse")


def labels(video: Any) -> Any:
    """Five frames: labelled and predicted, predicted, labelled with a point that is not visible, negative, two."""
    skeleton = mouse()
    user = sio.Instance.from_numpy(XY, skeleton=skeleton)
    unseen = sio.Instance.from_numpy(XY, skeleton=skeleton)
    unseen.points["visible"][2] = False
    predicted = sio.PredictedInstance.from_numpy(XY + 1, skeleton=skeleton, point_scores=np.ones(3), score=0.5)
    frames = [[user, predicted], [predicted], [unseen], [], [user, unseen]]
    made = [sio.LabeledFrame(video=video, frame_idx=k, instances=each) for k, each in enumerate(frames)]
    made[3].is_negative = True
    return sio.Labels(made)


def images(folder: Path) -> Any:
    folder.mkdir()
    names = [str(folder / f"{k}.png") for k in range(5)]
    for name in names:
        cv2.imwrite(name, dots((60, 80), XY))
    return sio.Video.from_filename(names)


def check(data: SLEAP) -> None:
    assert data.skeleton.names == tuple(NODES)
    assert data.skeleton.pairs == (("earL", "earR"),)
    assert data.skeleton.edges == (("nose", "earL"),)
    assert [data.instance(i) for i in range(len(data))] == [0, 0, 0, 1]
    image, xy = data.read(0)
    assert np.allclose(xy, XY, equal_nan=True)
    grey = image[..., 0] if image.ndim == 3 else image
    assert grey[12, 20] > 200
    assert data.visibility(0).tolist() == [2, 0, 2]
    assert data.visibility(1).tolist() == [2, 0, 0], "a point that is not visible is absent"
    assert (
        data.skipped.notes[-1] == "1 images or instances without a labelled point are not used; empty: true uses them"
    )
    assert "2 predicted instances are not used (predictions: true uses those of other frames)" in data.skipped.notes


def test_a_project_of_images(tmp_path: Path) -> None:
    labels(images(tmp_path / "in")).save(str(tmp_path / "a.slp"), embed=False, verbose=False)
    data = open_dataset(tmp_path / "a.slp")
    assert isinstance(data, SLEAP)
    check(data)
    assert data.image_name(0) == "in/0.png"
    more = SLEAP(tmp_path / "a.slp", predictions=True, empty=True)
    assert [more.image_name(i) for i in range(len(more))] == [f"in/{k}.png" for k in (0, 1, 2, 3, 4, 4)]
    assert np.allclose(more.read(1)[1], XY + 1, equal_nan=True)
    (tmp_path / "in" / "0.png").unlink()
    assert [m.partition(":")[2] for m in SLEAP(tmp_path / "a.slp").skipped.messages] == [
        f" no image {tmp_path}/in/0.png"
    ]


def test_embedded_images_and_another_process(tmp_path: Path) -> None:
    labels(images(tmp_path / "in")).save(str(tmp_path / "a.pkg.slp"), embed="all", verbose=False)
    for file in (tmp_path / "in").iterdir():
        file.unlink()
    data = SLEAP(tmp_path / "a.pkg.slp")
    check(data)
    copied = pickle.loads(pickle.dumps(data))
    assert np.array_equal(copied.read(0)[0], data.read(0)[0])


def film(path: Path) -> Any:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (80, 60))
    for _ in range(5):
        writer.write(dots((60, 80), XY))
    writer.release()
    return sio.Video.from_filename(str(path))


def test_a_video_beside_the_project(tmp_path: Path) -> None:
    labels(film(tmp_path / "v.avi")).save(str(tmp_path / "a.slp"), embed=False, verbose=False)
    (tmp_path / "moved").mkdir()
    for name in ("v.avi", "a.slp"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    data = SLEAP(tmp_path / "moved" / "a.slp")
    check(data)
    assert data.image_name(0) == "v_000000"
    (tmp_path / "moved" / "v.avi").unlink()
    with pytest.raises(KpnetError, match=r"4 skipped: .*no video .*v\.avi"):
        SLEAP(tmp_path / "moved" / "a.slp")


def test_an_analysis_file_has_predictions(tmp_path: Path) -> None:
    made = labels(film(tmp_path / "v.avi"))
    sio.save_analysis_h5(made, str(tmp_path / "a.analysis.h5"), video=made.videos[0])
    with pytest.raises(KpnetError, match="no usable labelled instances"):
        open_dataset(tmp_path / "a.analysis.h5")
    data = open_dataset(tmp_path / "a.analysis.h5", {"name": "sleap", "predictions": True})
    assert data.skeleton.names == tuple(NODES)
    assert np.allclose(data.read(0)[1], XY, equal_nan=True)
    assert data.read(0)[0].shape[:2] == (60, 80)


def test_sleap_io_reads_what_is_written(tmp_path: Path) -> None:
    labels(images(tmp_path / "in")).save(str(tmp_path / "a.slp"), embed=False, verbose=False)
    first = SLEAP(tmp_path / "a.slp", empty=True)
    assert convert(first, tmp_path / "b", "sleap").lost == []
    back = sio.load_slp(str(tmp_path / "b" / "labels.slp"))
    assert [len(frame.user_instances) for frame in back.labeled_frames] == [1, 1, 0, 2]
    assert back.labeled_frames[2].is_negative
    assert np.allclose(back.labeled_frames[0].instances[0].numpy(), XY, equal_nan=True)
    assert [set(pair) for pair in back.skeletons[0].symmetry_names] == [{"earL", "earR"}]


def test_damaged_files(tmp_path: Path) -> None:
    labels(images(tmp_path / "in")).save(str(tmp_path / "a.slp"), embed=False, verbose=False)
    data = (tmp_path / "a.slp").read_bytes()
    for number, cut in enumerate([b"", data[:100], data[: len(data) // 2], b"x" * 500]):
        path = tmp_path / f"{number}.slp"
        path.write_bytes(cut)
        with pytest.raises(KpnetError, match=r"\d\.slp: .*; expected a SLEAP project") as caught:
            open_dataset(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(KpnetError, match=r'no skeleton "rat"; it has mouse'):
        SLEAP(tmp_path / "a.slp", category="rat")


def test_frames_with_nothing_on_them(tmp_path: Path) -> None:
    """Only frames that a person has looked at: predictions say nothing of others."""
    labels(images(tmp_path / "in")).save(str(tmp_path / "a.slp"), embed=False, verbose=False)
    (each,) = SLEAP(tmp_path / "a.slp").surroundings()
    assert (each.name, each.partial, len(each.ignored)) == ("in/3.png", False, 0)
    assert each.read is not None
    assert each.read().shape == (60, 80, 3)
