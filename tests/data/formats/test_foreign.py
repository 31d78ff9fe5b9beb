"""Files of other tools are named, with a way to convert them; kpnet's own are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.format_files import write_coco, write_points_csv

from kpnet.core.errors import KpnetError
from kpnet.data.formats.detect import detect_format
from kpnet.data.formats.foreign import describe_foreign

FILES = {
    "min.json": ('[{"id": 0, "image": "a.jpg", "kp": [{"x": 1, "original_width": 64}]}]', "JSON_MIN"),
    "via.json": ('{"a.jpg1": {"filename": "a.jpg", "regions": [{"region_attributes": {}}]}}', "VIA"),
    "pose.json": ('{"version": 1.3, "people": [{"pose_keypoints_2d": []}]}', "OpenPose"),
    "results.json": ('[{"image_id": "a.jpg", "keypoints": [], "score": 2.9}]', "COCO results"),
    "list.json": ("[1, 2]", "a JSON list of an unknown kind, expected COCO"),
    "voc.xml": ("<annotation><object/></annotation>", "Pascal VOC"),
    "dlib.xml": ("<dataset><images><image file='a.jpg'/></images></dataset>", "dlib"),
    "fly.tps": ("LM=1\n1 2\nIMAGE=a.jpg\n", "tpsDig"),
    "list_98pt.txt": ("1.0 2.0 3.0 4.0 0 0 a.jpg\n", "WFLW"),
    "a0.txt": ("0 0.5 0.5 0.1 0.2 0.3 0.4 2\n", "YOLO"),
    "boxes.txt": ("0 0.5 0.5 0.1 0.2\n", "YOLO"),
    "IdLookupTable.csv": ("RowId,ImageId,FeatureName,Location\n1,1,nose_x,\n", "Kaggle's list of the points to submit"),
    "sleap.csv": ("track,frame_idx,instance.score,nose.x,nose.y\n,0,1,2,3\n", "SLEAP"),
    "min.csv": ('id,img,kp\n1,a.jpg,"[{""keypointlabels"":[""nose""]}]"\n', "Label Studio"),
    "a.mat": ("", "MATLAB"),
    "a.xlsx": ("", "spreadsheet"),
    "a.pkl": ("", "pickle"),
    "a.zip": ("", "archive"),
    "a.npy": ("", "single array"),
}


@pytest.mark.parametrize("name", FILES)
def test_each_is_named(tmp_path: Path, name: str) -> None:
    text, what = FILES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(KpnetError) as caught:
        detect_format(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name}: ")
    assert what in message
    assert ";" in message, "a way to convert it"
    assert "\n" not in message


def test_others_are_left_alone(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("LICENSE\n\nCopyright 2024 by the authors, 3 of them.\n")
    files = [write_coco(tmp_path / "coco"), write_points_csv(tmp_path / "csv"), notes, tmp_path / "gone.json"]
    assert [describe_foreign(file) for file in files] == [None] * 4
