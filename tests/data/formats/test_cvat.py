"""CVAT's XML of images and videos: outside, occluded, interpolated and automatic skeletons.

The files are made by hand as CVAT's server writes them; no package of the registry writes this XML.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.format_files import dots, write_coco

from kpnet.core.errors import KpnetError
from kpnet.data import COCO, CVAT
from kpnet.data.build import open_dataset
from kpnet.data.convert import convert

META = """
  <version>1.1</version>
  <meta><task><id>1</id><name>mice</name><size>2</size><mode>annotation</mode><labels>
    <label><name>mouse</name><color>#fff</color><type>skeleton</type><attributes></attributes><svg>
      &lt;line x1="1" y1="2" x2="3" y2="4" data-type="edge" data-node-from="2" data-node-to="1"&gt;&lt;/line&gt;
      &lt;circle r="1.5" data-type="element node" data-element-id="1" data-node-id="1"
      data-label-name="nose"&gt;&lt;/circle&gt;&lt;circle r="1.5" data-node-id="2"
      data-label-name="earL"&gt;&lt;/circle&gt;</svg></label>
    <label><name>nose</name><type>points</type><attributes></attributes><parent>mouse</parent></label>
    <label><name>earL</name><type>points</type><attributes></attributes><parent>mouse</parent></label>
    <label><name>earR</name><type>points</type><attributes></attributes><parent>mouse</parent></label>
  </labels><original_size><width>80</width><height>60</height></original_size></task></meta>"""


def points(name: str, at: str, outside: int = 0, occluded: int = 0, more: str = "") -> str:
    return f'<points label="{name}" {more} outside="{outside}" occluded="{occluded}" points="{at}"></points>'


NOSE, EARS = points("nose", "20.75,13.00"), points("earR", "14.50,40.50", 0, 1) + points("earL", "3.00,4.00", 1)
MOUSE = f'<skeleton label="mouse" source="manual" z_order="0">{EARS}{NOSE}</skeleton>'


def image(content: str, name: str = "a.png") -> str:
    return f'<image id="0" name="{name}" width="80" height="60">{content}</image>'


def write(folder: Path, content: str, *names: str, meta: str = META) -> Path:
    for name in names or ("images/a.png",):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), dots((60, 80), np.array([[20.25, 12.5]])))
    (folder / "annotations.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?><annotations>{meta}{content}</annotations>'
    )
    return folder / "annotations.xml"


def test_skeletons_of_images(tmp_path: Path) -> None:
    write(tmp_path, image(MOUSE + MOUSE.replace("20.75", "60.5")) + image("", "b.png"), "images/a.png", "images/b.png")
    data = open_dataset(tmp_path)
    assert isinstance(data, CVAT)
    assert data.skeleton.names == ("nose", "earL", "earR"), "in the order of the labels"
    assert data.skeleton.edges == (("earL", "nose"),)
    assert data.skeleton.pairs == (("earL", "earR"),)
    assert [data.instance(i) for i in range(len(data))] == [0, 1]
    pixels, xy = data.read(0)
    assert np.allclose(xy, np.array([[20.25, 12.5], [np.nan, np.nan], [14, 40]]), equal_nan=True)
    assert np.unravel_index(pixels[..., 0].T.argmax(), (80, 60)) == (20, 12)
    assert data.visibility(0).tolist() == [2, 0, 1], "outside is absent, occluded is hidden"
    assert "1 images or instances without a labelled point are not used; empty: true uses them" in data.skipped.notes
    assert len(CVAT(tmp_path / "annotations.xml", empty=True)) == 3


def test_what_a_model_placed_is_a_prediction(tmp_path: Path) -> None:
    auto = MOUSE.replace('source="manual" z', 'source="auto" z')
    path = write(tmp_path, image(MOUSE + auto.replace("20.75", "60.5")))
    data = CVAT(path)
    assert len(data) == 1
    assert (
        "1 skeletons that a model placed and nobody changed (predictions: true uses them) are not used"
        in data.skipped.notes
    )
    assert len(CVAT(path, predictions=True)) == 2


def frame(number: int, keyframe: int, content: str = NOSE) -> str:
    return f'<skeleton frame="{number}" keyframe="{keyframe}" z_order="0">{content}</skeleton>'


def test_tracks_of_a_video(tmp_path: Path) -> None:
    gone = points("nose", "20.75,13.00", 1, 0, 'keyframe="1"')
    tracks = f'<track id="0" label="mouse" source="manual">{frame(0, 1)}{frame(1, 0)}{frame(2, 1, gone)}</track>'
    tracks += f'<track id="1" label="mouse" source="manual">{frame(1, 1, NOSE.replace("20.75", "60.5"))}</track>'
    path = write(tmp_path, tracks, *(f"images/frame_{k:06d}.PNG" for k in range(3)))
    data = open_dataset(tmp_path)
    found = [(data.image_name(i), data.instance(i), data.read(i)[1][0, 0].item()) for i in range(len(data))]
    assert found == [
        ("images/frame_000000.PNG", 0, 20.25),
        ("images/frame_000001.PNG", 0, 20.25),
        ("images/frame_000001.PNG", 1, 60),
    ]
    keyframes = CVAT(path, interpolated=False)
    assert [keyframes.read(i)[1][0, 0].item() for i in range(len(keyframes))] == [20.25, 60]
    assert "1 interpolated skeletons are not used" in keyframes.skipped.notes


def test_round_trip_with_edges_and_predictions(tmp_path: Path) -> None:
    first = COCO(write_coco(tmp_path / "a"))
    assert convert(first, tmp_path / "b", {"name": "cvat", "predictions": True}).lost == ["boxes (4)"]
    with pytest.raises(KpnetError, match="no usable labelled instances"):
        open_dataset(tmp_path / "b")
    back = CVAT(tmp_path / "b" / "annotations.xml", predictions=True)
    assert back.skeleton.edges == first.skeleton.edges
    for k in range(len(first)):
        assert np.allclose(back.read(k)[1], first.read(k)[1], atol=1e-3, equal_nan=True)
        assert back.visibility(k).tolist() == first.visibility(k).tolist()


BOX = '<box label="mouse" source="manual" occluded="0" xtl="1" ytl="2" xbr="3" ybr="4" z_order="0"></box>'
BOMB = "<!DOCTYPE a [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
    f"<!ENTITY {b} '{f'&{a};' * 60}'>" for a, b in zip("abcdefg", "bcdefgh", strict=True)) + "]>"  # fmt: skip
BAD: dict[str, tuple[str, str]] = {
    "boxes": (image(BOX), "no skeleton in it, found 1 of kind box"),
    "points": (image(points("nose", "1,2") + points("ear", "1,2")), "found 2 of kind points; points with a label each"),
    "nothing": (image(""), "no skeleton in it, found no shapes"),
    "several": (image(MOUSE + MOUSE.replace("mouse", "rat")), "skeletons of labels mouse, rat; set category to one"),
    "text": (image(MOUSE.replace("20.75", "x")), r"image 0, skeleton 0: a point is nose: x,13\.00; expected a label"),
    "many": (image(MOUSE.replace("20.75,13.00", "1,2;3,4")), "a point is nose: 1,2;3,4"),
    "no name": (image(MOUSE, ""), "image 0: name: it names no image"),
    "twice": (image(MOUSE.replace("earR", "nose")), 'several points in group skeleton 0 are called "nose"'),
    "frame": (f'<track id="3" label="mouse">{frame(0, 1).replace("0", "x", 1)}</track>', "track 3: frame x, expected"),
    "no images of frames": (f'<track id="3" label="mouse">{frame(7, 1)}</track>', "no image .*frame_000007"),
    "cut": (image(MOUSE)[:80], r"annotations\.xml: not XML: .*; expected the XML of CVAT's export"),
    "far": (image(MOUSE.replace("20.75", "1e300")), "nose is at 1e.300, 12.5; expected pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    with pytest.raises(KpnetError, match=message) as caught:
        CVAT(write(tmp_path, content), strict=True)
    assert "\n" not in str(caught.value)


def test_entities_that_grow_and_other_roots(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    path.write_text(f"{BOMB}<annotations>&h;</annotations>")
    with pytest.raises(KpnetError, match="not XML: limit on input amplification"):
        CVAT(path)
    path.write_text("<a/>")
    with pytest.raises(KpnetError, match="found <a>"):
        CVAT(path)
    with pytest.raises(KpnetError, match=r'no skeletons of label "rta" \(did you mean "rat"\?\); it has mouse, rat'):
        CVAT(write(tmp_path, image(MOUSE + MOUSE.replace("mouse", "rat"))), category="rta")


def test_what_is_known_beyond_the_skeletons(tmp_path: Path) -> None:
    auto = MOUSE.replace('source="manual" z', 'source="auto" z')
    names = ["images/a.png", "images/b.png", "images/c.png"]
    data = CVAT(write(tmp_path, image(MOUSE + auto) + image("", "b.png") + image(auto, "c.png"), *names))
    found = {each.name: (each.read is not None, len(each.ignored), each.partial) for each in data.surroundings()}
    assert found == {"a.png": (False, 0, True), "b.png": (True, 0, False), "c.png": (True, 0, True)}
