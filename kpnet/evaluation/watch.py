"""Compare new images with the held-out data of a model, without labels."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kpnet import plot
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset
from kpnet.data.unlabelled import UnlabelledImages
from kpnet.data.video import Video
from kpnet.inference.inputs import InputImage, dataset_images
from kpnet.inference.pipeline import read_pixels
from kpnet.inference.prediction import Prediction
from kpnet.inference.predictor import Predictor
from kpnet.inference.watch import Verdict, check_watchable, compare, measure_strangeness, reference_for
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime
from kpnet.models.watch import CONFIDENCE, MAX_IMAGES, WatchReference, image_signals
from kpnet.plot.figure import Figure

STRANGEST = 10  # images that a report shows
FRAMES = 200  # that are taken of a video


@dataclass
class StrangeImage:
    """One of the images that are the least like the held-out ones.

    Attributes:
        name: Its name.
        strangeness: How many times as far as held-out images it is from these; see `measure_strangeness`.
        confidence: Mean confidence of its points; None if the head predicts none.
        pixels: The image, uint8 (H, W) or (H, W, 3).
        prediction: The model's prediction.
    """

    name: str
    strangeness: float
    confidence: float | None
    pixels: np.ndarray
    prediction: Prediction


@dataclass
class WatchReport:
    """What `kpnet watch` reports.

    Attributes:
        verdict: How the images compare with the held-out ones.
        strangest: At most 10 images, the strangest first.
    """

    verdict: Verdict
    strangest: list[StrangeImage]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values; the strangeness of an image in which nothing was found is None."""
        rows = [
            {
                "image": each.name,
                "strangeness": each.strangeness if np.isfinite(each.strangeness) else None,
                "confidence": each.confidence,
            }
            for each in self.strangest
        ]
        return {**self.verdict.to_dict(), "strangest": rows}


def summarise(
    model: KeypointModel, dataset: KeypointDataset, batch_size: int = 64, test_time: TestTime | None = None
) -> WatchReference:
    """Summarise held-out data, so that new data can be compared with it.

    The images are predicted as `kpnet predict` does it: instances are found where the model finds them, and the labels
    are not used. At most 1000 of the images, drawn at random, are summarised.

    Args:
        model: The model, as it is used: calibrated, and with its decoding.
        dataset: Held-out data: new data is compared with it.
        batch_size: Images per forward pass.
        test_time: Test-time views of the predictions.

    Returns:
        The summary, for `model.watch_reference`.

    Raises:
        KpnetError: There are fewer than 2 images, or the head looks at a window of frames.

    Example:
        ```python
        model.watch_reference = summarise(model, kpnet.data.KaggleCSV("held_out.csv"))
        model.save("runs/watched")
        ```
    """
    check_watchable(model)
    images = dataset_images(dataset, "", "", model.config.crop is not None and not model.finds_instances)
    if len(images) < 2:
        raise KpnetError(f"watch: expected at least 2 held-out images to compare new ones with, found {len(images)}")
    chosen: Sequence[InputImage] = images
    if len(images) > MAX_IMAGES:
        drawn = np.sort(np.random.default_rng(0).choice(len(images), MAX_IMAGES, replace=False))
        chosen = [images[index] for index in drawn]
    predictor = Predictor(model, test_time=test_time, batch_size=batch_size)
    predictor.keeps_signals = True
    signals = [_signals(each, model) for each in predictor.stream((i.name, i.load(), i.boxes) for i in chosen)]
    return WatchReference.from_signals(np.stack(signals), len(images), model, test_time)


def watch_images(
    predictor: Predictor, images: Iterable[InputImage], videos: Iterable[Path] = (), failures: list[str] | None = None
) -> WatchReport:
    """Compare new images with the held-out data of a predictor's model.

    Args:
        predictor: The predictor of the model.
        images: The images. Labels that they came with are not used.
        videos: Videos, of each of which 200 frames are taken, evenly spaced.
        failures: Gets a line for each image that cannot be read.

    Returns:
        The report. Of the images it holds the strangest alone.

    Raises:
        KpnetError: Fewer than 2 images can be read, or the model has no summary of held-out data for these predictions.
    """
    model, problems = predictor.model, [] if failures is None else failures
    reference = reference_for(model, predictor.test_time)
    assert isinstance(model, KeypointModel)
    predictor.keeps_signals = True
    held: list[tuple[str, np.ndarray]] = []  # images of a batch, until their predictions are there

    def triples() -> Iterator[tuple[str, np.ndarray, Any]]:
        for image in images:
            pixels = read_pixels(image, model.config)
            if isinstance(pixels, str):
                problems.append(pixels)
                continue
            held.append((image.name, pixels))
            yield image.name, pixels, image.boxes
        for name, frame in _spaced_frames(videos, problems):
            held.append((name, frame))
            yield name, frame, None

    rows: list[np.ndarray] = []
    strangest: list[tuple[float, int, StrangeImage]] = []
    for number, prediction in enumerate(predictor.stream(triples())):
        name, pixels = held.pop(0)
        row = reference.project(_signals(prediction, model)[None])
        strangeness = float(measure_strangeness(reference, row)[0])
        sure = float(row[0, CONFIDENCE])
        image = StrangeImage(name, strangeness, sure if np.isfinite(sure) else None, pixels, prediction)
        rows.append(row)
        entry = strangeness, -number, image
        if len(strangest) < STRANGEST:
            heapq.heappush(strangest, entry)
        else:
            heapq.heappushpop(strangest, entry)
    if len(rows) < 2:
        first = f": {problems[0]}" if problems else ""
        raise KpnetError(
            f"watch: expected at least 2 images to compare with the held-out ones, found {len(rows)}{first}"
        )
    verdict = compare(reference, np.concatenate(rows), max(model.config.input_size))
    return WatchReport(verdict, [image for *_, image in sorted(strangest, reverse=True)])


def draw_strangest(report: WatchReport, skeleton: Skeleton) -> Figure:
    """Draw the strangest images of a report with the predicted points.

    Args:
        report: The report.
        skeleton: The skeleton of the points, for its edges.

    Returns:
        A contact sheet, the strangest image first.
    """
    edges, drawn, notes = skeleton.edge_indices, [], {}
    for index, each in enumerate(report.strangest):
        found = each.prediction
        drawn.append(plot.draw_instances(each.pixels, found.keypoints, found.confidence, edges, found.boxes))
        notes[index] = f"{each.strangeness:.1f} x as far" if np.isfinite(each.strangeness) else "nothing found"
        if each.confidence is not None:
            notes[index] += f", confidence {each.confidence:.2f}"
    names = [each.name for each in report.strangest]
    return plot.draw_contact_sheet(_NamedImages(drawn, names), range(len(drawn)), notes)


class _NamedImages(UnlabelledImages):
    """Images in memory, with their names."""

    def __init__(self, images: Sequence[np.ndarray], names: Sequence[str]) -> None:
        super().__init__(images)
        self._names = names

    def image_name(self, index: int) -> str:
        return self._names[index]


def _signals(prediction: Prediction, model: KeypointModel) -> np.ndarray:
    assert prediction.signals is not None
    return image_signals(prediction.signals, model.head.predicts_covariance)


def _spaced_frames(videos: Iterable[Path], problems: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield frames of videos, evenly spaced, with names."""
    for path in videos:
        try:
            video = Video(path)
            total = video.declared_frames or sum(1 for _ in video.frames())
            wanted = set(np.linspace(0, max(total - 1, 0), FRAMES).round().astype(int).tolist())
            yield from ((f"{path}#{number}", frame) for number, frame in enumerate(video.frames()) if number in wanted)
        except KpnetError as error:
            problems.append(str(error))
