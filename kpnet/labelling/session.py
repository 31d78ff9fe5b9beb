"""What a page works on: images, their labels, the queue, proposals, and a training. It knows nothing of HTTP."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kpnet.core.errors import KpnetError, first_line
from kpnet.core.locking import locked
from kpnet.core.skeleton import Skeleton
from kpnet.inference.predictor import Predictor
from kpnet.labelling.background_training import BackgroundTraining
from kpnet.labelling.label_rows import check_names, parse_instances
from kpnet.labelling.labels import encoding_of, skeleton_path, write_skeleton
from kpnet.labelling.proposals import Proposer
from kpnet.labelling.queue import Queue
from kpnet.labelling.ranking import rank_uncertain
from kpnet.labelling.source import Source, open_labels
from kpnet.labelling.suspicions import SuspectedLabels, examine_labels

MOST_RANKED = 2000  # images that are predicted for the queue; of more, as many are drawn
CHOSEN = 100  # of them are chosen to be far from each other
LOSSLESS = 500_000  # pixels; larger images are sent as JPEG, which is encoded several times as fast
QUALITY = 95


class Session:
    """The labelling of the images of a source.

    Args:
        source: The images.
        out: The file of labels. None: the source's.
        skeleton: The keypoints. None: those made in the page earlier, of the file, of the source, or of the run.
        run: Folder of a run whose points are proposed.
        queue: Order of the images.
        recipe: Recipe of the trainings in the background. None: there are none.
        again: The file of labels with which those of this session will be compared. None: there is none.

    Attributes:
        source: The images.
        labels: The file of labels.
        again: The file of labels with which these will be compared, or None.
        order: Indices of the images in the order of the queue.
        order_revision: Number of the last change of the order.

    Raises:
        KpnetError: The file of labels is another program's, the skeleton does not fit it, the run cannot be used, or
            another process labels into the file.
    """

    def __init__(
        self,
        source: Source,
        *,
        out: Path | None = None,
        skeleton: Skeleton | None = None,
        run: Path | None = None,
        queue: Queue = Queue.order,
        recipe: str | None = None,
        again: Path | None = None,
    ) -> None:
        path = source.labels if out is None else out
        encoding_of(path)  # raises for a file of another kind
        if queue is Queue.uncertain and run is None and recipe is None:
            raise KpnetError("--queue uncertain needs a model: give --run, or --train")
        if queue is Queue.suspicious and run is None:
            raise KpnetError("--queue suspicious needs a model that did not see these labels: give --run")
        self.source, self.queue, self.again = source, queue, again
        self._lock = locked(path.with_name(f".{path.name}.lock"), path)
        self._lock.__enter__()
        try:
            self._owns_skeleton_file = skeleton_path(path).is_file()
            trained = None if run is None else _skeleton_of(run)
            self.labels = open_labels(source, path, skeleton, trained)
            if queue is Queue.suspicious and not any(self.labels.labelled_counts()):
                raise KpnetError("--queue suspicious: no image has labels; label some first, or give their file")
            self.order, self.order_revision, self.ranking_status = self._first_order(), 0, ""
            self._ranking = threading.Lock()
            self._closed = threading.Event()
            self._proposer: Proposer | None = None
            self._suspected: dict[int, list[SuspectedLabels]] = {}
            self._examinations, self._boxed_only = 0, False
            self._run = run
            if run is not None and self.labels.skeleton is not None:
                self._use(run)
            if run is not None and queue is Queue.suspicious:
                assert self._proposer is not None
                self._boxed_only = self._proposer.predictor.model.config.crop == "box"
                self._examine(run)
            self.training = None if recipe is None else BackgroundTraining(recipe, self._use_trained)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise

    def close(self) -> None:
        """End what runs in the background, and release the file."""
        self._closed.set()
        if self.training is not None:
            self.training.stop()
        self._lock.__exit__(None, None, None)

    def state(self) -> dict[str, Any]:
        """Return what the page shows before it knows an image."""
        skeleton = self.labels.skeleton
        return {
            **self.status(),
            "images": self.labels.images,
            "order": self.order,
            "counts": self.labels.labelled_counts(),
            "skeleton": None if skeleton is None else skeleton.to_dict(),
            "shape": None if skeleton is None else self._shape(len(skeleton)),
        }

    def status(self) -> dict[str, Any]:
        """Return what may change without the page's doing."""
        return {
            "file": str(self.labels.path),
            "revision": self.labels.revision,
            "order_revision": self.order_revision,
            "ranking": self.ranking_status,
            "run": None if self._proposer is None else str(self._proposer.run),
            "queue": self.queue.value,
            "suspected": len(self._suspected),
            "compare": self.compare_command(),
            "training": None if self.training is None else self.training.status(),
        }

    def image(self, index: int) -> tuple[bytes, str]:
        """Return an image as kpnet reads it, encoded, and its media type."""
        image = cv2.cvtColor(self.source.read(index), cv2.COLOR_RGB2BGR)
        if image.shape[0] * image.shape[1] <= LOSSLESS:
            return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes(), "image/png"
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes(), "image/jpeg"

    def instances(self, index: int) -> dict[str, Any]:
        """Return the labels of an image, and the revision that they are of."""
        return {
            "revision": self.labels.revision,
            "instances": [instance.to_json() for instance in self.labels.instances(index)],
        }

    def put(self, index: int, values: Any, revision: int) -> int:
        """Replace the labels of an image by what the page sends; see `LabelFile.put`."""
        if self.labels.skeleton is None:
            raise KpnetError("there is no skeleton yet: make one first")
        if index in self.source.problems:
            raise KpnetError(self.source.problems[index])
        return self.labels.put(index, parse_instances(values, len(self.labels.skeleton)), revision)

    def set_skeleton(self, values: Any) -> int:
        """Take a skeleton that was made in the page, write it beside the labels, and return the new revision."""
        path = skeleton_path(self.labels.path)
        if not self._owns_skeleton_file and os.path.lexists(path):
            raise KpnetError(f"{path}: exists, and kpnet label did not write it; move it away")
        skeleton = Skeleton.load(values if isinstance(values, dict) else {"names": values})
        check_names(skeleton.names)
        revision = self.labels.set_skeleton(skeleton)
        if self._run is not None and self.queue is Queue.suspicious:
            self._examine(self._run)  # what was found counts the old one's points
        write_skeleton(self.labels.path, skeleton)
        self._owns_skeleton_file = True
        run = self._run if self._proposer is None else self._proposer.run
        if run is not None:
            self._use(run)
        return revision

    def proposals(self, index: int) -> list[list[Any]]:
        """Return the model's points for an image: for each instance that has a box, or for the image as a whole."""
        proposer = self._proposer
        if proposer is None:
            return []
        boxes = [instance.box for instance in self.labels.instances(index) if instance.box is not None]
        return proposer.propose(index, boxes)

    def suspected(self, index: int) -> list[dict[str, Any]]:
        """Return what is suspected of the labels of an image, as they were when they were examined."""
        return [each.to_json() for each in self._suspected.get(index, [])]

    def compare_command(self) -> str | None:
        """Return the command that compares the labels with those of `again`; None without these."""
        if self.again is None:
            return None
        return shlex.join(["kpnet", "data", "agree", str(self.again), str(self.labels.path)])

    def train(self) -> None:
        """Start a training on the labels."""
        if self.training is None or self.labels.skeleton is None:
            raise KpnetError("give a recipe: kpnet label … --train facial_heatmap")
        path = skeleton_path(self.labels.path)
        if not path.exists():
            write_skeleton(self.labels.path, self.labels.skeleton)
            self._owns_skeleton_file = True
        self.training.start(self.labels, path)

    def _first_order(self) -> list[int]:
        indices = np.arange(len(self.labels))
        if self.queue is Queue.random:
            indices = np.random.default_rng(0).permutation(indices)
        return indices.tolist()

    def _shape(self, count: int) -> list[list[float] | None] | None:
        """Return where each point usually is, in a square of side 1, from the first labels; None without labels."""
        shapes = []
        for index in range(len(self.labels)):
            for instance in self.labels.instances(index):
                xy = np.array([(p.x, p.y) if p and p.visibility else (np.nan, np.nan) for p in instance.points])
                there = np.isfinite(xy).all(-1)
                if there.sum() >= max(2, count // 2):
                    low, high = xy[there].min(0), xy[there].max(0)
                    shapes.append((xy - (low + high) / 2) / max(float((high - low).max()), 1e-6) + 0.5)
            if len(shapes) >= 20:
                break
        if not shapes:
            return None
        known = np.asarray(np.isfinite(shapes).all(-1))
        mean = np.nansum(shapes, 0) / np.maximum(known.sum(0), 1)[:, None]
        return [mean[k].tolist() if known[:, k].any() else None for k in range(count)]

    def _use(self, run: Path) -> None:
        """Propose the points of a run, and rank the images by it where the queue asks for that."""
        assert self.labels.skeleton is not None
        self._proposer = Proposer(run, self.source.read, self.labels.skeleton.names)
        if self.queue is Queue.uncertain:
            self._rank(self._proposer)

    def _use_trained(self, run: Path) -> str | None:
        try:
            self._use(run)
        except KpnetError as error:
            return str(error)
        return None

    def _in_background(self, work: Callable[[Callable[[], bool]], None], is_wanted: Callable[[], bool]) -> None:
        """Change the order in a thread, one change at a time; an error of any kind becomes the status.

        Args:
            work: What is done. It is given a function that says whether the result is wanted still.
            is_wanted: Whether nothing newer has taken its place.
        """

        def wanted() -> bool:
            return not self._closed.is_set() and is_wanted()

        def run() -> None:
            with self._ranking:
                if not wanted():
                    return
                try:
                    work(wanted)
                except Exception as error:
                    if wanted():
                        known = isinstance(error, KpnetError)
                        self.ranking_status = str(error) if known else first_line(error, with_type=True)

        threading.Thread(target=run, daemon=True).start()

    def _rank(self, proposer: Proposer) -> None:
        """Put the images first that a model is least sure of."""

        def rank(wanted: Callable[[], bool]) -> None:
            counts = np.array(self.labels.labelled_counts())
            unlabelled = np.flatnonzero(counts == 0)
            drawn = unlabelled
            if len(unlabelled) > MOST_RANKED:
                drawn = np.sort(np.random.default_rng(0).choice(unlabelled, MOST_RANKED, replace=False))
            images = [(index, partial(self.source.read, index), None) for index in drawn.tolist()]

            def progress(done: int) -> bool:
                self.ranking_status = f"{done} of {len(images)} images ranked"
                return not wanted()

            ranked = rank_uncertain(Predictor(proposer.run), images, CHOSEN, progress=progress)
            if wanted():
                first = [each.index for each in ranked]
                rest = np.setdiff1d(np.concatenate([unlabelled, np.flatnonzero(counts != 0)]), first, True).tolist()
                rest.sort(key=lambda index: bool(counts[index]))
                self.order, self.ranking_status = [*first, *rest], ""
                self.order_revision += 1

        self._in_background(rank, lambda: self._proposer is proposer)

    def _examine(self, run: Path) -> None:
        """Put the images first whose labels a run finds suspect; of several examinations, the last one counts."""
        self._examinations += 1
        self._suspected = {}
        number = self._examinations

        def examine(wanted: Callable[[], bool]) -> None:
            count = sum(count != 0 for count in self.labels.labelled_counts())
            self.ranking_status = f"examining the labels of {count} images"
            found = examine_labels(run, self.source, self.labels, boxed_only=self._boxed_only)
            if wanted():
                self._suspected = found
                self.order = [*found, *(index for index in range(len(self.labels)) if index not in found)]
                self.ranking_status = f"the labels of {len(found)} of {count} images look wrong"
                self.order_revision += 1

        self._in_background(examine, lambda: number == self._examinations)


def _skeleton_of(run: Path) -> Skeleton:
    from kpnet.models.build import load_model

    return load_model(run).skeleton


def suggest_pairs(names: Any) -> dict[str, list[Any]]:
    """Return left/right pairs found in names, and the names with a side that have no other one.

    Args:
        names: Names of keypoints.

    Raises:
        KpnetError: They are no list of different names.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise KpnetError("names: expected a list of names")
    check_names(names)
    skeleton = Skeleton.from_names(names)
    return {"pairs": [list(pair) for pair in skeleton.pairs], "unpaired": skeleton.unpaired_sides}
