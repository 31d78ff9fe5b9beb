"""Read and write videos, a frame at a time, with FFmpeg's decoders and encoders (PyAV)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from kpnet.core.errors import KpnetError
from kpnet.core.files import replacing
from kpnet.data.image_header import check_pixels, max_pixels
from kpnet.data.images import VIDEO_SUFFIXES, letterbox

DEFAULT_FPS = Fraction(25)  # used if the file gives no frame rate
# Playlists and scripts, which FFmpeg reads too, name other files and addresses: they are not among these.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,asf,flv,ogg,mxf,dv,"
    "mjpeg,yuv4mpegpipe,gif,wtv"
)
UNTIMED = ("avi", "h264", "hevc", "m4v", "mpegvideo", "mjpeg", "obu", "yuv4mpegpipe")  # frames without a time to show
INDEXED = ("mov", "matroska")  # frames are found by their times
# Without frames that refer to later ones, a player of any age shows each frame for the time it should.
ENCODER = {"crf": "20", "preset": "veryfast", "bf": "0"}


class Video:
    """A video file.

    A frame's number counts the frames that can be decoded, as OpenCV and DeepLabCut count them. Where damage costs
    some, the later ones have smaller numbers than in the intact file; their times are right. Numbers cannot be made
    from times: cameras leave gaps in intact files, which are numbered without them; whether a stream's rate is constant
    is known only at its end; and decoders report damage some frames before or after the gap that it makes.

    Args:
        path: The file.

    Attributes:
        fps: Frames per second, on average; 25 if the file gives no rate.
        time_base: Unit of the timestamps, in seconds.
        declared_frames: Number of frames declared in the header, 0 if it gives none.

    Raises:
        KpnetError: The file cannot be decoded as a video, or has no frame.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise KpnetError(f"{path}: {'not a regular file' if self.path.exists() else 'no such file'}")
        self._end, self._gap, self._damaged, self._read = 0.0, 0.0, 0, False
        self._first = 0.0  # time of the first frame
        self._sizes: dict[tuple[int, int], int] = {}  # width and height, and the first frame that has them
        with self._opened() as (container, stream):
            self._timed = container.format.name not in UNTIMED
            counted = self._timed or container.format.name == "avi"
            self._rate = Fraction((stream.average_rate if counted else stream.guessed_rate) or DEFAULT_FPS)
            self.fps = float(self._rate)
            self.time_base = Fraction((stream.time_base if self._timed else None) or 1 / self._rate)
            self.declared_frames = max(0, stream.frames)
            self._declared_end = _declared_end(container)
        if next(self.frames(), None) is None:
            raise KpnetError(f"{path}: a video without a frame that can be decoded")

    def frames(self) -> Iterator[np.ndarray]:
        """Yield RGB frames, uint8 (H, W, 3), rotated as the file says, as far as they can be decoded."""
        return (frame for _, frame in self.timed_frames())

    def timed_frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield each frame with its time.

        Yields:
            The frame's own timestamp in seconds, 0 for the first frame, and the frame as in `frames`.
        """
        first, last = 0.0, -1 / self.fps
        self._gap, self._read, self._sizes = 0.0, False, {}
        for index, frame in enumerate(self._decoded()):
            own = frame.time if self._timed else float(index / self._rate)
            own = first + last + 1 / self.fps if own is None else own
            first = self._first = first if index else own
            self._gap, last = max(self._gap, own - first - last), own - first
            upright = _upright(frame)
            self._sizes.setdefault((upright.shape[1], upright.shape[0]), index)
            yield last, upright
        self._read = True

    def small_frames(self, side: int) -> Iterator[np.ndarray]:
        """Yield each frame as grey, uint8 (side, side), as it is stored, for comparing frames with each other.

        Args:
            side: Width and height in pixels.
        """
        for frame in self._decoded():
            yield frame.reformat(side, side, "gray", interpolation="AREA").to_ndarray()

    def timestamps(self) -> tuple[list[int | None], list[int]]:
        """Read the timestamps of the frames from the file's packets, without decoding them.

        Returns:
            The timestamp of each frame in the file's units, in the order of the packets; and those of the key frames.
            All are None where the file has no index of key frames by their times, as an AVI or a transport stream.
        """
        stamps: list[int | None] = []
        keys: list[int] = []
        with self._opened() as (container, stream):
            for packet in self._packets(container):
                if packet.stream.index != stream.index or not packet.size or packet.is_discard:
                    continue
                stamps.append(packet.pts if container.format.name.startswith(INDEXED) else None)
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts)
        return stamps, keys

    def stamped_frames(self, seek: int | None = None) -> Iterator[tuple[int, float, np.ndarray]]:
        """Yield frames with their timestamps, from a key frame on.

        Args:
            seek: Timestamp of the key frame. None: from the beginning.

        Yields:
            The timestamp in the file's units, the time as in `timed_frames`, and the frame.
        """
        if seek is None:
            for time, frame in self.timed_frames():
                yield round((time + self._first) / self.time_base), time, frame
            return
        start = next(self._decoded()).time or 0.0
        for decoded in self._decoded(seek):
            if decoded.pts is not None and decoded.pts >= seek:
                yield decoded.pts, float(decoded.pts * self.time_base) - start, _upright(decoded)

    def sizes_message(self) -> str | None:
        """Return what to say if the frames that were read have several sizes."""
        if len(self._sizes) < 2:
            return None
        (first, _), *others = self._sizes.items()
        later = ", ".join(f"{width}x{height} from frame {frame}" for (width, height), frame in others)
        return f"its frames are {first[0]}x{first[1]}, {later}, and points are in pixels of their own frame"

    def missing_frames_message(self, found: int) -> str | None:
        """Return a line if the video, read to its end, ends before its header says, or if some frames are damaged."""
        declared = self.declared_frames
        if not self._read:
            return None
        if self._timed:
            short = self._declared_end is not None and self._end + 1.5 * self._gap < self._declared_end
        else:
            short = True
        if short and found < declared - 1:
            return f"{self.path}: ends after {found} of the {declared} frames that its header declares"
        if short and self._timed and not declared:
            return (
                f"{self.path}: ends after {found} frames, {self._end:.2f} of the {self._declared_end:.2f} s that its "
                "header declares"
            )
        if self._damaged:
            return (
                f"{self.path}: {self._damaged} damaged frame(s) could not be decoded; {found} were read, whose numbers "
                "count them alone: go by their times"
            )
        return None

    def _decoded(self, seek: int | None = None) -> Iterator[av.VideoFrame]:
        """Yield the frames of the video stream, and note where the file ends and what of it is damaged."""
        self._end, self._damaged = 0.0, 0
        with self._opened() as (container, stream):
            if seek is not None:
                container.seek(seek, stream=stream)
            for packet in self._packets(container):
                # Where a transport stream was cut from a longer one, its first frames are good in spite of the mark.
                if packet.is_corrupt and container.format.name != "mpegts":
                    self._damaged += packet.stream.index == stream.index
                elif packet.stream.index == stream.index:
                    try:
                        yield from packet.decode()
                    except av.error.FFmpegError:
                        self._damaged += 1

    def _packets(self, container: InputContainer) -> Iterator[Any]:
        """Yield the packets of images and sound as far as they can be read."""
        start = (container.start_time or 0) / av.time_base
        try:
            for packet in container.demux(*container.streams.video, *container.streams.audio):
                if packet.pts is not None:
                    self._end = max(self._end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - start)
                yield packet
        except av.error.FFmpegError:
            self._damaged += 1

    @contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Open the file and its main video stream."""
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        try:
            container = av.open(f"file:{self.path}", container_options=options)
        except av.error.FFmpegError as error:
            if isinstance(error, PermissionError):
                raise KpnetError(f"{self.path}: {error.strerror}") from None
            known = ", ".join(VIDEO_SUFFIXES[:9])
            raise KpnetError(
                f"{self.path}: not a video that can be decoded, or one cut short (expected {known}, …)"
            ) from None
        with container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.codec_context is None:
                raise KpnetError(f"{self.path}: a video without a frame that can be decoded")
            check_pixels(self.path, stream.width * stream.height)
            stream.codec_context.options = {"max_pixels": str(max_pixels())}
            stream.thread_type = "AUTO"
            yield container, stream


def _declared_end(container: InputContainer) -> float | None:
    """Return the time in seconds at which the longest stream of images or sound ends by the header."""
    streams = [*container.streams.video, *container.streams.audio]
    ends = [float(s.duration * s.time_base) for s in streams if s.duration is not None and s.time_base is not None]
    if len(ends) == len(streams):
        return max(ends)
    return None if container.duration is None else container.duration / av.time_base


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """Return a frame as RGB, uint8 (H, W, 3), turned and mirrored as its display matrix says."""
    pixels = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # x' = ax + cy and y' = bx + dy
    (a, b, _), (c, d, _) = np.frombuffer(memoryview(matrix), np.int32).reshape(3, 3)[:2].tolist()  # type: ignore[arg-type]
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


@contextmanager
def write_video(path: Path, fps: float, time_base: Fraction | None = None) -> Iterator[Callable[..., None]]:
    """Write an MP4 (H.264, no sound), which appears at `path` once it is complete.

    Args:
        path: The file.
        fps: Frames per second.
        time_base: Unit of the timestamps in seconds. None: the time of one frame.

    Yields:
        A function that appends an RGB frame, uint8 (H, W, 3). Its second argument is the frame's time in seconds; left
        out, the time follows from `fps`. As H.264 has even sides, an odd side gets its last row or column twice. A
        frame of another size than the first is letterboxed.

    Raises:
        KpnetError: There is no frame, or no encoder for frames of this size.
        OSError: The file cannot be written.
    """
    with replacing(path) as beside:
        writer = _Writer(path, beside, Fraction(fps).limit_denominator(1 << 16), time_base)
        try:
            yield writer.add
            writer.finish()
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):  # a full disk
                raise OSError(error.errno, error.strerror, str(path)) from None
            raise KpnetError(f"{path}: the video could not be encoded: {error.strerror}") from None


class _Writer:
    """Encodes frames into the file `beside`, which errors call `path`."""

    def __init__(self, path: Path, beside: Path, rate: Fraction, time_base: Fraction | None) -> None:
        self.path, self.rate, self.time_base = path, rate, time_base or 1 / rate
        self.container = av.open(str(beside), "w", format="mp4")
        self.stream: VideoStream | None = None
        self.size = (0, 0)
        self.count, self.last = 0, -1  # frames, and timestamp of the last

    def add(self, frame: np.ndarray, time: float | None = None) -> None:
        if self.stream is None:
            self.size = (frame.shape[0], frame.shape[1])
            self.stream = self.container.add_stream("libx264", rate=self.rate, options=ENCODER)
            self.stream.height, self.stream.width = (side + side % 2 for side in self.size)
            self.stream.pix_fmt = "yuv420p"
            self.stream.codec_context.time_base = self.time_base
        if frame.shape[:2] != self.size:
            frame, _ = letterbox(frame, self.size)
        frame = np.pad(frame, [(0, side % 2) for side in self.size] + [(0, 0)], mode="edge")
        own = round((self.count / self.rate if time is None else time) / self.time_base)
        self.last = max(self.last + 1, own)
        encoded = av.VideoFrame.from_ndarray(frame, format="rgb24")
        encoded.pts, encoded.time_base = self.last, self.time_base
        self.count += 1
        self._mux(encoded)

    def finish(self) -> None:
        if self.stream is None:
            raise KpnetError(f"{self.path}: no frame to write")
        self._mux(None)
        self.container.close()

    def _mux(self, frame: av.VideoFrame | None) -> None:
        assert self.stream is not None
        for packet in self.stream.encode(frame):
            packet.duration = max(1, round(1 / self.rate / self.time_base))  # of the last frame; others end at the next
            self.container.mux(packet)
