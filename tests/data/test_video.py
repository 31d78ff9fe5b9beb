"""Videos at the command line: the same points as in images of the frames, and nothing that is half there."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import NAMES, dot_image
from support.console import Run
from torch import Tensor

from kpnet import KpnetError, Predictor, load_config, load_model, plot
from kpnet.data.build import build_val
from kpnet.data.video import Video, write_video
from kpnet.heads import Keypoints
from kpnet.inference import tracks
from kpnet.models.keypoint_model import KeypointModel
from kpnet.plot import draw_points

SIZE = (48, 64)
RATE = 20.0


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    """RGB, with three dots that move, in yellow."""
    draw = np.random.default_rng(seed)
    start, step = draw.uniform((15, 8), (48, 40), (3, 2)), draw.uniform(-0.9, 0.9, (3, 2))
    grey = [dot_image(start + step * t, 64)[: SIZE[0]] for t in range(count)]
    return [np.stack([image, image, image // 3], axis=-1) for image in grey]


def write(path: Path, pictures: list[np.ndarray], codec: str = "FFV1") -> Path:
    """Without loss: what is read is what was written."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), RATE, SIZE[::-1])
    for picture in pictures:
        writer.write(picture[..., ::-1])
    writer.release()
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


@pytest.fixture
def seeing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose model predicts the centre of the light, sooner than a training would."""

    def infer(self: KeypointModel, images: Tensor, test_time: object = None) -> Keypoints:
        light, (height, width) = images.sum(1), images.shape[-2:]
        x = (light.sum(-2) * (2 * torch.arange(width) + 1)).sum(-1) / light.sum((-2, -1)) / width - 1
        y = (light.sum(-1) * (2 * torch.arange(height) + 1)).sum(-1) / light.sum((-2, -1)) / height - 1
        points = torch.stack([x, y], -1)[:, None] + torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]])
        return Keypoints(points, (points[..., 0] + 1) / 2)

    monkeypatch.setattr(KeypointModel, "infer", infer)
    return trained


def test_a_video_is_predicted_as_its_frames_are(kpnet: Run, seeing: Path, tmp_path: Path) -> None:
    pictures = frames(7)
    write(tmp_path / "clip.avi", pictures)
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture[..., ::-1])
    done = kpnet("predict", seeing, "clip.avi", "--batch-size", 3, "--out", "video")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("clip.avi, 7 frame(s): video/clip_tracks.csv")
    files = {".kpnet", "clip_annotated.mp4", "clip_deeplabcut.csv", "clip_tracks.csv", "clip_tracks.png"}
    assert {path.name for path in (tmp_path / "video").iterdir()} == files
    kpnet("predict", seeing, *[f"{i}.png" for i in range(7)], "--out", "pictures")

    table = pd.read_csv(tmp_path / "video" / "clip_tracks.csv")
    expected = pd.read_csv(tmp_path / "pictures" / "predictions.csv")
    assert list(table.columns) == ["frame", "time", "instance", "name", "x", "y", "confidence"]
    assert table.frame.tolist() == np.repeat(range(7), 3).tolist()
    np.testing.assert_allclose(table.time, table.frame / RATE, atol=1e-4)
    assert table.name.tolist() == list(NAMES) * 7
    assert set(table.instance) == {0}
    np.testing.assert_allclose(table[["x", "y", "confidence"]], expected[["x", "y", "confidence"]], atol=2e-4)
    assert (table.groupby("name").x.std() > 0.5).all()  # they move

    wide = pd.read_csv(tmp_path / "video" / "clip_deeplabcut.csv", header=[0, 1, 2], index_col=0)
    assert wide.columns.names == ["scorer", "bodyparts", "coords"]
    assert wide.index.tolist() == list(range(7))
    for name in NAMES:
        mine = table[table.name == name]
        for coord, column in (("x", "x"), ("y", "y"), ("likelihood", "confidence")):
            assert wide["kpnet"][name][coord].tolist() == mine[column].tolist()


def test_the_annotated_video_has_the_points_on_every_frame(kpnet: Run, seeing: Path, tmp_path: Path) -> None:
    pictures = frames(6)
    write(tmp_path / "clip.avi", pictures)
    kpnet("predict", seeing, "clip.avi")
    drawn = Video(tmp_path / "predictions" / "clip_annotated.mp4")
    assert drawn.fps == RATE
    predicted = Predictor(seeing)
    shown = list(drawn.frames())
    assert len(shown) == 6
    for picture, frame in zip(pictures, shown, strict=True):
        answer = predicted(picture)
        assert answer.confidence is not None
        expected = draw_points(picture, answer.keypoints[0], answer.confidence[0])
        assert frame.shape == expected.shape  # small pictures are enlarged
        bare = draw_points(picture, np.full((3, 2), np.nan))
        marked = (np.abs(expected.astype(float) - bare) > 60).any(-1)
        assert np.abs(frame[marked].astype(float) - expected[marked]).mean() < 25  # it is compressed
        assert np.abs(frame[marked].astype(float) - bare[marked]).mean() > 50


def test_no_annotated_video_where_none_is_wanted(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    write(tmp_path / "clip.avi", frames(2))
    assert kpnet("predict", trained, "clip.avi", "--no-draw").code == 0
    assert not list((tmp_path / "predictions").glob("*.mp4"))
    assert (tmp_path / "predictions" / "clip_tracks.png").is_file()


def test_a_video_that_ends_early_keeps_its_frames(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    cut(write(tmp_path / "clip.avi", frames(40)), 0.6)
    done = kpnet("predict", trained, "clip.avi")
    assert done.code == 1
    table = pd.read_csv(tmp_path / "predictions" / "clip_tracks.csv")
    found = table.frame.max() + 1
    assert 10 < found < 39
    assert done.err == (f"kpnet: clip.avi: ends after {found} of the 40 frames that its header declares\n")
    assert len(list(Video(tmp_path / "predictions" / "clip_annotated.mp4").frames())) == found


BROKEN = {
    "text.mp4": "not a video that can be decoded",
    "empty.mkv": "not a video that can be decoded",
    "cut.mp4": "cut short",
    "none.avi": "without a frame",
    "gone.mp4": "no such file",
}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mkv").touch()
    write(tmp_path / "none.avi", [], "MJPG")
    with write_video(tmp_path / "cut.mp4", RATE) as add:
        for picture in frames(3):
            add(picture)
    cut(tmp_path / "cut.mp4", 0.5)  # its index is at its end
    return tmp_path


def test_what_is_no_video_is_one_line_and_leaves_nothing(kpnet: Run, trained: Path, broken: Path) -> None:
    for name, expected in BROKEN.items():
        kpnet("predict", trained, name).refused(name, expected)
        assert not (broken / "predictions").exists()


def test_the_decoder_says_nothing_past_python(broken: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, expected in BROKEN.items():
        with pytest.raises(KpnetError, match=expected):
            Video(broken / name)
    assert capfd.readouterr().err == ""


def test_pictures_and_videos_in_one_call(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "folder" / "a").mkdir(parents=True)
    (tmp_path / "videos").mkdir()
    cv2.imwrite(str(tmp_path / "folder" / "still.png"), frames(1)[0])
    write(tmp_path / "folder" / "a" / "clip.avi", frames(3))
    write(tmp_path / "videos" / "clip.avi", frames(2))
    (tmp_path / "bad.mp4").write_text("")
    done = kpnet("predict", trained, "folder", "bad.mp4", "videos", "--draw")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("kpnet: bad.mp4: not a video")
    first, second, third = done.out.splitlines()
    assert first.startswith("1 image(s)")
    assert second.startswith("folder/a/clip.avi, 3 frame(s): predictions/clip_tracks.csv")
    assert third.startswith("videos/clip.avi, 2 frame(s): predictions/clip_2_tracks.csv")
    assert (tmp_path / "predictions" / "still.png").is_file()
    assert len(pd.read_csv(tmp_path / "predictions" / "clip_2_tracks.csv")) == 6
    for option in ("--json", "--pseudo-labels"):
        kpnet("predict", trained, "videos", option).refused(option, "clip.avi")


def test_only_a_batch_of_frames_is_in_memory(trained: Path) -> None:
    seen: list[weakref.ref[np.ndarray]] = []
    most = 0

    def stream() -> Iterator[np.ndarray]:
        nonlocal most
        for frame in frames(2) * 20:
            frame = frame.copy()
            seen.append(weakref.ref(frame))
            most = max(most, sum(each() is not None for each in seen))
            yield frame

    assert sum(1 for _ in Predictor(trained, batch_size=4).track(stream())) == 40
    assert most <= 2 * 4


def test_nothing_is_left_half_written(
    kpnet: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "clip.avi", frames(5))
    drawn = []

    def fail(*given: object) -> np.ndarray:
        drawn.append(given)
        if len(drawn) == 3:
            raise KpnetError("no more")
        return np.zeros((96, 96, 3), np.uint8)

    monkeypatch.setattr("kpnet.plot.points.draw_points", fail)
    done = kpnet("predict", trained, "clip.avi")
    assert (done.code, done.err) == (1, "kpnet: no more\n")
    assert done.out.startswith("clip.avi, 5 frame(s): predictions/clip_tracks.csv")
    left = {path.name for path in (tmp_path / "predictions").iterdir()}
    assert left == {".kpnet", "clip_deeplabcut.csv", "clip_tracks.csv", "clip_tracks.png"}


# Each kind of video, against the numbers that are painted on its frames

BITS = 5
KINDS: dict[str, tuple[str, dict[str, str]]] = {  # file: codec and its options
    "b_frames.mp4": ("libx264", {"bf": "3"}),
    "interlaced.mp4": ("libx264", {"flags": "+ildct+ilme", "x264-params": "tff=1"}),
    "interlaced.mpg": ("mpeg2video", {"flags": "+ildct+ilme", "bf": "2"}),
    "camera.mts": ("libx264", {"bf": "2"}),
    "stream.ts": ("mpeg2video", {}),
    "bare.h264": ("libx264", {"bf": "2"}),
    "bare.hevc": ("libx265", {"x265-params": "log-level=none"}),
    "new.mp4": ("libsvtav1", {"preset": "10", "crf": "20"}),
    "page.webm": ("libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
    "no_loss.mkv": ("ffv1", {}),
    "old.avi": ("mpeg4", {"bf": "2"}),
    "windows.wmv": ("wmv2", {}),
    "apple.mov": ("prores", {}),
    "flash.flv": ("flv", {}),
}


@contextmanager
def usual_scheduling() -> Iterator[None]:
    """SVT-AV1 gives the thread that calls it real-time priority, if it may, which all tests after it would keep."""
    if not hasattr(os, "sched_getscheduler"):  # not on Linux
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def numbered(path: Path, codec: str, options: dict[str, str], times: list[float], **container_options: str) -> Path:
    """Noisy frames of 160x128, the number of each painted as dark and bright stripes."""
    size, unit = (128, 32 * BITS), Fraction(1, 1000)
    draw = np.random.default_rng(0)
    form = "mpegts" if path.suffix == ".mts" else None
    with usual_scheduling(), av.open(str(path), "w", format=form, options=container_options) as container:
        stream: Any = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = size
        stream.pix_fmt = {"prores": "yuv422p10le", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        if len(set(np.diff(times).round(6))) > 1:
            stream.codec_context.time_base = unit
        for number, time in enumerate(times):
            stripes = np.repeat([200 * (number >> bit & 1) for bit in range(BITS)], 32)
            noise = draw.integers(0, 40, (*size, 3))
            frame = av.VideoFrame.from_ndarray((noise + stripes[:, None]).astype(np.uint8), format="rgb24")
            frame.time_base = stream.codec_context.time_base or Fraction(1, 10)
            frame.pts = round(time / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def number_of(frame: np.ndarray) -> int:
    return sum(int(frame[20:-20, 32 * bit + 8 : 32 * bit + 24].mean() > 128) << bit for bit in range(BITS))


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_is_read_in_its_place_and_at_its_time(name: str, tmp_path: Path) -> None:
    codec, options = KINDS[name]
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no {codec}")
    video = Video(numbered(tmp_path / name, codec, options, [number / 10 for number in range(20)]))
    found = [(time, number_of(frame)) for time, frame in video.timed_frames()]
    assert [number for _, number in found] == list(range(20))
    if name.startswith("bare"):  # such a stream has frames and no times
        assert np.ptp(np.diff([time for time, _ in found])) < 1e-6
    else:
        np.testing.assert_allclose([time for time, _ in found], np.arange(20) / 10, atol=2e-3)
        assert video.fps == pytest.approx(10, rel=0.01)
    assert video.missing_frames_message(20) is None


@pytest.mark.parametrize("name", ["vary.mp4", "vary.mkv"])
def test_the_time_is_the_frames_own(kpnet: Run, trained: Path, tmp_path: Path, name: str) -> None:
    times = [0.0, 0.1, 0.2, 0.7, 0.8, 2.0, 2.1, 4.5]
    numbered(tmp_path / name, "libx264", {}, times)
    done = kpnet("predict", trained, name)
    assert (done.code, done.err) == (0, "")
    table = pd.read_csv(tmp_path / "predictions" / "vary_tracks.csv")
    assert table.time.unique().tolist() == times
    copy = Video(tmp_path / "predictions" / "vary_annotated.mp4")
    np.testing.assert_allclose([time for time, _ in copy.timed_frames()], times, atol=1e-3)
    assert copy.missing_frames_message(8) is None


@pytest.mark.parametrize("rate", [66.667, 196.263, 239.763, 30000 / 1001, 1 / 7, 1000.0])
def test_any_rate_can_be_written(tmp_path: Path, rate: float) -> None:
    with write_video(tmp_path / "a.mp4", rate) as add:
        for picture in frames(5):
            add(picture)
    video = Video(tmp_path / "a.mp4")
    assert video.fps == pytest.approx(rate, rel=1e-4)
    np.testing.assert_allclose([time for time, _ in video.timed_frames()], np.arange(5) / rate, rtol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (31, 48), (30, 47), (2, 600)])
def test_an_odd_side_gets_one_more_and_another_size_fits_in(tmp_path: Path, size: tuple[int, int]) -> None:
    with write_video(tmp_path / "a.mp4", 10.0) as add:
        add(np.full((*size, 3), 200, np.uint8))
        add(np.full((64, 64, 3), 200, np.uint8))
    shown = list(Video(tmp_path / "a.mp4").frames())
    assert [frame.shape[:2] for frame in shown] == [(size[0] + size[0] % 2, size[1] + size[1] % 2)] * 2
    assert abs(shown[0].astype(int) - 200).max() < 8


def matrix(video: bytes, values: tuple[int, int, int, int]) -> bytes:
    """The bytes of an MP4 with another matrix (a, b, c, d) in its track header."""
    at = video.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in values)
    return video[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + video[at + 36 :]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # a phone held upright: clockwise
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),  # a camera that mirrors
        ((1, 0, 0, -1), lambda image: image[::-1]),
    ],
)
def test_frames_are_turned_as_the_file_says(
    tmp_path: Path, values: tuple[int, int, int, int], expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    quarters = np.zeros((32, 48, 3), np.uint8)
    quarters[:16, :24], quarters[:16, 24:], quarters[16:, :24] = 250, 170, 90
    with write_video(tmp_path / "a.mp4", 10.0) as add:
        add(quarters)
    (tmp_path / "a.mp4").write_bytes(matrix((tmp_path / "a.mp4").read_bytes(), values))
    (frame,) = Video(tmp_path / "a.mp4").frames()
    wanted = expected(quarters)
    assert frame.shape == wanted.shape
    assert np.abs(frame.astype(int) - wanted).mean() < 6


def test_a_part_cut_out_without_encoding_is_complete(tmp_path: Path) -> None:
    """An edit list shows frames 3 to 14 of 20; the header still counts 20."""
    numbered(tmp_path / "a.mp4", "libx264", {"bf": "0"}, [number / 10 for number in range(20)])
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at, movie = data.index(b"elst") + 12, data.index(b"mvhd") + 20
    unit = struct.unpack(">I", data[data.index(b"mdhd") + 16 :][:4])[0]
    data[at : at + 8] = struct.pack(">Ii", 1200, 3 * unit // 10)
    data[movie : movie + 4] = struct.pack(">I", 1200)
    (tmp_path / "a.mp4").write_bytes(data)
    video = Video(tmp_path / "a.mp4")
    assert video.declared_frames == 20
    found = [number_of(frame) for frame in video.frames()]
    assert found == list(range(3, 15))
    assert video.missing_frames_message(len(found)) is None


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "mpeg4"), ("a.mkv", "ffv1"), ("a.avi", "mjpeg"), ("a.flv", "flv")]
)
@pytest.mark.parametrize("share", [0.75, 0.95])
def test_of_a_video_cut_short_what_is_there_is_read(tmp_path: Path, name: str, codec: str, share: float) -> None:
    numbered(tmp_path / name, codec, {}, [number / 10 for number in range(20)], movflags="faststart")
    whole = Video(tmp_path / name)
    assert whole.missing_frames_message(len(list(whole.frames()))) is None
    video = Video(cut(tmp_path / name, share))
    found = [number_of(frame) for frame in video.frames()]
    assert found == list(range(len(found)))
    assert 0 < len(found) < 20
    assert f"{name}: ends after {len(found)} " in str(video.missing_frames_message(len(found)))


def test_what_other_files_a_playlist_names_is_not_read(tmp_path: Path) -> None:
    with write_video(tmp_path / "secret.ts.mp4", 10.0) as add:
        add(frames(1)[0])
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile secret.ts.mp4\n")
    for name in ("list.mp4", "concat.mp4"):
        with pytest.raises(KpnetError, match="not a video that can be decoded"):
            Video(tmp_path / name)


def test_a_video_of_too_many_pixels_a_pipe_and_a_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.avi", frames(1))
    monkeypatch.setenv("KPNET_MAX_IMAGE_PIXELS", "3000")
    with pytest.raises(KpnetError, match=r"a\.avi: 3072 pixels, expected at most 3000"):
        Video(tmp_path / "a.avi")
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", tmp_path):
        with pytest.raises(KpnetError, match="not a regular file"):
            Video(path)


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    source = write(tmp_path / "a.avi", frames(2))
    source.rename(tmp_path / "caf\udce9 $x$ [b].avi")
    assert len(list(Video(tmp_path / "caf\udce9 $x$ [b].avi").frames())) == 2


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    def record() -> None:
        with write_video(tmp_path / "out.mp4", RATE) as add:
            for frame in frames(3):
                add(frame)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))  # the encoder's end is written beyond it

    before, limit = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            record()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.filename == str(tmp_path / "out.mp4")
    assert not list(tmp_path.iterdir())


def test_a_head_without_confidence_leaves_it_empty(tmp_path: Path) -> None:
    xy = np.random.default_rng(0).normal(size=(3, 2, 2))
    nothing = np.full((3, 2), np.nan)
    bare = tracks.Tracks(("a", "b, c"), np.arange(3) / RATE, xy, nothing, np.full((3, 2, 2), np.nan), np.inf)
    tracks.write_tables(bare, tmp_path / "long.csv", tmp_path / "wide.csv")
    assert pd.read_csv(tmp_path / "long.csv").confidence.isna().all()
    wide = pd.read_csv(tmp_path / "wide.csv", header=[0, 1, 2], index_col=0)
    assert wide["kpnet"]["b, c"]["likelihood"].isna().all()
    np.testing.assert_allclose(wide["kpnet"]["b, c"][["x", "y"]], xy[:, 1], atol=1e-4)
    figure = plot.draw_tracks(bare.names, bare.time, xy, nothing, bare.std)
    assert len(figure.axes) == 2
    assert not figure.axes[0].collections


def test_a_temporal_model_is_trained_evaluated_and_follows_a_video(kpnet: Run, tmp_path: Path) -> None:
    head = {"name": "temporal", "head": {"name": "regression", "hidden": []}, "past": 2, "future": 1, "width": 8}
    values = {
        "name": "moving",
        "model": {
            "backbone": {"name": "conv_sandwich", "channels": [4, 8]},
            "head": head,
            "in_channels": 1,
            "input_size": 32,
        },
        "data": {"format": "synthetic_clips", "train": 1, "val": 1},
        "train": {"epochs": 1, "batch_size": 8},
        "trainer": {"accelerator": "cpu"},
    }
    (tmp_path / "moving.yaml").write_text(yaml.safe_dump(values))
    assert kpnet("train", "moving.yaml").code == 0
    run = tmp_path / "runs" / "moving"
    assert (run / "predictions.png").is_file()
    measured = json.loads(kpnet("evaluate", run, "--json").out)
    assert measured["rmse_px"] > 0
    model = load_model(run)
    val = build_val(load_config(run / "config.yaml"), model.skeleton, model.frame_window)
    figure = plot.show_keypoint_predictions(val, model)
    assert len(figure.axes) == 3
    write(tmp_path / "clip.avi", frames(6))
    assert kpnet("predict", run, "clip.avi", "--batch-size", 2).code == 0
    table = pd.read_csv(tmp_path / "predictions" / "clip_tracks.csv")
    assert len(table) == 6 * 15
    assert table.confidence.isna().all()
    cv2.imwrite("still.png", frames(1)[0])
    assert kpnet("predict", run, "still.png").code == 0


def test_a_video_whose_size_changes_is_predicted_frame_by_frame(kpnet: Run, seeing: Path, tmp_path: Path) -> None:
    """Two streams of H.264 behind each other are one, whose second half has other headers."""
    data = b""
    places = [((30.0, 20.0), (48, 64)), ((70.0, 50.0), (96, 128))]
    for place, size in places:
        with av.open(str(tmp_path / "part.h264"), "w", format="h264") as container:
            stream: Any = container.add_stream("libx264", rate=10, options={"crf": "1", "bf": "0"})
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for _ in range(3):
                y, x = np.mgrid[: size[0], : size[1]]
                dot = 220 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 8)
                image = np.repeat(dot.astype(np.uint8)[..., None], 3, axis=2)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        data += (tmp_path / "part.h264").read_bytes()
    (tmp_path / "clip.h264").write_bytes(data)
    done = kpnet("predict", seeing, "clip.h264")
    assert done.code == 0, done
    assert "6 frame(s); its frames are 64x48, 128x96 from frame 3, and points are in pixels of their own" in done.out
    table = pd.read_csv(tmp_path / "predictions" / "clip_tracks.csv")
    found = table[table.name == NAMES[0]][["x", "y"]].to_numpy()
    expected = np.repeat([place for place, _ in places], 3, axis=0)
    assert np.abs(found - expected).max() < 1
    annotated = [frame.shape[:2] for frame in Video(tmp_path / "predictions" / "clip_annotated.mp4").frames()]
    assert annotated == [(6 * SIZE[0], 6 * SIZE[1])] * 6  # small frames are enlarged


def test_small_frames_are_the_frames_in_grey(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with write_video(tmp_path / "a.mp4", 25.0) as add:
        for _ in range(5):
            add(cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC))
    video = Video(tmp_path / "a.mp4")
    for small, frame in zip(video.small_frames(16), video.frames(), strict=True):
        grey = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(float) - grey.astype(float)).mean() < 3
