"""`kpnet predict`: images and videos in one call, each with output files of its own."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from kpnet import plot
from kpnet.config.schema import ModelConfig
from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic
from kpnet.core.outputs import output_files
from kpnet.core.prefetch import map_ahead
from kpnet.core.progress import progress
from kpnet.core.skeleton import Skeleton
from kpnet.data.images import Box, check_model_input
from kpnet.data.video import Video
from kpnet.inference.inputs import InputImage
from kpnet.inference.instance_videos import instance_outputs, predict_instance_video
from kpnet.inference.parquet import SUFFIX
from kpnet.inference.prediction import Prediction
from kpnet.inference.predictor import Predictor
from kpnet.inference.tables import Table
from kpnet.inference.tracks import predict_tracks, write_annotated, write_tables
from kpnet.smoothing import parse_smoother
from kpnet.uncertainty import ellipse_radius

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BAND = 0.9  # probability of the ellipses that the plot of a video's tracks shows as bands


@dataclass
class Outcome:
    """What a call of `kpnet predict` has done.

    Attributes:
        written: Lines that say what was written, one for all images and one for each video.
        failures: Lines on inputs that failed.
        stopped: Whether Ctrl-C or a full disk ended the call before all inputs were predicted.
    """

    written: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopped: bool = False

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Collect what went wrong with one input, so that the others are still predicted; a full disk ends the call."""
        try:
            yield
        except KpnetError as error:
            self.failures.append(str(error))
        except OSError as error:
            self.failures.append(f"{error.filename}: {error.strerror}" if error.filename else str(error))
            self.stopped = error.errno in NO_ROOM

    def interrupt(self, done: str) -> None:
        """Report what was done by the time of Ctrl-C."""
        self.failures.append(f"interrupted after {done}")
        self.stopped = True


class _NothingPredicted(Exception):
    """Raised so that no empty table is written."""


def first_of(failures: Sequence[str]) -> str:
    """Return the first of several lines, and how many more there are."""
    more = len(failures) - 1
    return failures[0] + (f" ({more} more input(s) failed)" if more else "")


def predict_images(
    predictor: Predictor, images: Iterable[InputImage], table: Table, out: Path, draw: bool, outcome: Outcome
) -> None:
    """Predict images, and write a table of their points as they are predicted.

    While a batch is predicted, the next one is read; no more than these two are in memory. An image that cannot be
    predicted costs no other one. If Ctrl-C, a full disk or any other error ends the prediction, the table keeps what is
    in it by then.

    Args:
        predictor: The predictor.
        images: The images.
        table: The table that the predictions are written with.
        out: The folder to write into.
        draw: Also write the images with their points.
        outcome: Gets lines on what was written and on images that failed.
    """
    count, empty, failures = 0, 0, outcome.failures
    error: BaseException | None = None
    with suppress(_NothingPredicted), table.writing(out) as target:
        try:
            loaded: deque[tuple[InputImage, np.ndarray]] = deque()  # one batch at most
            ahead = predictor.batch_size
            for prediction in predictor.stream(_load(images, predictor.model.config, failures, loaded, ahead)):
                source, pixels = loaded.popleft()
                with outcome.collect():
                    table.add(prediction, source, pixels)
                    count += 1
                    empty += not len(prediction.keypoints)
                    if draw:
                        write_drawing(prediction, pixels, predictor.model.skeleton, out / source.target)
                if outcome.stopped:
                    break
        except BaseException as raised:
            if not count:
                raise
            error = raised
        if not count:
            raise _NothingPredicted
    if not count:
        return
    none = f", {empty} without an instance" if empty else ""
    outcome.written.append(f"{count} image(s){none}: {target}" + (f", drawings in {out}" if draw else ""))
    if isinstance(error, KeyboardInterrupt):
        outcome.interrupt(f"{count} of {len(images)} images" if isinstance(images, Sized) else f"{count} images")
    elif error is not None:
        raise error


def _load(
    images: Iterable[InputImage],
    config: ModelConfig,
    failures: list[str],
    loaded: deque[tuple[InputImage, np.ndarray]],
    ahead: int,
) -> Iterator[tuple[str, np.ndarray, Sequence[Box] | None]]:
    """Yield (name, pixels, boxes) of each image that can be read; the errors of the others go to `failures`."""
    reading = map_ahead(partial(read_pixels, config=config), progress(images, "images"), reading_threads(), ahead)
    for image, pixels in reading:
        if isinstance(pixels, str):
            failures.append(pixels)
            continue
        failures += [image.warning] if image.warning else []
        loaded.append((image, pixels))
        yield image.name, pixels, image.boxes


def reading_threads() -> int:
    """Return how many threads read images while a network predicts: one where torch has one, and at most eight."""
    return max(1, min(8, torch.get_num_threads()))


def read_pixels(image: InputImage, config: ModelConfig) -> np.ndarray | str:
    """Read an image that is to be predicted.

    Args:
        image: The image.
        config: The config of the model that it is for.

    Returns:
        Its pixels, or a line that says why it cannot be predicted.
    """
    try:
        pixels = image.load()
    except KpnetError as error:
        return str(error)
    try:
        check_model_input(pixels, image.boxes, config)
    except KpnetError as error:
        return f"{image.name}: {error}"
    return pixels


def write_drawing(prediction: Prediction, image: np.ndarray, skeleton: Skeleton, target: Path) -> None:
    """Write a PNG of the image with its points and guaranteed radii; each of several instances has its own colour."""
    points, confidence, boxes, radius = (
        getattr(prediction, name) for name in ("keypoints", "confidence", "boxes", "radius")
    )
    if len(points) == 1 and boxes is None:
        sure, reach = (None if each is None else each[0] for each in (confidence, radius))
        drawn = plot.draw_points(image, points[0], sure, skeleton.edge_indices, reach)
    else:
        drawn = plot.draw_instances(image, points, confidence, skeleton.edge_indices, boxes, radius=radius)
    done, data = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
    if not done:
        raise KpnetError(f"{prediction.image}: its drawing could not be encoded")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, data.tobytes())


def split_output(out: Path) -> tuple[Path, str | None]:
    """Return the folder of the output, and the name of its table where `out` is that of a Parquet file."""
    is_table = out.suffix.lower() == SUFFIX and not out.is_dir()
    return (out.parent, out.name) if is_table else (out, None)


def check_parquet(name: str, images: bool, videos: dict[str, Path], other_table: bool) -> None:
    """Check that one Parquet file can hold the table of a call.

    Args:
        name: Name of the file.
        images: Whether there are images among the inputs.
        videos: The videos among them.
        other_table: Whether an option asks for a table of another kind.

    Raises:
        KpnetError: There are several tables, or another kind of table is asked for.
    """
    if other_table:
        raise KpnetError(f"--out {name}: a Parquet table is neither --json nor --pseudo-labels: leave one of them out")
    if images + len(videos) > 1:
        found = ["images"] * images + [f"{len(videos)} video(s)"] * bool(videos)
        raise KpnetError(
            f"--out {name}: a Parquet file holds the images' table or one video's, and there are {' and '.join(found)}:"
            " give a folder, or predict them in several calls"
        )


def check_video_options(
    videos: dict[str, Path], image_only_option: bool, smooth: str | None, track: bool = False
) -> None:
    """Check options that may not fit the inputs, before anything is read.

    Args:
        videos: The videos among the inputs.
        image_only_option: Whether an image-only option was given.
        smooth: The value of `--smooth`.
        track: Whether `--track` was given.

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
    if track and not videos:
        raise KpnetError("--track is for videos, and there is none among the inputs")


def predict_inputs(
    predictor: Predictor,
    images: Iterable[InputImage],
    table: Table,
    videos: dict[str, Path],
    out: Path,
    draw: bool | None,
    smooth: str | None = None,
    inputs: Sequence[Path] = (),
    parquet: str | None = None,
    track: bool = False,
) -> Outcome:
    """Predict images and videos, and write the results into a folder.

    A file that is there already is replaced only if kpnet wrote it and nobody changed it.

    Args:
        predictor: The predictor.
        images: The images; they share one table. Those that are drawn are a list, with a target each.
        table: The table that their predictions are written with.
        videos: The videos by the name of their output files.
        out: The folder.
        draw: Write images and videos with their points. None: videos only.
        smooth: A filter for videos, as `kpnet.smoothing.parse_smoother` reads it.
        inputs: Files that are read beside the images and videos, such as files of labels.
        parquet: Name of the Parquet file that is a video's table. None: a CSV.
        track: Link the instances of each video over time.

    Returns:
        What was written and what failed.

    Raises:
        KpnetError: No input could be predicted, or a file would be written over an input or a file of the user's.
    """
    outcome = Outcome()
    drawn = list(images) if draw else []
    images = drawn if draw else images
    names = [table.file_name, *(str(image.target) for image in drawn)] if images else []
    several = track or predictor.model.finds_instances
    for name in videos:
        if several:
            names += [path.name for path in instance_outputs(out / name, draw is not False, parquet, track).values()]
        else:
            names += [path.name for path in video_outputs(out / name, draw is not False, parquet)]
    files = [image.file for image in drawn if image.file is not None]  # a table replaces no image
    with output_files(out, names, "--out", [*inputs, *videos.values(), *files]):
        if images:
            with outcome.collect():
                predict_images(predictor, images, table, out, bool(draw), outcome)
        for name, path in videos.items():
            if not outcome.stopped:
                with outcome.collect():
                    predict_one = partial(predict_instances_of, track=track) if several else predict_video
                    predict_one(predictor, path, out / name, draw is not False, smooth, outcome, parquet)
        if not outcome.written:
            raise KpnetError(first_of(outcome.failures))
    return outcome


def video_outputs(target: Path, draw: bool = True, parquet: str | None = None) -> tuple[Path, ...]:
    """Return the files of a video: table, DeepLabCut's table, plot, and the annotated copy if it is drawn.

    Args:
        target: What the paths of the files begin with.
        draw: Whether there is an annotated copy.
        parquet: Name of the table if it is a Parquet file. None: a CSV.
    """
    table = f"{target.name}_tracks.csv" if parquet is None else parquet
    endings = ("deeplabcut.csv", "tracks.png", *(("annotated.mp4",) if draw else ()))
    return tuple(target.with_name(name) for name in (table, *(f"{target.name}_{ending}" for ending in endings)))


def predict_video(
    predictor: Predictor,
    path: Path,
    target: Path,
    draw: bool,
    smooth: str | None,
    outcome: Outcome,
    parquet: str | None = None,
) -> None:
    """Predict a video, and write tables and a plot of its tracks.

    Args:
        predictor: The predictor.
        path: The video.
        target: What the paths of the written files begin with.
        draw: Also write a copy of the video with the points.
        smooth: A filter, as `kpnet.smoothing.parse_smoother` reads it, or None.
        outcome: Gets a line that names the written files, and one if the video is damaged or ends early.
        parquet: Name of the table if it is a Parquet file. None: a CSV.

    Raises:
        KpnetError: The video cannot be decoded, or the filter is unknown.
    """
    video = Video(path)
    table, deeplabcut, plotted, annotated = video_outputs(target, parquet=parquet)
    smoother = None if smooth is None else parse_smoother(smooth, video.fps)
    with predict_tracks(predictor, video, target.parent, smoother) as tracks:
        write_tables(tracks, table, deeplabcut)
        radius = ellipse_radius(BAND, tracks.dof)
        title = f"{path.name}; bands: the points' {100 * BAND:g} % ellipses" * bool(np.isfinite(tracks.std[0]).any())
        raw = None if tracks.smooth is None else tracks.xy
        figure = plot.draw_tracks(
            tracks.names, tracks.time, tracks.best, tracks.confidence, tracks.std, radius, raw, title or path.name
        )
        plot.save_figure(figure, plotted)
        early = video.missing_frames_message(len(tracks))
        sizes = video.sizes_message()
        written = f"{path}, {len(tracks)} frame(s){f'; {sizes}' if sizes else ''}: "
        written += f"{table}, {deeplabcut.name}, {plotted.name}"
        if tracks.interrupted:
            outcome.written.append(written)
            outcome.interrupt(f"{len(tracks)} frames of {path}")
            return
        outcome.failures += [early] if early else []
        try:
            if draw:
                write_annotated(tracks, video, predictor.model.skeleton, annotated)
                written += f", {annotated.name}"
        except KeyboardInterrupt:
            outcome.interrupt(f"the tables of {path}; there is no {annotated.name}")
        finally:
            outcome.written.append(written)


def predict_instances_of(
    predictor: Predictor,
    path: Path,
    target: Path,
    draw: bool,
    smooth: str | None,
    outcome: Outcome,
    parquet: str | None = None,
    track: bool = False,
) -> None:
    """Predict a video with any number of instances; arguments as for `predict_video`, and whether they are linked."""
    video = Video(path)
    smoother = None if smooth is None else parse_smoother(smooth, video.fps)
    lines, count, interrupted, undrawn = predict_instance_video(
        predictor, video, target, draw, smoother, parquet, track
    )
    outcome.written += lines
    if interrupted:
        outcome.interrupt(f"{count} frames of {path}")
        return
    early = video.missing_frames_message(count)
    outcome.failures += [early] if early else []
    if undrawn:
        outcome.interrupt(f"the tables of {path}; there is no {target.name}_annotated.mp4")
