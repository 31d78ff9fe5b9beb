"""Which images and videos the inputs of a call are, and what their output files are called."""

from __future__ import annotations

import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from kpnet.config.schema import DataConfig, TrainFile
from kpnet.core.errors import KpnetError
from kpnet.data import SyntheticFaces
from kpnet.inference.inputs import _labels, _read, find_images, find_videos, stream_images


def test_one_bad_input_costs_no_other(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.csv").write_text("no,labels\n1,2\n")
    os.mkfifo(tmp_path / "d.csv")
    failures: list[str] = []
    inputs = [tmp_path / name for name in ("empty", "b.json", "a.png", "c.csv", "d.csv")]
    images = find_images(inputs, failures)
    assert [Path(image.name).name for image in images] == ["a.png", "d.csv"]
    assert len(failures) == 3
    for line, name in zip(failures, ("empty", "b.json", "c.csv"), strict=True):
        assert line.startswith(str(tmp_path / name))
        assert "\n" not in line
    with pytest.raises(KpnetError, match=r"d\.csv: not a regular file"):
        images[1].load()
    with pytest.raises(KpnetError, match="gone: no such file or folder"):
        find_images([tmp_path / "a.png", tmp_path / "gone"], [])


def test_nothing_that_looks_like_an_image_or_a_video_is_left_out(tmp_path: Path) -> None:
    kinds = (".avif", ".heic", ".pgm", ".ppm", ".jfif", ".jp2", ".gif", ".nef", ".svg", ".JPG")
    clips = (".ts", ".mts", ".m2ts", ".h264", ".hevc", ".wmv", ".flv", ".MP4")
    for suffix in (*kinds, *clips, ".txt", ".py"):
        (tmp_path / f"a{suffix}").touch()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    others, videos = find_videos([tmp_path])
    found = {Path(image.name).name for image in find_images(others, [])}
    assert found == {f"a{suffix}" for suffix in kinds} | {"pipe.png"}
    assert {path.suffix for path in videos.values()} == set(clips)
    assert len(videos) == len(clips)


def test_output_names_fit_every_file_system(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / f"{'ä' * 120}.png")
    (tmp_path / f"{'x' * 250}.mp4").touch()
    (image,) = find_images([tmp_path / f"{'ä' * 120}.png"], [])
    assert len(os.fsencode(image.target.name)) <= 204
    _, videos = find_videos([tmp_path])
    assert all(len(name) <= 200 for name in videos)
    names = np.array(["a\0b", "a/b", "\udcff", "\ud800", "n" * 300])
    np.savez(tmp_path / "a.npz", images=np.zeros((5, 8, 8), np.uint8), keypoints=np.zeros((5, 1, 2)), image_names=names)
    for image in find_images([tmp_path / "a.npz"], []):
        (tmp_path / image.target).touch()
        assert (tmp_path / image.target).parent == tmp_path


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_an_npz_of_images_alone_has_images_without_labels(tmp_path: Path, channels: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7, *channels), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels)
    failures: list[str] = []
    found = find_images([tmp_path / "a.npz"], failures)
    assert not failures
    assert [each.name for each in found] == [f"{tmp_path / 'a.npz'}:{row}" for row in range(3)]
    for image, own in zip(found, pixels, strict=True):
        np.testing.assert_array_equal(image.load(), own[..., 0] if channels == (1,) else own)
        assert not image.labels()


@pytest.mark.parametrize("of_file", [False, True], ids=["of the data", "of the training file"])
def test_image_files_are_read_with_the_bits_of_the_training(of_file: bool, tmp_path: Path) -> None:
    values = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    form: Any = {"name": "points_csv", "bits": 12}
    file = TrainFile(file="a.csv", format=form if of_file else None)
    trained = DataConfig(format="points_csv" if of_file else form, train=[file])
    for given in (tmp_path, tmp_path / "a.png"):
        (image,) = find_images([given], [], trained)
        assert np.array_equal(image.load()[..., 0], values >> 4)
        (bare,) = find_images([given], [])
        assert np.array_equal(bare.load()[..., 0], values >> 8)


def test_streamed_images_are_those_that_are_listed_and_none_is_held(tmp_path: Path) -> None:
    for folder in ("b", "a", "a/c", "a.b"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            (tmp_path / folder / f"{number}.png").touch()
    (tmp_path / "a" / "b.png").touch()
    (tmp_path / "a" / "up.png").symlink_to(tmp_path)  # leads back
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    failures: list[str] = []
    inputs = [tmp_path / "a" / "b.png", tmp_path, tmp_path / "a" / "c" / "1.png"]
    stream = stream_images(inputs, failures)
    held = weakref.ref(first := next(stream).load)
    assert find_images(inputs, [])[0].file == inputs[0]
    del first
    rest = [Path(image.name) for image in stream]
    assert held() is None
    expected = sorted(path for path in tmp_path.rglob("*.png") if not path.is_dir())
    assert rest == [*expected, inputs[2]]
    assert not failures
    with pytest.raises(KpnetError, match="gone: no such file or folder"):
        stream_images([tmp_path / "gone"], [])


def test_samples_that_are_no_files_are_read_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that several threads share would seek for one and read for another."""
    faces, both = SyntheticFaces(2), threading.Barrier(2)
    read, met = faces.read, []

    def slow(index: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            both.wait(0.3)
            met.append(index)
        except threading.BrokenBarrierError:
            both.reset()
        return read(index)

    monkeypatch.setattr(faces, "read", slow)
    with ThreadPoolExecutor(2) as pool:
        image, labels = pool.submit(_read, faces, 0), pool.submit(_labels, faces, 1)
        assert image.result().ndim >= 2
        assert labels.result()
    assert not met
