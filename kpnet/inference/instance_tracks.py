"""The instances of a video's frames, with identities or without: kept on disk and written as tables."""

from __future__ import annotations

import csv
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kpnet.core.files import replacing
from kpnet.core.progress import progress
from kpnet.data.video import Video
from kpnet.inference.parquet import table_writer
from kpnet.inference.prediction import Prediction
from kpnet.inference.predictor import Predictor
from kpnet.inference.tables import TEXT, encodable, further_values, instance_columns
from kpnet.inference.tracking import Tracker
from kpnet.inference.tracks import HELD, SCORER
from kpnet.smoothing import Smoother

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 4096  # rows whose numbers are in memory at once
CELLS = 1_000_000  # numbers of DeepLabCut's table that are in memory at once
HEAD = 3  # numbers of a row before those of its columns and points: frame, number, uncertain


@dataclass
class InstanceTracks:
    """R instances of K points, found in T frames, in pixels; the arrays may lie on disk.

    Attributes:
        names: Names of the K points.
        time: Times (T,) of the frames in seconds, from the first one.
        rows: The numbers (R, 3 + C + 3 K) of the instances in the order of the frames: frame, number, uncertain, the
            columns, and x, y and confidence of each point.
        columns: Names of C columns on instances, such as score.
        tracked: Whether the numbers are identities; else they count the instances of each frame.
        smooth: Smoothed points (R, K, 2), if requested.
        interrupted: Whether Ctrl-C ended the prediction before the video did.
    """

    names: Sequence[str]
    time: np.ndarray
    rows: np.ndarray
    columns: Sequence[str] = ()
    tracked: bool = True
    smooth: np.ndarray | None = None
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.time)

    @property
    def frame(self) -> np.ndarray:
        """Frames (R,), ascending."""
        return self.rows[:, 0]

    @property
    def number(self) -> np.ndarray:
        """Identities (R,), or numbers within the frame."""
        return self.rows[:, 1]

    @property
    def uncertain(self) -> np.ndarray:
        """Whether each identity (R,) is a guess: 1, else 0."""
        return self.rows[:, 2]

    @property
    def xy(self) -> np.ndarray:
        """Predicted points (R, K, 2)."""
        return self._points()[..., :2]

    @property
    def confidence(self) -> np.ndarray:
        """Confidence (R, K), NaN if the model predicts none."""
        return self._points()[..., 2]

    @property
    def best(self) -> np.ndarray:
        """The smoothed points (R, K, 2) if there are any, else the predicted ones."""
        return self.xy if self.smooth is None else self.smooth

    def of_frame(self, frame: int) -> slice:
        """Return which rows are those of a frame."""
        return slice(*np.searchsorted(self.frame, (frame, frame + 1)).tolist())

    def identities(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each number with its rows, ascending."""
        order = np.argsort(self.number, kind="stable")
        numbers, starts = np.unique(self.number[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        for number, start, end in zip(numbers.astype(int).tolist(), starts.tolist(), ends[: len(starts)], strict=True):
            yield number, order[start:end]

    def guesses(self) -> list[tuple[int, int]]:
        """Return the stretches of frames, first and last, in which an identity is a guess; short gaps are bridged."""
        frames = np.unique(self.frame[np.flatnonzero(self.uncertain)]).astype(int)
        parts = np.split(frames, np.flatnonzero(np.diff(frames) > 5) + 1) if len(frames) else []
        return [(int(part[0]), int(part[-1])) for part in parts]

    def _points(self) -> np.ndarray:
        return self.rows[:, HEAD + len(self.columns) :].reshape(len(self.rows), len(self.names), 3)


@contextmanager
def predict_instances(
    predictor: Predictor, video: Video, folder: Path, smoother: Smoother | None = None, track: bool = True
) -> Iterator[InstanceTracks]:
    """Predict the instances of a video's frames, and link them.

    They lie in temporary files in `folder` that are mapped into memory, as those of
    `kpnet.inference.tracks.predict_tracks`, and the files are deleted afterwards. Ctrl-C keeps the frames that are
    predicted by then.

    Args:
        predictor: The predictor; its `max_instances` are also the most identities.
        video: The video.
        folder: The folder for the temporary files.
        smoother: A filter for the points of each identity.
        track: Link the instances.
    """
    model = predictor.model
    names, columns = model.skeleton.names, instance_columns(model)
    tracker = Tracker(model.skeleton, max_instances=predictor.max_instances if model.finds_instances else 1)
    times = array("d")

    def frames() -> Iterator[np.ndarray]:
        for time, frame in progress(video.timed_frames(), "frames", video.declared_frames or None):
            times.append(time)
            yield frame

    with tempfile.TemporaryFile(dir=folder) as file, tempfile.TemporaryFile(dir=folder) as second:
        count, written, interrupted = 0, 0, False
        try:
            for prediction in predictor.track(frames()):
                numbers, unsure = np.arange(len(prediction.keypoints)), np.zeros(len(prediction.keypoints), bool)
                if track:
                    numbers, unsure = tracker.update(prediction), tracker.uncertain
                rows = _rows(prediction, count, numbers, unsure, columns)
                file.write(rows.tobytes())
                count, written = count + 1, written + len(rows)
        except KeyboardInterrupt:
            if not count:
                raise
            interrupted = True
        file.flush()
        shape = (written, HEAD + len(columns) + 3 * len(names))
        rows = np.memmap(file, np.float64, "r+", shape=shape) if written else np.zeros(shape)
        found = InstanceTracks(names, np.array(times[:count]), rows, columns, track, interrupted=interrupted)
        if smoother is not None and written:
            second.truncate(written * len(names) * 2 * np.dtype(np.float64).itemsize)
            smooth = np.memmap(second, np.float64, "r+", shape=(written, len(names), 2))
            smooth_identities(found, smoother, smooth)
            found.smooth = smooth
        yield found


def smooth_identities(tracks: InstanceTracks, smoother: Smoother, out: np.ndarray) -> None:
    """Smooth the points of each identity into `out` (R, K, 2), weighted by their confidence if any.

    Frames between in which an identity is not seen are missing samples; they get no row.
    """
    for _, rows in tracks.identities():
        frames = tracks.frame[rows].astype(int)
        at = frames - frames[0]
        together = max(1, HELD // (at[-1] + 1))
        for start in range(0, len(tracks.names), together):
            points = slice(start, start + together)
            xy, confidence = tracks.xy[rows, points], tracks.confidence[rows, points]
            dense = np.full((at[-1] + 1, *xy.shape[1:]), np.nan)
            weight = np.zeros(dense.shape[:2])
            dense[at] = xy
            weight[at] = np.ones_like(confidence) if np.isnan(confidence).all() else confidence
            out[rows, points] = smoother(dense, weight)[at]


def write_instances(tracks: InstanceTracks, table: Path) -> None:
    """Write a row for each point: as Parquet where the file's name ends in .parquet, else as CSV.

    Args:
        tracks: The instances.
        table: The file: frame, time in seconds, track (or instance, its number in the frame), name, x, y, confidence,
            score, uncertain for identities, and x_smooth and y_smooth of smoothed ones.
    """
    with table_writer(table) as add:
        for start in range(0, max(1, len(tracks.rows)), CHUNK):
            add(_long_rows(tracks, slice(start, start + CHUNK)))


def write_deeplabcut(tracks: InstanceTracks, path: Path) -> None:
    """Write identities in DeepLabCut's layout for several animals.

    Args:
        tracks: The identities.
        path: A CSV with a row for each frame under four header rows: scorer, individuals, bodyparts, coords; x and y
            are the smoothed ones if there are any.
    """
    import pandas as pd

    identities = np.unique(tracks.number)
    points = len(tracks.names)
    count = 3 * points * len(identities)
    parts = np.repeat([encodable(name) for name in tracks.names], 3)
    chunk = max(1, CELLS // max(1, count))
    with replacing(path) as beside, beside.open("w", **TEXT) as file:
        header = csv.writer(file, lineterminator="\n")
        header.writerow(["scorer", *[SCORER] * count])
        header.writerow(["individuals", *np.repeat([track_name(i) for i in identities], 3 * points)])
        header.writerow(["bodyparts", *np.tile(parts, len(identities))])
        header.writerow(["coords", *["x", "y", "likelihood"] * (points * len(identities))])
        for start in range(0, len(tracks), chunk):
            end = min(start + chunk, len(tracks))
            at = slice(*np.searchsorted(tracks.frame, (start, end)).tolist())
            values = np.full((end - start, len(identities), points, 3), np.nan)
            place = tracks.frame[at].astype(int) - start, np.searchsorted(identities, tracks.number[at])
            values[place] = np.concatenate([tracks.best[at], tracks.confidence[at][..., None]], -1)
            wide = pd.DataFrame(values.reshape(end - start, count), index=range(start, end))
            wide.to_csv(file, header=False, float_format="%.4f", lineterminator="\n")


def track_name(identity: float) -> str:
    """Return the name of an identity in tables."""
    return f"track_{int(identity)}"


def _rows(
    prediction: Prediction, frame: int, numbers: np.ndarray, unsure: np.ndarray, columns: Sequence[str]
) -> np.ndarray:
    """Return the rows of the instances of a frame that have a number."""
    points, confidence = prediction.keypoints, prediction.confidence
    sure = np.full(points.shape[:2], np.nan) if confidence is None else confidence
    values = np.array(further_values(prediction, columns)).reshape(*points.shape[:2], len(columns))[:, 0]
    numeric = np.concatenate([points, sure[..., None]], -1).reshape(len(points), 3 * len(prediction.names))
    head = np.column_stack([np.full(len(points), frame), numbers, unsure])
    order = np.argsort(numbers, kind="stable")
    return np.concatenate([head, values, numeric], 1)[order][np.sort(numbers) >= 0]


def _long_rows(tracks: InstanceTracks, at: slice) -> pd.DataFrame:
    import pandas as pd

    points = len(tracks.names)
    rows = tracks.rows[at]
    frame, number = (np.repeat(rows[:, k].astype(int), points) for k in (0, 1))
    named = {"track": np.array([track_name(n) for n in number], object)} if tracks.tracked else {"instance": number}
    smooth = () if tracks.smooth is None else (("x_smooth", 0), ("y_smooth", 1))
    return pd.DataFrame(
        {
            "frame": frame,
            "time": tracks.time[frame],
            **named,
            "name": np.array([encodable(name) for name in tracks.names] * len(rows), object),
            "x": tracks.xy[at, :, 0].ravel(),
            "y": tracks.xy[at, :, 1].ravel(),
            "confidence": tracks.confidence[at].ravel(),
            **{name: np.repeat(rows[:, HEAD + k], points) for k, name in enumerate(tracks.columns)},
            **({"uncertain": np.repeat(rows[:, 2].astype(int), points)} if tracks.tracked else {}),
            **{column: tracks.best[at, :, axis].ravel() for column, axis in smooth},
        }
    )
