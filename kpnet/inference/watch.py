"""Watch predictions without labels: the expected error of new data, and whether it is like the held-out data.

Confidences, spreads and features are compared by the energy distance (Székely & Rizzo 2004, Testing for equal
distributions in high dimension), each with a permutation test, and the three by Bonferroni's correction. The test takes
images as independent draws, which the frames of a video are not.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.inference.prediction import Prediction
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime
from kpnet.models.watch import CONFIDENCE, EXPECTED, FEATURES, MAX_IMAGES, SPREAD, WatchReference, image_signals

LEVEL = 0.02  # probability of a verdict of other data where it is not, over all tests together
WARNING_LEVEL = 0.001  # the same of a warning, which a service that looks again and again gives
WINDOW = 512  # images that a `Watch` remembers
PERMUTATIONS, MORE_PERMUTATIONS = 999, 9999
_RESAMPLES = 1000
_NEIGHBOURS = 5
_AT_ONCE = 256  # permutations
_COLUMNS = {
    "confidence": slice(CONFIDENCE, CONFIDENCE + 1),
    "spread": slice(SPREAD, SPREAD + 1),
    "features": slice(FEATURES, None),
}


class OtherDataWarning(UserWarning):
    """The images that a `Predictor` sees are unlike the held-out data of its model."""


@dataclass(frozen=True)
class ExpectedError:
    """The expected mean error of images, in pixels of the model's input.

    Attributes:
        mean: The mean over images.
        low: Lower end of its 95 % bootstrap interval over images.
        high: Its upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """How new images compare with the held-out ones.

    Attributes:
        images: Number of new images.
        held_out: Number of held-out images that they are compared with.
        is_other: Whether they are other data: `p_value` is at most 0.02.
        p_value: Probability of a difference as large in any of the tests if they are the same data.
        tests: P-value of each test for itself, by name: "confidence", "spread", "features".
        confidence: Mean confidence of the new and of the held-out images; None if the head predicts none.
        expected_error: Expected error of the new images; None if the head predicts no spread.
        held_out_error: That of the held-out images, on average, in pixels of the model's input.
        side: Longer side of the model's input in pixels.
    """

    images: int
    held_out: int
    is_other: bool
    p_value: float
    tests: dict[str, float]
    confidence: tuple[float, float] | None
    expected_error: ExpectedError | None
    held_out_error: float | None
    side: int

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain values, with the expected error in percent of the input's longer side too."""
        values = dataclasses.asdict(self)
        if self.expected_error is not None:
            values["expected_error_percent"] = 100 * self.expected_error.mean / self.side
        return values

    def __str__(self) -> str:
        """Return the verdict in one line."""
        differ = [name for name, p_value in self.tests.items() if p_value * len(self.tests) <= LEVEL]
        what = (
            f"other data than the held-out images: {', '.join(differ)}" if self.is_other else "like the held-out images"
        )
        text = f"the {self.images} images are {what} (p = {self.p_value:.2g})"
        if self.expected_error is not None:
            text += f"; expected error {self.expected_error.mean:.2f} px, held out {self.held_out_error:.2f} px"
        return text


def check_watchable(model: object) -> None:
    """Raise KpnetError where the predictions of a model cannot be watched."""
    if not isinstance(model, KeypointModel):
        raise KpnetError(
            f"watch: expected one model of kpnet, found {type(model).__name__}: an exported model and an ensemble have "
            "no features to compare; give the run folder of one model"
        )
    if model.frame_window != (0, 0):
        raise KpnetError("watch: the head looks at a window of frames; expected one of single images, such as heatmap")


def reference_for(model: object, test_time: TestTime | None) -> WatchReference:
    """Return the summary of held-out data that predictions of a model with these test-time views compare with.

    Raises:
        KpnetError: The model cannot be watched, has no summary, or one that was made otherwise.
    """
    check_watchable(model)
    assert isinstance(model, KeypointModel)
    if model.watch_reference is None:
        raise KpnetError(
            "watch: the model has no summary of held-out data to compare with; make it, with a guarantee: "
            "kpnet guarantee RUN HELD_OUT"
        )
    model.watch_reference.check(model, test_time)
    return model.watch_reference


def compare(reference: WatchReference, signals: np.ndarray, side: int, permutations: int = PERMUTATIONS) -> Verdict:
    """Compare new images with the held-out ones.

    Args:
        reference: The summary of the held-out images.
        signals: Signals (N, 3 + D) of the new images, with projected features. Of more than 1000, 1000 are tested,
            drawn at random; all count in the expected error.
        side: Longer side of the model's input in pixels.
        permutations: Permutations of each test.

    Returns:
        The verdict.

    Raises:
        KpnetError: There are fewer than 2 images.
    """
    if len(signals) < 2:
        raise KpnetError(f"watch: expected at least 2 images to compare with the held-out ones, found {len(signals)}")
    rng, known = np.random.default_rng(0), reference.signals.numpy()
    tested = signals
    if len(signals) > MAX_IMAGES:
        tested = signals[np.sort(rng.choice(len(signals), MAX_IMAGES, replace=False))]
    tests = {}
    for name, columns in _COLUMNS.items():
        ours, theirs = (each[np.isfinite(each).all(1)] for each in (tested[:, columns], known[:, columns]))
        if len(ours) > 1 and len(theirs) > 1:
            tests[name] = energy_p_value(theirs, ours, permutations)
    p_value = min([1.0, *(len(tests) * each for each in tests.values())])
    confidence = None
    if np.isfinite(known[:, CONFIDENCE]).any() and np.isfinite(signals[:, CONFIDENCE]).any():
        confidence = float(np.nanmean(signals[:, CONFIDENCE])), float(np.nanmean(known[:, CONFIDENCE]))
    expected, before = (each[np.isfinite(each)] * side for each in (signals[:, EXPECTED], known[:, EXPECTED]))
    error = _mean_with_interval(expected, rng) if len(expected) and len(before) else None
    held_out_error = None if error is None else float(before.mean())
    is_other = p_value <= LEVEL
    return Verdict(len(signals), len(known), is_other, p_value, tests, confidence, error, held_out_error, side)


def energy_p_value(first: np.ndarray, second: np.ndarray, permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Test whether two samples come from one distribution, by permutations of the energy distance.

    Args:
        first: Rows (N, D).
        second: Rows (M, D).
        permutations: Number of random permutations.
        seed: Seed of the permutations.

    Returns:
        The probability of an energy distance that is at least as large if the rows are exchangeable: at most p in a
        share p of such samples, for every p.
    """
    from scipy.spatial.distance import cdist  # 0.2 seconds, which a Predictor that watches nothing does not need

    rows = np.concatenate([first, second]).astype(np.float64)
    n, m = len(first), len(second)
    apart = cdist(rows, rows)
    sums, total = apart.sum(1), apart.sum()
    rng, draws = np.random.default_rng(seed), [np.arange(n, n + m)[None]]
    found = []
    for start in range(0, permutations, _AT_ONCE):
        count = min(_AT_ONCE, permutations - start)
        draws.append(rng.random((count, n + m)).argpartition(m - 1, axis=1)[:, :m])
    for drawn in draws:
        chosen = np.zeros((len(drawn), n + m))
        np.put_along_axis(chosen, drawn, 1, axis=1)
        within = ((chosen @ apart) * chosen).sum(1)
        across = chosen @ sums - within
        found.append(2 * across / (n * m) - (total - 2 * across - within) / n**2 - within / m**2)
    distances = np.concatenate(found)
    rounding = 1e-9 * max(apart.max(), 1e-300)
    return float((1 + (distances[1:] >= distances[0] - rounding).sum()) / (1 + permutations))


def measure_strangeness(reference: WatchReference, signals: np.ndarray) -> np.ndarray:
    """Return how far each image's features are from those of the held-out images.

    Args:
        reference: The summary of the held-out images.
        signals: Signals (N, 3 + D) of the images, with projected features.

    Returns:
        The mean distance (N,) to the 5 nearest held-out images, divided by the median of what these have among
        themselves: about 1 for an image like them. Infinite for images without features, in which nothing was found.
    """
    from scipy.spatial.distance import cdist

    known = reference.signals.numpy()[:, FEATURES:]
    known = known[np.isfinite(known).all(1)]
    strange = np.full(len(signals), np.inf)
    given = np.isfinite(signals[:, FEATURES:]).all(1)
    if len(known) < 2 or not given.any():
        return strange
    count = min(_NEIGHBOURS, len(known) - 1)
    among = np.sort(cdist(known, known), axis=1)[:, 1 : count + 1].mean(1)  # the first is the image itself
    nearest = np.sort(cdist(signals[given, FEATURES:], known), axis=1)[:, :count].mean(1)
    strange[given] = nearest / max(np.median(among), 1e-12)
    return strange


class Watch:
    """Follows the predictions of a `Predictor`, and warns when its images turn into other data.

    It remembers numbers of the last 512 images, and compares them with the held-out images when 32, 64, 128 and 256
    images were seen, and after every 512.

    Args:
        reference: The summary of the held-out images.
        model: The model.
        on_other_data: Called with the verdict when the images turn into other data. None: a warning is given,
            `OtherDataWarning`.

    Attributes:
        seen: Number of images seen.
        is_other: Whether the last comparison found other data.
    """

    def __init__(
        self, reference: WatchReference, model: Any, on_other_data: Callable[[Verdict], object] | None = None
    ) -> None:
        self.reference = reference
        self.side, self.has_spread = max(model.config.input_size), model.head.predicts_covariance
        self.on_other_data = on_other_data
        self.seen = 0
        self.is_other = False
        self._signals: deque[np.ndarray] = deque(maxlen=WINDOW)

    def add(self, prediction: Prediction) -> None:
        """Take the prediction of an image into account; one without signals is ignored."""
        if prediction.signals is None:
            return
        signals = image_signals(prediction.signals, self.has_spread)
        self._signals.append(self.reference.project(signals[None])[0])
        self.seen += 1
        if self.seen in (WINDOW // 16, WINDOW // 8, WINDOW // 4, WINDOW // 2) or self.seen % WINDOW == 0:
            self._look()

    def verdict(self) -> Verdict:
        """Compare the last images, at most 512, with the held-out ones.

        Returns:
            The verdict, at the level of 2 %: asked again and again, it finds other data now and then.

        Raises:
            KpnetError: Fewer than 2 images were seen.
        """
        return compare(self.reference, self._window(), self.side)

    def _window(self) -> np.ndarray:
        """Return the signals in memory, (N, 3 + D), while other threads may add some."""
        signals = list(self._signals)
        return np.stack(signals) if signals else np.zeros((0, 0))

    def _look(self) -> None:
        verdict = self.verdict()
        if verdict.is_other and not self.is_other:
            if min(verdict.tests.values()) > 1 / (1 + PERMUTATIONS):
                return
            verdict = compare(self.reference, self._window(), self.side, MORE_PERMUTATIONS)
            if verdict.p_value > WARNING_LEVEL:
                return
            self.is_other = True
            if self.on_other_data is None:
                warnings.warn(f"watch: {verdict}", OtherDataWarning, stacklevel=2)
            else:
                self.on_other_data(verdict)
        elif not verdict.is_other:
            self.is_other = False


def _mean_with_interval(values: np.ndarray, rng: np.random.Generator) -> ExpectedError:
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return ExpectedError(float(values.mean()), low, high)
