"""Images without labels: folders, npz and CSV give the same samples; what cannot be read is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

from kpnet.config.loading import load_config
from kpnet.config.pretraining import PretrainConfig, load_pretrain_config
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import KaggleCSV, PointsCSV
from kpnet.data.image_sequences import open_images
from kpnet.data.images import letterbox
from kpnet.data.unlabelled import UnlabelledImages, build_images, read_unlabelled
from kpnet.data.video import write_video

SIDE = 12
DEEP = {"name": "points_csv", "bits": 12}


def pixels(count: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width), dtype=np.uint8)


def config(root: Path, images: str, *overrides: str, **data: Any) -> PretrainConfig:
    model = {"backbone": "conv_sandwich", "in_channels": 1, "input_size": SIDE}
    values = {"model": model, "data": {"root": str(root), "images": images, **data}}
    return load_pretrain_config(values, overrides)


def write_folder(folder: Path, images: Any) -> None:
    (folder / "deeper").mkdir(parents=True)
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / ("deeper" if i % 2 else ".") / f"{i:03d}.png"), image)
    (folder / "notes.txt").write_text("no picture")


def write_csv(path: Path, images: np.ndarray, columns: str = "") -> None:
    names = [f"{name}," for name in columns.split()]
    lines = ["".join(names) + "Image", *("3," * len(names) + " ".join(map(str, image.ravel())) for image in images)]
    path.write_text("\n".join(lines) + "\n")


def as_bytes(dataset: UnlabelledImages) -> np.ndarray:
    return np.stack([(dataset[i]["image"] * 255).round().byte().numpy()[0] for i in range(len(dataset))])


@pytest.mark.parametrize("kind", ["pictures", "images.npz", "images.csv", "labels.csv"])
def test_every_source_gives_its_images_in_order(tmp_path: Path, kind: str) -> None:
    images = pixels(4)
    write_folder(tmp_path / "pictures", images)
    np.savez(tmp_path / "images.npz", images=images)
    write_csv(tmp_path / "images.csv", images)
    write_csv(tmp_path / "labels.csv", images, "nose_x nose_y remark")
    train, val = build_images(config(tmp_path, kind, val=None))
    assert val is None
    found = as_bytes(train)
    expected = images[[0, 2, 1, 3]] if kind == "pictures" else images  # 000, 002, deeper/001, deeper/003
    assert np.array_equal(found, expected)
    assert not train[0]["visible"].any()


def test_a_table_names_image_files(tmp_path: Path) -> None:
    """Each file counts once, however often it is named; points beside the names do not matter."""
    images = pixels(4)
    write_folder(tmp_path / "pictures", images)
    (tmp_path / "list.csv").write_text(
        "image\npictures/deeper/001.png\npictures/000.png\npictures\\000.png\n./pictures/deeper/../000.png\n"
    )
    (tmp_path / "pictures" / "labels.csv").write_text("nose_x,nose_y,image\n3,4,002.png\n,,002.png\n5,6,000.png\n")
    for name, expected in {"list.csv": [1, 0], "pictures/labels.csv": [2, 0]}.items():
        train, _ = build_images(config(tmp_path, name, val=None))
        assert np.array_equal(as_bytes(train), images[expected])


def test_mixed_sizes_are_letterboxed(tmp_path: Path) -> None:
    images = [pixels(1, 30, 20)[0], pixels(1, 7, 24)[0], pixels(1)[0]]
    write_folder(tmp_path / "pictures", images)
    train, _ = build_images(config(tmp_path, "pictures", val=None))
    assert {tuple(train[i]["image"].shape) for i in range(3)} == {(1, SIDE, SIDE)}
    wide = as_bytes(train)[2]  # deeper/001: 7 x 24 as 4 x 12 rows, black above and below
    assert np.array_equal(wide, letterbox(images[1], (SIDE, SIDE))[0])
    assert not wide[:4].any()
    assert not wide[8:].any()
    assert wide[5:7].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_and_grey(tmp_path: Path, channels: int) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=colour)
    train, _ = build_images(config(tmp_path, "images.npz", f"model.in_channels={channels}", val=None))
    assert train[0]["image"].shape == (channels, SIDE, SIDE)
    if channels == 3:
        torch.testing.assert_close(train[1]["image"], torch.from_numpy(colour[1]).permute(2, 0, 1) / 255)


def write_deep(folder: Path, images: np.ndarray) -> None:
    """Write 8-bit images as those of a camera of 12 bits."""
    write_folder(folder, images.astype(np.uint16) << 4)


@pytest.mark.parametrize(
    "form",
    [{"format": DEEP}, {"train": {"file": "labels.csv", "format": DEEP}}],
    ids=["of the data", "of the training file"],
)
def test_images_of_twelve_bits_are_read_as_the_labelled_ones_are(form: dict[str, Any], tmp_path: Path) -> None:
    images = pixels(4)
    write_deep(tmp_path / "pictures", images)
    write_deep(tmp_path / "labelled", 255 - images[:1])
    (tmp_path / "labels.csv").write_text("image,nose_x,nose_y\nlabelled/000.png,3,4\n")
    model = {"backbone": "conv_sandwich", "head": "heatmap", "in_channels": 1, "input_size": SIDE}
    data = {"root": str(tmp_path), "unlabelled": "pictures"} | form
    labelled = PointsCSV(tmp_path / "labels.csv", bits=12)
    found = read_unlabelled(load_config({"model": model, "data": data}), labelled.skeleton, [labelled])
    assert np.array_equal(as_bytes(found), images[[0, 2, 1, 3]])


def test_a_pretraining_reads_images_of_twelve_bits(tmp_path: Path) -> None:
    write_deep(tmp_path / "pictures", pixels(4))
    write_deep(tmp_path / "held", 255 - pixels(2))
    train, val = build_images(config(tmp_path, "pictures", "data.bits=12", val="held"))
    assert val is not None
    assert np.array_equal(as_bytes(train), pixels(4)[[0, 2, 1, 3]])
    assert np.array_equal(as_bytes(val), 255 - pixels(2))
    assert as_bytes(build_images(config(tmp_path, "pictures"))[0]).max() < 16  # of 16 bits, as the file says
    with pytest.raises(KpnetError, match=r"data\.bits: .*less than or equal to 16, found 17"):
        config(tmp_path, "pictures", "data.bits=17")


def test_a_share_is_held_out_by_the_seed(tmp_path: Path) -> None:
    images = pixels(20)
    np.savez(tmp_path / "images.npz", images=images)

    def split(seed: int) -> tuple[set[bytes], set[bytes]]:
        train, val = build_images(config(tmp_path, "images.npz", f"train.seed={seed}", val=0.25))
        assert val is not None
        return ({image.tobytes() for image in as_bytes(train)}, {image.tobytes() for image in as_bytes(val)})

    train, val = split(0)
    assert (len(train), len(val)) == (15, 5)
    assert train | val == {image.tobytes() for image in images}
    assert split(0) == (train, val)
    assert split(1) != (train, val)


def test_validation_images_of_their_own(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=pixels(6))
    write_csv(tmp_path / "other.csv", 255 - pixels(2))
    train, val = build_images(config(tmp_path, "images.npz", val="other.csv"))
    assert len(train) == 6
    assert val is not None
    assert np.array_equal(as_bytes(val), 255 - pixels(2))


def test_training_images_are_augmented_and_validation_images_are_not(tmp_path: Path) -> None:
    """A mirror needs no left and right here."""
    images = pixels(4)
    np.savez(tmp_path / "images.npz", images=images)
    train, val = build_images(
        config(tmp_path, "images.npz", val="images.npz", transforms=[{"HorizontalFlip": {"p": 1.0}}])
    )
    assert val is not None
    assert np.array_equal(as_bytes(train), images[:, :, ::-1])
    assert np.array_equal(as_bytes(val), images)


def empty_folder(root: Path) -> str:
    (root / "empty").mkdir()
    (root / "empty" / "notes.txt").touch()
    return "empty"


def videos(root: Path) -> str:
    (root / "clips" / "deeper").mkdir(parents=True)
    for name in ("a.mp4", "deeper/b.mp4"):
        (root / "clips" / name).touch()
    return "clips"


def one_video(root: Path) -> str:
    (root / "clips").mkdir()
    (root / "clips" / "a.mp4").touch()
    return "clips"


def no_picture(root: Path) -> str:
    write_folder(root / "pictures", pixels(2))
    (root / "pictures" / "page.jpg").write_text("<html>not found</html>")
    return "pictures"


def no_such_picture(root: Path) -> str:
    write_folder(root / "pictures", pixels(2))
    (root / "list.csv").write_text("image\npictures/000.png\npictures/1.png\n")
    return "list.csv"


def no_name(root: Path) -> str:
    (root / "list.csv").write_text("image,place\na.png,left\n,right\n")
    return "list.csv"


def cut_line(root: Path) -> str:
    (root / "list.csv").write_text("image,place\na.png,left\nb.png\n")
    return "list.csv"


def no_header(root: Path) -> str:
    (root / "list.csv").write_text("a.png\nb.png\n")
    return "list.csv"


def no_row(root: Path) -> str:
    (root / "list.csv").write_text("image\n")
    return "list.csv"


def other_key(root: Path) -> str:
    np.savez(root / "a.npz", image=pixels(2), y=np.zeros(2))
    return "a.npz"


def floats(root: Path) -> str:
    np.savez(root / "a.npz", images=pixels(2) / 255)
    return "a.npz"


def flat(root: Path) -> str:
    np.savez(root / "a.npz", images=pixels(2).reshape(2, -1))
    return "a.npz"


def none(root: Path) -> str:
    np.savez(root / "a.npz", images=pixels(0))
    return "a.npz"


def pickled(root: Path) -> str:
    np.savez(root / "a.npz", images=np.array([{"a": 1}], dtype=object))
    return "a.npz"


def truncated(root: Path) -> str:
    np.savez_compressed(root / "a.npz", images=pixels(9))
    data = (root / "a.npz").read_bytes()
    (root / "a.npz").write_bytes(data[: len(data) // 2])
    return "a.npz"


def damaged(root: Path) -> str:
    np.savez_compressed(root / "a.npz", images=pixels(9))
    data = bytearray((root / "a.npz").read_bytes())
    data[200:400] = bytes(200)
    (root / "a.npz").write_bytes(data)
    return "a.npz"


def text(root: Path) -> str:
    (root / "a.npz").write_text("no archive")
    return "a.npz"


def bare_array(root: Path) -> str:
    np.save(root / "a.npy", pixels(2))
    (root / "a.npy").rename(root / "a.npz")
    return "a.npz"


def other_file(root: Path) -> str:
    (root / "faces.zip").write_bytes(b"PK")
    return "faces.zip"


def one_image(root: Path) -> str:
    np.savez(root / "a.npz", images=pixels(1))
    return "a.npz"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: "gone", "gone: no such file or folder; expected a folder of images, a video, an .npz or a .csv"),
        (empty_folder, r"empty: found no images in it \(expected .png, .jpg[^;]*$"),
        (one_video, r"clips: found no images in it \(.*\); it has 1 video: name it, /.*/clips/a\.mp4$"),
        (videos, r"it has 2 videos: name them, /.*/clips/a\.mp4, /.*/clips/deeper/b\.mp4$"),
        (no_picture, r"page.jpg: not a readable image \(1 of 3 in .*pictures\)"),
        (no_such_picture, r"pictures/1.png: no such file \(1 of 2 in .*list.csv\)"),
        (no_name, "list.csv, line 3: the cell of its image is empty; name a file, or remove the line"),
        (cut_line, "list.csv, line 3: cells: expected 2 as in the header, found 1"),
        (no_header, 'list.csv: no column "image" among a.png; expected a header line with a column image, and one row'),
        (no_row, "list.csv: a header but no rows; expected one row for each image"),
        (other_key, r'a.npz: no array "images" in it \(did you mean "image"\?\); found image, y'),
        (floats, r'a.npz: "images": expected uint8 \(N, H, W\) or \(N, H, W, 1 or 3\), found float64 \(2, 12, 12\)'),
        (flat, r"found uint8 \(2, 144\)"),
        (none, r"found uint8 \(0, 12, 12\)"),
        (pickled, "a.npz: not a readable npz file of plain arrays: Object arrays cannot be loaded"),
        (truncated, "a.npz: not a readable npz file"),
        (damaged, "a.npz: not a readable npz file"),
        (text, "a.npz: not a readable npz file"),
        (bare_array, "a.npz: not a readable npz file"),
        (other_file, "faces.zip: expected a folder of images, a video, an .npz or a .csv"),
        (one_image, "data.val: 0.1 of 1 images leaves none to train on; give more, or val: null"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, make: Callable[[Path], str], message: str) -> None:
    with pytest.raises(KpnetError, match=message) as caught:
        build_images(config(tmp_path, make(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_picture_that_breaks_off_is_named_when_it_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures", pixels(1, 64, 64))
    path = tmp_path / "pictures" / "000.png"
    path.write_bytes(path.read_bytes()[:-100])
    images = open_images(tmp_path / "pictures", (SIDE, SIDE))
    with pytest.raises(KpnetError, match=r"000\.png: the image is cut short"):
        images[0]


def test_images_of_other_kinds_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path / "pictures", pixels(2))
    for name in ("logo.svg", "icon.ico"):
        (tmp_path / "pictures" / name).touch()
    assert len(open_images(tmp_path / "pictures", (SIDE, SIDE))) == 2
    assert [record.getMessage().count("2 files") for record in caplog.records] == [1]


def write_clip(path: Path, frames: int, side: int = 32) -> list[np.ndarray]:
    """A video whose frames are of one grey each, and those."""
    shown = [np.full((side, 2 * side, 3), 20 + 10 * number, np.uint8) for number in range(frames)]
    with write_video(path, 25) as add:
        for frame in shown:
            add(frame)
    return shown


def test_frames_of_a_video_are_evenly_spaced_and_letterboxed(tmp_path: Path) -> None:
    shown = write_clip(tmp_path / "clip.mp4", 9)
    images = open_images(tmp_path / "clip.mp4", (SIDE, SIDE), 3)
    assert len(images) == 3
    for place, number in enumerate((0, 4, 8)):
        image = images[place]
        expected = letterbox(shown[number], (SIDE, SIDE))[0].astype(int)
        assert np.abs(image.astype(int) - expected).max() <= 3  # the codec's
    assert len(open_images(tmp_path / "clip.mp4", (SIDE, SIDE), 50)) == 9
    train, val = build_images(config(tmp_path, "clip.mp4", val=None))  # a pretraining takes it too
    assert (len(train), val) == (9, None)
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes()[:200])
    with pytest.raises(KpnetError, match=r"broken\.mp4: not a video that can be decoded"):
        open_images(tmp_path / "broken.mp4", (SIDE, SIDE))


def test_a_frame_is_named_by_its_number_and_mapped_to_its_own_size(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 9)
    write_folder(tmp_path / "pictures", pixels(1, 30, 20))
    entries = ["pictures", {"file": "clip.mp4", "frames": 3}]
    found = unlabelled(tmp_path, entries)
    assert [found.image_name(index) for index in range(1, 4)] == ["clip.mp4#0", "clip.mp4#4", "clip.mp4#8"]
    corners = np.array([[-0.5, -0.5], [63.5, 31.5]])  # of a frame, 64 wide and 32 high
    for index in range(1, 4):
        inside = corners @ found.source_matrix(index)[:, :2].T + found.source_matrix(index)[:, 2]
        np.testing.assert_allclose(inside, [[-0.5, 2.5], [11.5, 8.5]])  # 12 x 6 between black borders
    assert (found.source_matrix(0) == np.eye(2, 3)).all()  # an image file keeps its size


def test_a_video_that_ends_early_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuvj420p"
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    open_images(path, (SIDE, SIDE))
    assert not caplog.records
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"idx1") * 9 // 10])
    found = len(open_images(path, (SIDE, SIDE)))
    assert 0 < found < 20
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: ends after {found} of the 20 frames that its header declares"
    ]


def unlabelled(root: Path, entries: Any) -> UnlabelledImages:
    """Read `data.unlabelled` beside the three labelled images of `labels.csv` and those of `labels.mp4`."""
    write_csv(root / "labels.csv", pixels(3), "nose_x nose_y left_x left_y")
    model = {"backbone": "conv_sandwich", "head": "heatmap", "in_channels": 1, "input_size": SIDE}
    values = {"model": model, "data": {"root": str(root), "unlabelled": entries}}
    skeleton = Skeleton.from_names(["nose", "left"])
    return read_unlabelled(load_config(values), skeleton, [KaggleCSV(root / "labels.csv", skeleton=skeleton)])


def test_labelled_images_are_left_out_with_their_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A CSV's images are found again in a CSV, a folder and a colour npz, by their pixels."""
    images = pixels(5)  # of which the first three are labelled
    write_folder(tmp_path / "pictures", images)
    np.savez(tmp_path / "colour.npz", images=np.stack([images] * 3, -1))
    write_csv(tmp_path / "all.csv", images)
    for entry in ("pictures", "colour.npz", {"file": "all.csv"}):
        caplog.clear()
        found = as_bytes(unlabelled(tmp_path, entry))
        assert {image.tobytes() for image in found} == {image.tobytes() for image in images[3:]}
        assert [r.getMessage() for r in caplog.records] == [
            f"data.unlabelled: 3 of the 5 images of {tmp_path / (entry if isinstance(entry, str) else entry['file'])} "
            "are among the labelled ones, and are left out"
        ]
    dataset = unlabelled(tmp_path, ["pictures", "all.csv"])
    assert len(dataset) == 4
    assert dataset[0]["keypoints"].shape == (2, 2)
    assert not dataset[0]["visible"].any()
    with pytest.raises(KpnetError, match=r"data\.unlabelled: no image besides the labelled ones"):
        unlabelled(tmp_path, "labels.csv")
    with pytest.raises(KpnetError, match="expected at least one file or folder"):
        unlabelled(tmp_path, [])


@pytest.mark.parametrize("again", ["all.csv", "../{root}/all.csv", {"file": "all.csv", "frames": 3}])
def test_a_source_that_is_listed_twice_is_refused(tmp_path: Path, again: Any) -> None:
    write_csv(tmp_path / "all.csv", pixels(5))
    again = again.format(root=tmp_path.name) if isinstance(again, str) else again
    with pytest.raises(KpnetError, match=r"^data\.unlabelled lists .*all\.csv twice, .*: remove one$"):
        unlabelled(tmp_path, ["all.csv", again])
