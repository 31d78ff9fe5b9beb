"""`kpnet predict` on a video with several instances: tables, a plot and an annotated copy."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kpnet import plot
from kpnet.core.errors import few
from kpnet.core.progress import progress
from kpnet.core.skeleton import Skeleton
from kpnet.data.video import Video, write_video
from kpnet.inference.instance_tracks import (
    InstanceTracks,
    predict_instances,
    track_name,
    write_deeplabcut,
    write_instances,
)
from kpnet.inference.predictor import Predictor
from kpnet.inference.sleap_tracks import MOST_INSTANCES, write_slp
from kpnet.smoothing import Smoother

PLOTTED = 24  # identities in the plot, those that are seen most


def instance_outputs(target: Path, draw: bool, parquet: str | None, track: bool) -> dict[str, Path]:
    """Return the files of a video with several instances, by kind.

    Args:
        target: What the paths of the files begin with.
        draw: Whether there is an annotated copy.
        parquet: Name of the table if it is a Parquet file. None: a CSV.
        track: Whether the instances have identities, which DeepLabCut's and SLEAP's files and the plot need.
    """
    endings = {"table": "tracks.csv"}
    if track:
        endings |= {"deeplabcut": "deeplabcut.csv", "plot": "tracks.png"}
        endings |= {"sleap": "tracks.slp"} if find_spec("sleap_io") else {}
    endings |= {"annotated": "annotated.mp4"} if draw else {}
    files = {kind: target.with_name(f"{target.name}_{ending}") for kind, ending in endings.items()}
    return files if parquet is None else files | {"table": target.with_name(parquet)}


def predict_instance_video(
    predictor: Predictor,
    video: Video,
    target: Path,
    draw: bool,
    smoother: Smoother | None,
    parquet: str | None,
    track: bool,
) -> tuple[list[str], int, bool, bool]:
    """Predict a video, and write what `instance_outputs` names.

    Args:
        predictor: The predictor.
        video: The video.
        target: What the paths of the written files begin with.
        draw: Also write a copy of the video with the points.
        smoother: A filter for the points of each identity, or None.
        parquet: Name of the table if it is a Parquet file. None: a CSV.
        track: Link the instances.

    Returns:
        Lines that name the written files and the frames in which identities are guesses; the number of frames; and
        whether Ctrl-C ended the prediction, or the drawing.
    """
    files = instance_outputs(target, draw, parquet, track)
    annotated = files.pop("annotated", None)
    with predict_instances(predictor, video, target.parent, smoother, track) as tracks:
        sizes = video.sizes_message()  # of all that was predicted; the drawing reads the frames again
        write_instances(tracks, files["table"])
        notes = []
        if track:
            write_deeplabcut(tracks, files["deeplabcut"])
            plot.save_figure(_plot(tracks, video.path.name), files["plot"])
        if "sleap" in files:
            if len(tracks.rows) <= MOST_INSTANCES:
                write_slp(tracks, video, predictor.model.skeleton, files["sleap"])
            else:
                notes.append(f"no {files.pop('sleap').name}: it would hold more than {MOST_INSTANCES:,} instances")
        stopped = False
        if annotated is not None and not tracks.interrupted:
            try:
                write_annotated(tracks, video, predictor.model.skeleton, annotated)
                files["annotated"] = annotated
            except KeyboardInterrupt:
                stopped = True
        names = ", ".join([str(files.pop("table")), *(path.name for path in files.values())])
        said = _summary(tracks) + (f"; {sizes}" if sizes else "")
        lines = [f"{video.path}, {said}: {names}", *(f"{video.path}: {note}" for note in notes)]
        guesses = [f"{a}" if a == b else f"{a}-{b}" for a, b in tracks.guesses()]
        if guesses:
            lines.append(f"{video.path}: identities are guesses in frames {few(guesses, 12)}: look at them")
        return lines, len(tracks), tracks.interrupted, stopped


def write_annotated(tracks: InstanceTracks, video: Video, skeleton: Skeleton, path: Path) -> None:
    """Write a copy of the video with the instances, each identity in a colour of its own and with its number."""
    with write_video(path, video.fps, video.time_base) as add:
        for number, (time, frame) in enumerate(progress(video.timed_frames(), "drawing", len(tracks))):
            at = tracks.of_frame(number)
            ids = tracks.number[at].astype(int).tolist()
            confidence = tracks.confidence[at]
            known = None if np.isnan(confidence).all() else confidence
            labels = [str(each) for each in ids] if tracks.tracked else None
            drawn = plot.draw_instances(frame, tracks.best[at], known, skeleton.edge_indices, ids=ids, labels=labels)
            add(drawn, time)


def _summary(tracks: InstanceTracks) -> str:
    """Return how many frames, instances and identities there are."""
    empty = len(tracks) - len(np.unique(tracks.frame))
    parts = [f"{len(tracks)} frame(s)", f"{empty} of them without an instance" if empty else ""]
    if tracks.tracked:
        count = len(np.unique(tracks.number))
        parts.append(f"{count} {'identity' if count == 1 else 'identities'}")
    return ", ".join(filter(None, parts))


def _plot(tracks: InstanceTracks, title: str) -> plot.Figure:
    """Draw the centres of the identities over time."""
    shown = sorted(sorted(tracks.identities(), key=lambda each: -len(each[1]))[:PLOTTED])
    centres = np.full((len(tracks), len(shown), 2), np.nan)
    for column, (_, rows) in enumerate(shown):
        points = tracks.best[rows]
        seen = np.isfinite(points).all(-1, keepdims=True)
        count = np.maximum(seen.sum(1), 1)
        centres[tracks.frame[rows].astype(int), column] = np.where(seen, points, 0).sum(1) / count
    names = [track_name(identity) for identity, _ in shown]
    return plot.draw_tracks(names, tracks.time, centres, title=f"{title}; centres of the identities")
