"""Measure how identities are kept through crossings, gaps and false instances, with and without motion and covariance.

    python benchmarks/accuracy/tracking.py data/flies/tracks.csv [--seeds 10]

No network is involved: instances are drawn from known tracks. `flies` are the labelled tracks of two flies, every frame
and every third frame, with noise, wrong points, gaps, false instances, and one fly missing in half of the frames in
which they are close. `scenes` are eight alike shapes of 15 points that cross each other's way; the points of the ones
behind are hidden: their errors are large, half of them lie on the shape in front, and their covariance says that they
are uncertain. `slow` scenes stay crossed for long; in `fast` ones shapes bounce off the walls and the number of
identities is not given.

Every row of `benchmarks/results/tracking.csv` is the mean over the seeds. `plain` assigns the instances of each frame
to the last ones by OKS; `no motion` is the tracker with the last points in place of predicted ones, `no covariance`
gives it no covariance. `marked` is the share of the wrong identities near which (5 frames) an identity is marked as a
guess, and `guesses` the share of the frames with such a mark. Needs `kpnet[tracking]`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from running import RESULTS
from scipy.optimize import linear_sum_assignment

from kpnet.core.skeleton import Skeleton
from kpnet.evaluation.identities import IdentityMeasures, TrueTracks, read_tracks
from kpnet.inference.prediction import Prediction
from kpnet.inference.tracking import Tracker
from kpnet.oks import oks

TABLE = RESULTS / "tracking.csv"
COLUMNS = ("data", "method", "seeds", "idf1", "switches", "hota", "identities", "marked", "guesses")
FLIES = (
    *("head", "thorax", "abdomen", "wingL", "wingR", "forelegL4", "forelegR4", "midlegL4", "midlegR4"),
    *("hindlegL4", "hindlegR4", "eyeL", "eyeR"),
)
NEAR = 5  # frames
FLIES_SEEDS = 2  # these clips are eight times as long


@dataclass
class Clip:
    """Known tracks, and the instances that are found of them, each with the number of its track or -1."""

    skeleton: Skeleton
    truth: np.ndarray  # (T, G, K, 2)
    found: list[Prediction]
    whose: list[np.ndarray]
    limit: int | None


def draw_found(skeleton: Skeleton, points: list[np.ndarray], std: list[np.ndarray], scores: list[float]) -> Prediction:
    """Return the instances of a frame."""
    shape = (len(points), len(skeleton.names))
    covariance = np.square(np.reshape(std, shape))[..., None, None] * np.eye(2)
    xy = np.reshape(points, (*shape, 2))
    return Prediction("", skeleton.names, xy, None, covariance, scores=np.array(scores))


def flies(path: Path, seed: int, every: int) -> Clip:
    """Draw noisy instances of the flies."""
    skeleton = Skeleton(FLIES)
    truth = read_tracks(path, skeleton).points[::every]
    draw = np.random.default_rng(seed)
    tracks, count = truth.shape[1:3]
    gap, found, whose = np.zeros(tracks, int), [], []
    for now in truth:
        visible = np.isfinite(now).all(-1)
        centres = np.nanmean(now, 1)
        close = np.hypot(*(centres[0] - centres[1])) < 90
        hidden = draw.integers(2) if close and draw.random() < 0.5 else -1
        points, std, scores, own = [], [], [], []
        for track in range(tracks):
            if not gap[track] and draw.random() < 0.003:
                gap[track] = draw.integers(5, 25)
            gap[track] = max(0, gap[track] - 1)
            if gap[track] or track == hidden or draw.random() < 0.03:
                continue
            error = np.where(visible[track], 3 * np.exp(draw.normal(0, 0.3, count)), 25)
            wrong = np.where(draw.random(count) < 0.02, 20, error)  # which the covariance does not say
            known = np.where(visible[track][:, None], now[track], centres[track])
            points.append(known + draw.normal(size=(count, 2)) * wrong[:, None])
            std.append(error)
            scores.append(draw.uniform(0.5, 1))
            own.append(track)
        if draw.random() < 0.02:
            points.append(draw.uniform(100, 900, 2) + draw.normal(size=(count, 2)) * 30)
            std.append(np.full(count, 6.0))
            scores.append(draw.uniform(0.3, 0.6))
            own.append(-1)
        found.append(draw_found(skeleton, points, std, scores))
        whose.append(np.array(own, int))
    return Clip(skeleton, truth, found, whose, tracks)


def scenes(
    seed: int, shapes: int = 8, side: int = 420, speed: float = 6, frames: int = 300, limited: bool = True
) -> Clip:
    """Draw shapes that cross each other's way."""
    count, size, noise = 15, 60, 1.5
    skeleton = Skeleton(tuple(f"point {k}" for k in range(count)))
    draw = np.random.default_rng(seed)
    own_shapes = draw.normal(size=(count, 2)) * size / 3 * draw.uniform(0.9, 1.1, (shapes, 1, 1))
    own_shapes = own_shapes + draw.normal(size=(shapes, count, 2)) * size * 0.02
    place = draw.uniform(60, side - 60, (shapes, 2))
    heading = draw.uniform(0, 2 * np.pi, shapes)
    velocity = speed * draw.uniform(0.5, 1.5, (shapes, 1)) * np.stack([np.cos(heading), np.sin(heading)], -1)
    angle, turning = np.zeros((2, shapes))
    truth, found, whose = np.zeros((frames, shapes, count, 2)), [], []
    for t in range(frames):
        turn = draw.normal(0, 0.045, shapes)
        velocity = np.einsum("nij,nj->ni", rotations(turn), velocity)
        place = place + velocity
        velocity = np.where(place < 60, np.abs(velocity), np.where(place > side - 60, -np.abs(velocity), velocity))
        turning = 0.9 * turning + draw.normal(0, 0.01, shapes)
        angle = np.clip(angle + turning, -0.5, 0.5)
        truth[t] = place[:, None] + own_shapes @ rotations(angle).swapaxes(1, 2)
        points, std, own = [], [], []
        for shape in range(shapes):  # the first is in front
            apart = (
                np.linalg.norm(truth[t, shape, :, None] - place[:shape], axis=-1) < 0.6 * size
            )  # (K, those in front)
            hidden = apart.any(-1)
            if hidden.mean() > 0.75:
                continue
            error = np.where(hidden, 25, noise)
            xy = truth[t, shape] + draw.normal(size=(count, 2)) * error[:, None]
            for k in np.flatnonzero(hidden & (draw.random(count) < 0.5)):
                xy[k] = truth[t, apart[k].argmax(), k] + draw.normal(size=2) * noise
            points.append(xy)
            std.append(error)
            own.append(shape)
        order = draw.permutation(len(own))
        scores = [0.9] * len(own)
        found.append(draw_found(skeleton, points, std, scores).take(order))
        whose.append(np.array(own, int)[order])
    return Clip(skeleton, truth, found, whose, shapes if limited else None)


def rotations(angles: np.ndarray) -> np.ndarray:
    """Return the matrices (N, 2, 2)."""
    sine, cosine = np.sin(angles), np.cos(angles)
    return np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -2)


class PlainTracker:
    """Assigns instances to the last ones of each identity by OKS alone."""

    def __init__(self, skeleton: Skeleton, max_instances: int | None) -> None:
        self.limit, self.sigmas, self.uncertain = max_instances, [0.05] * len(skeleton.names), np.zeros(0, bool)
        self.last: dict[int, tuple[int, np.ndarray]] = {}
        self.time = self.count = 0

    def update(self, prediction: Prediction) -> np.ndarray:
        """Return the identities of the instances."""
        self.time += 1
        ids = np.full(len(prediction.keypoints), -1)
        self.uncertain = np.zeros(len(ids), bool)
        used = np.argsort(-prediction.scores, kind="stable")[: self.limit]  # type: ignore[operator]
        points = prediction.keypoints[used]
        known = [i for i, (time, _) in self.last.items() if self.limit or self.time - time <= 30]
        own = np.full(len(used), -1)
        if known and len(used):
            similarity = np.array([[self._oks(x, self.last[i][1]) for x in points] for i in known])
            for row, column in zip(*linear_sum_assignment(-similarity), strict=True):
                if similarity[row, column] > 0.1 or self.limit == self.count:
                    own[column] = known[row]
        for j in np.flatnonzero(own < 0):
            own[j], self.count = self.count, self.count + 1
        self.last |= {int(i): (self.time, x) for i, x in zip(own, points, strict=True)}
        ids[used] = own
        return ids

    def _oks(self, one: np.ndarray, other: np.ndarray) -> float:
        area = np.prod(np.ptp(other, 0))
        first, second = (torch.from_numpy(each)[None] for each in (one, other))
        return float(oks(first, second, torch.ones(1, len(one), dtype=torch.bool), torch.tensor([area]), self.sigmas))


class StillTracker(Tracker):
    """The tracker without motion: what is expected are the last points."""

    def update(self, prediction: Prediction) -> np.ndarray:
        """Return the identities of the instances."""
        self._motion.centre[:, 2:] = 0
        return super().update(prediction)


METHODS: dict[str, tuple[Callable[..., PlainTracker | Tracker], bool]] = {
    "plain": (PlainTracker, True),
    "no motion": (StillTracker, True),
    "no covariance": (Tracker, False),
    "kpnet": (Tracker, True),
}


def measure(clip: Clip, method: str) -> dict[str, float]:
    """Track a clip, and measure its identities."""
    kind, informed = METHODS[method]
    tracker = kind(clip.skeleton, max_instances=clip.limit)
    truth = TrueTracks([str(track) for track in range(clip.truth.shape[1])], np.arange(len(clip.truth)), clip.truth)
    measures = IdentityMeasures(truth, clip.skeleton)
    marks, wrong = np.zeros(len(clip.found), bool), []
    last: dict[int, tuple[int, int]] = {}  # by track: frame and identity
    for t, (prediction, whose) in enumerate(zip(clip.found, clip.whose, strict=True)):
        if not informed:
            prediction.covariance = None
        ids = tracker.update(prediction)
        measures.add(t, ids, prediction.keypoints)
        marks[t] = tracker.uncertain.any()
        for track, identity in zip(whose.tolist(), ids.tolist(), strict=True):
            if track >= 0 and identity >= 0:
                before = last.get(track, (t, identity))
                wrong += [(before[0], t)] if before[1] != identity else []
                last[track] = t, identity
    near = [marks[max(0, first - NEAR) : then + NEAR + 1].any() for first, then in wrong]
    found = measures.compute()
    found |= {"marked": np.mean(near) if near else np.nan, "guesses": marks.mean()}
    return {name: found[name] for name in COLUMNS[3:]}


def clips(path: Path, seed: int) -> Iterable[tuple[str, Callable[[], Clip]]]:
    """Yield names of clips with functions that draw them."""
    if seed < FLIES_SEEDS:
        yield "flies, every frame", lambda: flies(path, seed, 1)
        yield "flies, every third frame", lambda: flies(path, seed, 3)
    yield "scenes", lambda: scenes(seed)
    yield "slow scenes", lambda: scenes(seed, shapes=5, side=350, speed=2.5, frames=400)
    yield "fast scenes", lambda: scenes(seed, shapes=5, side=500, speed=12, limited=False)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tracks", type=Path, help="tracks.csv of the flies")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for name, draw in clips(options.tracks, seed):
            for method in METHODS:
                rows.setdefault((name, method), []).append(measure(draw(), method))
    with TABLE.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for (name, method), found in sorted(rows.items(), key=lambda each: each[0][0]):
            values = np.array([[each[key] for key in COLUMNS[3:]] for each in found])
            seen = np.isfinite(values)
            means = np.where(seen, values, 0).sum(0) / np.where(seen.any(0), seen.sum(0), np.nan)
            cells = ["" if np.isnan(value) else f"{value:.4f}".rstrip("0").rstrip(".") for value in means]
            table.writerow([name, method, len(found), *cells])
            print(name, method, *cells, sep=", ")


if __name__ == "__main__":
    main()
