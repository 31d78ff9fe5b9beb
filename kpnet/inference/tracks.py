"""Points over the frames of a video: kept on disk, written as tables, drawn into a copy of the video."""

from __future__ import annotations

import csv
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from kpnet import plot
from kpnet.core.files import replacing
from kpnet.core.progress import progress
from kpnet.core.skeleton import Skeleton
from kpnet.data.video import Video, write_video
from kpnet.inference.parquet import table_writer
from kpnet.inference.prediction import Prediction
from kpnet.inference.predictor import Predictor
from kpnet.inference.tables import TEXT, encodable
from kpnet.smoothing import Smoother

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 1024  # frames whose numbers are in memory at once
HELD = 1_000_000  # points over all frames that are smoothed at once: 16 MB
SCORER = "kpnet"  # the labeller's name in DeepLabCut's header


@dataclass
class Tracks:
    """K points over T frames, in pixels; the arrays may lie on disk.

    Attributes:
        names: Names of the K points.
        time: Times (T,) of the frames in seconds, from the first one.
        xy: Predicted points (T, K, 2).
        confidence: Confidence (T, K), NaN if the model predicts none.
        std: Standard deviations (T, K, 2) along x and y, NaN if the model predicts none.
        dof: Degrees of freedom of the errors' Student t distribution, as in `Keypoints`.
        smooth: Smoothed points (T, K, 2), if requested.
        interrupted: Whether Ctrl-C ended the prediction before the video did.
    """

    names: Sequence[str]
    time: np.ndarray
    xy: np.ndarray
    confidence: np.ndarray
    std: np.ndarray
    dof: float
    smooth: np.ndarray | None = None
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.xy)

    @property
    def best(self) -> np.ndarray:
        """The smoothed points (T, K, 2) if there are any, else the predicted ones."""
        return self.xy if self.smooth is None else self.smooth


@contextmanager
def predict_tracks(
    predictor: Predictor, video: Video, folder: Path, smoother: Smoother | None = None
) -> Iterator[Tracks]:
    """Predict the tracks of a video.

    They lie in temporary files in `folder` that are mapped into memory, so that a long video needs no more memory than
    a short one. The files are deleted afterwards. Ctrl-C keeps the frames that are predicted by then.
    """
    names = predictor.model.skeleton.names
    times = array("d")

    def frames() -> Iterator[np.ndarray]:
        for time, frame in progress(video.timed_frames(), "frames", video.declared_frames or None):
            times.append(time)
            yield frame

    with tempfile.TemporaryFile(dir=folder) as file, tempfile.TemporaryFile(dir=folder) as second:
        count, dof, interrupted = 0, float("inf"), False
        try:
            for prediction in predictor.track(frames()):
                file.write(_numbers(prediction).tobytes())
                count, dof = count + 1, prediction.dof
        except KeyboardInterrupt:
            if not count:
                raise
            interrupted = True
        rows = _mapped(file, (count, len(names), 5))
        time = np.array(times[:count])
        tracks = Tracks(names, time, rows[..., :2], rows[..., 2], rows[..., 3:], dof, interrupted=interrupted)
        if smoother is not None:
            second.truncate(count * len(names) * 2 * np.dtype(np.float64).itemsize)
            tracks.smooth = _mapped(second, (count, len(names), 2))
            smooth_tracks(tracks, smoother, tracks.smooth)
        yield tracks


def smooth_tracks(tracks: Tracks, smoother: Smoother, out: np.ndarray) -> None:
    """Smooth tracks into `out` (T, K, 2), weighted by their confidence if any, a few points at a time."""
    together = max(1, HELD // len(tracks))
    for start in range(0, len(tracks.names), together):
        at = slice(start, start + together)
        confidence = tracks.confidence[:, at]
        out[:, at] = smoother(tracks.xy[:, at], np.ones_like(confidence) if np.isnan(confidence).all() else confidence)


def write_tables(tracks: Tracks, table: Path, deeplabcut: Path) -> None:
    """Write tracks as a long table and as a file in DeepLabCut's layout.

    Args:
        tracks: The tracks.
        table: CSV or Parquet with a row for each frame and point: frame, time in seconds, instance, name, x, y,
            confidence, and x_smooth and y_smooth of smoothed tracks.
        deeplabcut: File with a row for each frame under three header rows (scorer, bodyparts, coords), as DeepLabCut
            writes its analyses; x and y are the smoothed ones if there are any.
    """
    import pandas as pd

    with table_writer(table) as add:
        for start in range(0, len(tracks), CHUNK):
            add(_long_rows(tracks, slice(start, start + CHUNK)))
    with replacing(deeplabcut) as beside, beside.open("w", **TEXT) as file:
        header = csv.writer(file, lineterminator="\n")
        count = 3 * len(tracks.names)
        header.writerow(["scorer", *[SCORER] * count])
        header.writerow(["bodyparts", *np.repeat([encodable(name) for name in tracks.names], 3)])
        header.writerow(["coords", *["x", "y", "likelihood"] * len(tracks.names)])
        for start in range(0, len(tracks), CHUNK):
            at = slice(start, start + CHUNK)
            values = np.concatenate([tracks.best[at], tracks.confidence[at, :, None]], axis=-1).reshape(-1, count)
            wide = pd.DataFrame(values, index=range(start, start + len(values)))
            wide.to_csv(file, header=False, float_format="%.4f", lineterminator="\n")


def write_annotated(tracks: Tracks, video: Video, skeleton: Skeleton, path: Path) -> None:
    """Write a copy of the video with points and edges, from red (confidence 0) to green (confidence 1)."""
    edges = skeleton.edge_indices
    with write_video(path, video.fps, video.time_base) as add:
        frames = progress(video.timed_frames(), "drawing", len(tracks))
        for (time, frame), xy, confidence in zip(frames, tracks.best, tracks.confidence, strict=False):
            add(plot.draw_points(frame, xy, None if np.isnan(confidence).all() else confidence, edges), time)


def _long_rows(tracks: Tracks, at: slice) -> pd.DataFrame:
    import pandas as pd

    xy, confidence = tracks.xy[at], tracks.confidence[at]
    frames = np.repeat(np.arange(at.start, at.start + len(xy)), len(tracks.names))
    smooth = () if tracks.smooth is None else (("x_smooth", 0), ("y_smooth", 1))
    return pd.DataFrame(
        {
            "frame": frames,
            "time": np.repeat(tracks.time[at], len(tracks.names)),
            "instance": 0,
            "name": [encodable(name) for name in tracks.names] * len(xy),
            "x": xy[..., 0].ravel(),
            "y": xy[..., 1].ravel(),
            "confidence": confidence.ravel(),
            **{column: tracks.best[at, :, axis].ravel() for column, axis in smooth},
        }
    )


def _numbers(prediction: Prediction) -> np.ndarray:
    """Return x, y, confidence and the standard deviations along x and y of the first instance, (K, 5)."""
    rows = np.full((len(prediction.names), 5), np.nan)
    rows[:, :2] = prediction.keypoints[0]
    if prediction.confidence is not None:
        rows[:, 2] = prediction.confidence[0]
    if prediction.covariance is not None:
        rows[:, 3:] = np.sqrt(prediction.covariance[0].diagonal(axis1=-2, axis2=-1))
    return rows


def _mapped(file: IO[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """Map the float64 numbers of a file into memory; changes to the array go to the file."""
    file.flush()
    return np.memmap(file, np.float64, "r+", shape=shape)
