"""`kpnet predict`: pictures and videos in one call, each to files of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from kpnet import plot
from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic
from kpnet.core.skeleton import Skeleton
from kpnet.data.images import Box
from kpnet.inference.inputs import InputImage
from kpnet.inference.predictor import Prediction, Predictor
from kpnet.inference.tables import Table
from kpnet.inference.tracks import predict_tracks, write_annotated, write_tables
from kpnet.inference.video import Video
from kpnet.plot import draw_points
from kpnet.smoothing import parse_smoother
from kpnet.uncertainty import ellipse_radius


def predict_images(
    predictor: Predictor, pictures: list[InputImage], table: Table, out: Path, draw: bool
) -> tuple[Path, int, list[str]]:
    """The file that `table` writes into `out`, how many pictures are in it, and what was wrong with the others."""
    bad: list[str] = []
    loaded: deque[tuple[InputImage, np.ndarray]] = deque()  # of a batch at most
    count = 0
    for prediction in predictor.stream(_load(pictures, bad, loaded)):
        count += 1
        picture, image = loaded.popleft()
        table.add(prediction, picture, image)
        if draw:
            write_drawing(prediction, image, predictor.model.skeleton, out / picture.target)
    if not count:
        raise KpnetError(bad[0])
    return table.save(out), count, bad


def _load(
    pictures: list[InputImage], bad: list[str], loaded: deque[tuple[InputImage, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray, Sequence[Box] | None]]:
    """(name, image, boxes) of each, with a progress bar; what cannot be read goes to `bad`, the rest to `loaded`."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    for picture in track(pictures, "pictures", console=console, transient=True, disable=not console.is_terminal):
        try:
            image = picture.load()
        except KpnetError as error:
            bad.append(str(error))
            continue
        bad += [picture.lost] if picture.lost else []
        loaded.append((picture, image))
        yield picture.name, image, picture.boxes


def write_drawing(prediction: Prediction, image: np.ndarray, skeleton: Skeleton, target: Path) -> None:
    """A PNG of the image with its instances' points."""
    count, points = prediction.keypoints.shape[:2]
    each = [(points * n + a, points * n + b) for n in range(count) for a, b in skeleton.edge_indices]
    confidence = None if prediction.confidence is None else prediction.confidence.ravel()
    drawn = draw_points(image, prediction.keypoints.reshape(-1, 2), confidence, each)
    done, data = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    if not done:
        raise KpnetError(f"{prediction.image}: its picture could not be encoded")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, data.tobytes())


BAND = 0.9  # probability that the plot of a video's tracks draws


def check_video_options(videos: dict[str, Path], image_only_option: bool, smooth: str | None) -> None:
    """A KpnetError for options that do not fit the inputs, before anything is read.

    image_only_option: is there an option of pictures alone? smooth: the value of --smooth.
    """
    if videos and image_only_option:
        first = next(iter(videos.values()))
        raise KpnetError(
            f"{first}: --json and --pseudo-labels are for pictures; a video's tables are CSVs: leave them out"
        )
    if smooth is not None:
        parse_smoother(smooth, rate=1.0)
        if not videos:
            raise KpnetError("--smooth is for videos, and there is none among the inputs")


def predict_inputs(
    predictor: Predictor,
    pictures: list[InputImage],
    table: Table,
    videos: dict[str, Path],
    out: Path,
    draw: bool | None,
    smooth: str | None = None,
) -> tuple[list[str], list[str]]:
    """What was written into `out`, a line for all pictures and one a video, and what was wrong with the others.

    draw: None is yes for videos and no for pictures. smooth: a filter for videos, as `kpnet.smoothing.parse_smoother`
    takes it. A KpnetError where nothing could be read.
    """
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    told: list[str] = []
    bad: list[str] = []
    try:
        if pictures:
            with collect_failures(bad):
                target, count, unread = predict_images(predictor, pictures, table, out, bool(draw))
                told.append(f"{count} image(s): {target}" + (f", pictures in {out}" if draw else ""))
                bad += unread
        for name, path in videos.items():
            with collect_failures(bad):
                told.append(predict_video(predictor, path, out / name, draw is not False, smooth, bad))
        if not told:
            raise KpnetError(bad[0])
        return told, bad
    finally:
        if made and not any(out.iterdir()):
            out.rmdir()


@contextmanager
def collect_failures(bad: list[str]) -> Iterator[None]:
    """An input that cannot be read does not keep the others from being read."""
    try:
        yield
    except KpnetError as error:
        bad.append(str(error))


def predict_video(
    predictor: Predictor, path: Path, target: Path, draw: bool, smooth: str | None, bad: list[str]
) -> str:
    """Files that begin with `target`: tables, a picture of the tracks and, with `draw`, the annotated video.

    The line that says so; one for a video that ends early goes to `bad`.
    """
    video = Video(path)
    table, deeplabcut, picture, annotated = (
        target.with_name(f"{target.name}_{what}")
        for what in ("tracks.csv", "deeplabcut.csv", "tracks.png", "annotated.mp4")
    )
    smoother = None if smooth is None else parse_smoother(smooth, video.fps)
    with predict_tracks(predictor, video, target.parent, smoother) as tracks:
        write_tables(tracks, table, deeplabcut)
        radius = ellipse_radius(BAND, tracks.dof)
        title = f"{path.name}; bands: the points' {100 * BAND:g} % ellipses" * bool(np.isfinite(tracks.spread[0]).any())
        raw = None if tracks.smooth is None else tracks.xy
        figure = plot.draw_tracks(
            tracks.names, tracks.fps, tracks.best, tracks.confidence, tracks.spread, radius, raw, title or path.name
        )
        plot.save_figure(figure, picture)
        if draw:
            write_annotated(tracks, video, predictor.model.skeleton, annotated)
        early = video.missing_frames_message(len(tracks))
        bad += [early] if early else []
        others = [file.name for file in (deeplabcut, picture, *([annotated] if draw else []))]
        return f"{path}, {len(tracks)} frame(s): {table}, {', '.join(others)}"
