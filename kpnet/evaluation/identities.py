"""Measure identities over the frames of a video: IDF1, switches and HOTA, with OKS as the similarity (TrackEval)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kpnet.core.errors import KpnetError, did_you_mean, few, first_line
from kpnet.core.skeleton import Skeleton
from kpnet.oks import pairwise_oks, sigmas_of

COLUMNS = ("frame", "track", "name", "x", "y")


@dataclass
class TrueTracks:
    """Labelled identities: G tracks of K points in some frames, in pixels.

    Attributes:
        names: Names of the tracks.
        frames: Numbers of the labelled frames, ascending.
        points: Points (frames, G, K, 2), NaN where not labelled.
    """

    names: list[str]
    frames: np.ndarray
    points: np.ndarray


def read_tracks(path: Path, skeleton: Skeleton) -> TrueTracks:
    """Read labelled identities.

    Args:
        path: A CSV with the columns frame, track, name, x and y, as `kpnet predict --track` writes it; one row for each
            point, in pixels, frames counted from 0. Points without coordinates are not labelled; other columns are not
            read.
        skeleton: The points; those that the file lacks are not measured.

    Returns:
        The tracks.

    Raises:
        KpnetError: The file is no such table, or has points that the skeleton lacks.
    """
    expected = f"expected a CSV with the columns {', '.join(COLUMNS)}"
    try:
        table = pd.read_csv(path, dtype={"track": str, "name": str})
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise KpnetError(f"{path}: {first_line(error)}; {expected}") from None
    missing = [column for column in COLUMNS if column not in table]
    if missing or not len(table):
        raise KpnetError(f"{path}: {f'no column {few(missing)}' if missing else 'no row'}; {expected}")
    for column in ("frame", "x", "y"):
        numbers = pd.to_numeric(table[column], errors="coerce")
        wrong = numbers.isna() & table[column].notna()
        if column == "frame":
            wrong |= ~(numbers >= 0) | (numbers % 1 != 0)
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise KpnetError(f'{path}: row {row + 2}: {column}: expected a number, found "{table[column][row]}"')
        table[column] = numbers
    unknown = sorted(set(table.name.dropna()) - set(skeleton.names))
    if unknown or table.name.isna().any() or table.track.isna().any():
        what = (
            f'no point "{unknown[0]}"{did_you_mean(unknown[0], skeleton.names)}' if unknown else "a row without names"
        )
        raise KpnetError(f"{path}: {what}; the model has {few(skeleton.names, 5)}")
    twice = table.duplicated(["frame", "track", "name"])
    if twice.any():
        raise KpnetError(f"{path}: row {int(twice.to_numpy().argmax()) + 2}: this point of the track has a row before")
    frames, at = np.unique(table.frame.astype(int), return_inverse=True)
    tracks = list(dict.fromkeys(table.track))
    points = np.full((len(frames), len(tracks), len(skeleton.names), 2), np.nan)
    places = {name: k for k, name in enumerate(skeleton.names)}
    points[at, table.track.map(tracks.index), table.name.map(places)] = table[["x", "y"]]
    points[~np.isfinite(points).all(-1)] = np.nan
    return TrueTracks(tracks, frames, points)


class IdentityMeasures:
    """Compares identities with labelled ones, frame by frame.

    Args:
        truth: The labelled tracks.
        skeleton: The points; its `sigmas` are those of OKS, without any 0.05 for all.

    Raises:
        KpnetError: TrackEval is not installed.
    """

    def __init__(self, truth: TrueTracks, skeleton: Skeleton) -> None:
        self._metrics = _metrics()
        self._truth, self._sigmas = truth, sigmas_of(skeleton)
        self._at = {int(frame): row for row, frame in enumerate(truth.frames)}
        points = truth.points
        visible = np.isfinite(points).all(-1)
        low = np.where(visible[..., None], points, np.inf).min(-2)
        high = np.where(visible[..., None], points, -np.inf).max(-2)
        area = np.where(visible.any(-1), np.prod(np.where(visible.any(-1)[..., None], high - low, 0), -1), np.nan)
        usual = np.nanmedian(np.where(area > 0, area, np.nan)) if (area > 0).any() else 1.0
        self._area = np.where(area > 0, area, usual)  # of a single point, or points in a line
        self._numbers: dict[int, int] = {}
        self._found: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by frame: identities and similarities

    def add(self, frame: int, ids: np.ndarray, points: np.ndarray) -> None:
        """Add the instances of a frame; one that is not labelled counts for nothing.

        Args:
            frame: Its number.
            ids: Identities (N,); -1 for an instance without one.
            points: Points (N, K, 2) in pixels.
        """
        row = self._at.get(frame)
        if row is None:
            return
        there = ids >= 0
        target = self._truth.points[row]
        visible = np.isfinite(target).all(-1)
        similarity = pairwise_oks(
            torch.from_numpy(np.asarray(points[there], np.float64)),
            torch.from_numpy(np.nan_to_num(target)),
            torch.from_numpy(visible),
            torch.from_numpy(self._area[row]),
            self._sigmas,
        )
        own = [self._numbers.setdefault(int(identity), len(self._numbers)) for identity in ids[there]]
        self._found[row] = np.array(own, int), similarity.numpy().T[visible.any(-1)]

    def compute(self) -> dict[str, Any]:
        """Return the measures.

        Returns:
            `frames`, `tracks` (labelled) and `identities` (found); `idf1`, `id_precision` and `id_recall`, and
            `switches`, at an OKS of 0.5; and `hota`, `deta` and `assa`, means over OKS from 0.05 to 0.95.
        """
        there = [np.flatnonzero(np.isfinite(points).all(-1).any(-1)) for points in self._truth.points]
        none = np.zeros(0, int)
        found = [self._found.get(row, (none, np.zeros((len(own), 0)))) for row, own in enumerate(there)]
        data = {
            "num_timesteps": len(there),
            "num_gt_ids": len(self._truth.names),
            "num_tracker_ids": len(self._numbers),
            "num_gt_dets": sum(map(len, there)),
            "num_tracker_dets": sum(len(ids) for ids, _ in found),
            "gt_ids": there,
            "tracker_ids": [ids for ids, _ in found],
            "similarity_scores": [similarity for _, similarity in found],
        }
        clear, identity, hota = (metric.eval_sequence(data) for metric in self._metrics)
        return {
            "frames": len(there),
            "tracks": len(self._truth.names),
            "identities": len(self._numbers),
            "idf1": float(identity["IDF1"]),
            "id_precision": float(identity["IDP"]),
            "id_recall": float(identity["IDR"]),
            "switches": int(clear["IDSW"]),
            **{name.lower(): float(np.mean(hota[name])) for name in ("HOTA", "DetA", "AssA")},
        }


def _metrics() -> tuple[Any, Any, Any]:
    """Return TrackEval's CLEAR, Identity and HOTA, or raise KpnetError where it is not installed."""
    try:
        from trackeval.metrics import CLEAR, HOTA, Identity
    except ImportError:
        raise KpnetError("--tracks needs trackeval, which is not installed: pip install kpnet[tracking]") from None
    quiet = {"PRINT_CONFIG": False}
    return CLEAR(quiet), Identity(quiet), HOTA()
