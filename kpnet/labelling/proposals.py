"""Points that a model proposes where no label is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.data.images import Box
from kpnet.inference.prediction import Prediction
from kpnet.inference.predictor import Predictor
from kpnet.uncertainty import ellipse_radius

ELLIPSE = 0.9  # probability that a point lies in its ellipse
KEPT = 64  # images whose predictions are kept

Proposal = list[float | None]  # x, y, confidence, semi-axes a and b in pixels, and the angle of a in radians


class Proposer:
    """Predicts images when they are asked for, and keeps the last predictions. Threads may share it.

    Args:
        run: The folder of the run.
        read: Returns an image by its index.
        names: Keypoints of the labels.

    Attributes:
        run: The folder of the run.
        predictor: Its predictor.

    Raises:
        KpnetError: The model cannot be loaded, sees several frames at once, or shares no point with the labels.
    """

    def __init__(self, run: Path, read: Callable[[int], np.ndarray], names: Sequence[str]) -> None:
        self.run, self._read = run, read
        self.predictor = Predictor(run)
        model = self.predictor.model
        if sum(model.frame_window):
            raise KpnetError(f"{run}: the model sees several frames at once; expected one of single images")
        own = model.skeleton.names
        self._place = [own.index(name) if name in own else None for name in names]
        if all(k is None for k in self._place):
            found, expected = ", ".join(own[:4]), ", ".join(names[:4])
            raise KpnetError(f"{run}: none of the model's points ({found}, …) is one of the labels' ({expected}, …)")
        self._kept: OrderedDict[tuple[Any, ...], list[list[Proposal | None]]] = OrderedDict()
        self._lock = threading.Lock()

    def propose(self, index: int, boxes: Sequence[Box] = ()) -> list[list[Proposal | None]]:
        """Return the proposals for an image.

        Args:
            index: The image.
            boxes: Boxes of its instances. None: the whole image is one instance.

        Returns:
            For each instance and keypoint of the labels a proposal, or None where the model has no such point.

        Raises:
            KpnetError: The image cannot be read or predicted.
        """
        key = (index, *map(tuple, boxes))
        with self._lock:
            if key not in self._kept:
                prediction = self.predictor(self._read(index), list(boxes) or None)
                self._kept[key] = [self._instance(prediction, n) for n in range(len(prediction.keypoints))]
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def _instance(self, prediction: Prediction, number: int) -> list[Proposal | None]:
        return [None if k is None else _proposal(prediction, number, k) for k in self._place]


def _proposal(prediction: Prediction, number: int, k: int) -> Proposal:
    x, y = prediction.keypoints[number, k].tolist()
    confidence = None if prediction.confidence is None else float(prediction.confidence[number, k])
    if prediction.covariance is None:
        return [x, y, confidence, None, None, None]
    variances, axes = np.linalg.eigh(prediction.covariance[number, k])
    long, short = ellipse_radius(ELLIPSE, prediction.dof) * np.sqrt(np.maximum(variances[::-1], 0))
    return [x, y, confidence, float(long), float(short), float(np.arctan2(axes[1, 1], axes[0, 1]))]
