"""`kpnet predict`: images and videos in one call, each with output files of its own."""

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
from kpnet.core.outputs import output_files
from kpnet.core.progress import progress
from kpnet.core.skeleton import Skeleton
from kpnet.data.images import Box
from kpnet.inference.inputs import InputImage
from kpnet.inference.predictor import Prediction, Predictor
from kpnet.inference.tables import Table
from kpnet.inference.tracks import predict_tracks, write_annotated, write_tables
from kpnet.inference.video import Video
from kpnet.smoothing import parse_smoother
from kpnet.uncertainty import ellipse_radius

BAND = 0.9  # probability of the ellipses that the plot of a video's tracks shows as bands


def predict_images(
    predictor: Predictor, images: list[InputImage], table: Table, out: Path, draw: bool
) -> tuple[Path, int, list[str]]:
    """Predict images, and write a table of their points.

    Args:
        predictor: The predictor.
        images: The images.
        table: The table that the predictions are written with.
        out: The folder to write into.
        draw: Also write the images with their points.

    Returns:
        The file of the table, the number of images in it, and a line for each image that failed.

    Raises:
        KpnetError: No image could be read.
    """
    failures: list[str] = []
    loaded: deque[tuple[InputImage, np.ndarray]] = deque()  # one batch at most
    count = 0
    for prediction in predictor.stream(_load(images, failures, loaded)):
        count += 1
        source, pixels = loaded.popleft()
        table.add(prediction, source, pixels)
        if draw:
            write_drawing(prediction, pixels, predictor.model.skeleton, out / source.target)
    if not count:
        raise KpnetError(failures[0])
    return table.save(out), count, failures


def _load(
    images: list[InputImage], failures: list[str], loaded: deque[tuple[InputImage, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray, Sequence[Box] | None]]:
    """Yield (name, pixels, boxes) of each image that can be read; the errors of the others go to `failures`."""
    for image in progress(images, "images"):
        try:
            pixels = image.load()
        except KpnetError as error:
            failures.append(str(error))
            continue
        failures += [image.warning] if image.warning else []
        loaded.append((image, pixels))
        yield image.name, pixels, image.boxes


def write_drawing(prediction: Prediction, image: np.ndarray, skeleton: Skeleton, target: Path) -> None:
    """Write a PNG of the image with the points of its instances."""
    count, points = prediction.keypoints.shape[:2]
    each = [(points * n + a, points * n + b) for n in range(count) for a, b in skeleton.edge_indices]
    confidence = None if prediction.confidence is None else prediction.confidence.ravel()
    drawn = plot.draw_points(image, prediction.keypoints.reshape(-1, 2), confidence, each)
    done, data = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    if not done:
        raise KpnetError(f"{prediction.image}: its drawing could not be encoded")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, data.tobytes())


def check_video_options(videos: dict[str, Path], image_only_option: bool, smooth: str | None) -> None:
    """Check options that may not fit the inputs, before anything is read.

    Args:
        videos: The videos among the inputs.
        image_only_option: Whether an image-only option was given.
        smooth: The value of `--smooth`.

    Raises:
        KpnetError: An option does not fit the inputs, or the filter is unknown.
    """
    if videos and image_only_option:
        first = next(iter(videos.values()))
        raise KpnetError(
            f"{first}: --json and --pseudo-labels are for images; a video's tables are CSVs: remove the option"
        )
    if smooth is not None:
        parse_smoother(smooth, rate=1.0)
        if not videos:
            raise KpnetError("--smooth is for videos, and there is none among the inputs")


def predict_inputs(
    predictor: Predictor,
    images: list[InputImage],
    table: Table,
    videos: dict[str, Path],
    out: Path,
    draw: bool | None,
    smooth: str | None = None,
    inputs: Sequence[Path] = (),
) -> tuple[list[str], list[str]]:
    """Predict images and videos, and write the results into a folder.

    A file that is there already is replaced only if kpnet wrote it and nobody changed it.

    Args:
        predictor: The predictor.
        images: The images; they share one table.
        table: The table that their predictions are written with.
        videos: The videos by the name of their output files.
        out: The folder.
        draw: Write images and videos with their points. None: videos only.
        smooth: A filter for videos, as `kpnet.smoothing.parse_smoother` reads it.
        inputs: Files that are read beside the images and videos, such as files of labels.

    Returns:
        Lines that say what was written, one for all images and one for each video, and lines for inputs that failed.

    Raises:
        KpnetError: No input could be read, or a file would be written over an input or over a file of the user's.
    """
    written: list[str] = []
    failures: list[str] = []
    names = [table.file_name, *(str(image.target) for image in images if draw)] if images else []
    names += [path.name for name in videos for path in video_outputs(out / name, draw is not False)]
    files = [image.file for image in images if image.file is not None]
    with output_files(out, names, "--out", [*inputs, *videos.values(), *files]):
        if images:
            with collect_failures(failures):
                target, count, unread = predict_images(predictor, images, table, out, bool(draw))
                written.append(f"{count} image(s): {target}" + (f", drawings in {out}" if draw else ""))
                failures += unread
        for name, path in videos.items():
            with collect_failures(failures):
                written.append(predict_video(predictor, path, out / name, draw is not False, smooth, failures))
        if not written:
            raise KpnetError(failures[0])
    return written, failures


@contextmanager
def collect_failures(failures: list[str]) -> Iterator[None]:
    """Collect the message of a KpnetError, so that the other inputs are still predicted."""
    try:
        yield
    except KpnetError as error:
        failures.append(str(error))


def video_outputs(target: Path, draw: bool = True) -> tuple[Path, ...]:
    """Return the files of a video: table, DeepLabCut's table, plot, and the annotated copy if it is drawn."""
    endings = ("tracks.csv", "deeplabcut.csv", "tracks.png", *(("annotated.mp4",) if draw else ()))
    return tuple(target.with_name(f"{target.name}_{ending}") for ending in endings)


def predict_video(
    predictor: Predictor, path: Path, target: Path, draw: bool, smooth: str | None, failures: list[str]
) -> str:
    """Predict a video, and write tables and a plot of its tracks.

    Args:
        predictor: The predictor.
        path: The video.
        target: What the paths of the written files begin with.
        draw: Also write a copy of the video with the points.
        smooth: A filter, as `kpnet.smoothing.parse_smoother` reads it, or None.
        failures: Gets a line if the video ends early.

    Returns:
        A line that names the written files.

    Raises:
        KpnetError: The video cannot be decoded, or the filter is unknown.
    """
    video = Video(path)
    table, deeplabcut, plotted, annotated = video_outputs(target)
    smoother = None if smooth is None else parse_smoother(smooth, video.fps)
    with predict_tracks(predictor, video, target.parent, smoother) as tracks:
        write_tables(tracks, table, deeplabcut)
        radius = ellipse_radius(BAND, tracks.dof)
        title = f"{path.name}; bands: the points' {100 * BAND:g} % ellipses" * bool(np.isfinite(tracks.std[0]).any())
        raw = None if tracks.smooth is None else tracks.xy
        figure = plot.draw_tracks(
            tracks.names, tracks.fps, tracks.best, tracks.confidence, tracks.std, radius, raw, title or path.name
        )
        plot.save_figure(figure, plotted)
        if draw:
            write_annotated(tracks, video, predictor.model.skeleton, annotated)
        early = video.missing_frames_message(len(tracks))
        failures += [early] if early else []
        others = [file.name for file in (deeplabcut, plotted, *([annotated] if draw else []))]
        return f"{path}, {len(tracks)} frame(s): {table}, {', '.join(others)}"
