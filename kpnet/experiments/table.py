"""The table of a comparison: mean and spread over seeds, costs, and whether a difference is more than chance."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kpnet.experiments.result import Result

RESAMPLES = 2000
MEASURES = ("score", "rmse_px", "nme", "pck@5%", "pck_auc", "failure_rate")
COSTS = (
    "parameters",
    "macs",
    "model_bytes",
    "peak_bytes",
    "train_images_per_second",
    "train_seconds",
    "latency_1",
    "latency_64",
)


@dataclass
class Group:
    """A row's finished runs, and what failed."""

    name: str
    results: list[Result] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def tabulate(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A flat record a row: each measure's mean over the runs and its standard deviation (`…_sd`; None of one run),
    the costs' means, and the score's difference to the first row's, with its 95 % interval and p over resampled images.
    """
    first = groups[0]
    records = []
    for group in groups:
        record: dict[str, Any] = {"row": group.name, "runs": len(group.results)}
        for name in MEASURES:
            record[name], record[f"{name}_sd"] = _mean_sd([r.measures[name] for r in group.results])
        for name in COSTS:
            record[name] = _mean_sd([r.cost.get(name) for r in group.results])[0]
        record |= {"difference": None, "low": None, "high": None, "p": None, "note": "; ".join(group.problems)}
        if group is not first and group.results:
            record |= _difference(first, group, record["note"])
        records.append(record)
    return records


def _mean_sd(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [v for v in values if v is not None and math.isfinite(v)]
    if not known or len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def _difference(first: Group, other: Group, note: str) -> dict[str, Any]:
    """The other's score less the first's; on the points that both have, where the images are the same."""
    if not first.results:
        return {"note": _join(note, f"{first.name} has no run: not compared with it")}
    a, b = first.results[0], other.results[0]
    if a.input_size != b.input_size:
        note = _join(note, f"px of its own input, {b.input_size[0]}x{b.input_size[1]}")
    shared = [name for name in a.names if name in b.names]
    if not shared:
        return {"note": _join(note, f"none of {first.name}'s points: not compared with it")}
    theirs, mine = _folds(first, shared), _folds(other, shared)
    order = [next((m for m in mine if _same(m.truth, f.truth)), None) for f in theirs]
    pairs = [(f, m) for f, m in zip(theirs, order, strict=True) if m is not None]
    if len(pairs) != len(theirs) or len(theirs) != len(mine):
        return {"note": _join(note, f"other images or labels than {first.name}'s: not compared with it")}
    if shared != a.names or shared != b.names:
        note = _join(note, f"compared with {first.name} on {len(shared)} shared points")
    return {**paired_bootstrap([(f.squared, m.squared, f.counts) for f, m in pairs]), "note": note}


def _join(note: str, more: str) -> str:
    return f"{note}; {more}" if note else more


@dataclass
class _Fold:
    """The runs that were measured on the same images: all, or those of one fold of a cross-validation.

    Sums of squared errors (S, N) by run and image, normalised; true points (N, K, 2), NaN where absent.
    """

    squared: np.ndarray
    truth: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Coordinates of each image (N,)."""
        return np.isfinite(self.truth).sum((1, 2))


def _folds(group: Group, names: Sequence[str]) -> list[_Fold]:
    folds: list[_Fold] = []
    for result in group.results:
        predicted, truth = _points(result, names)
        squared = np.nansum((predicted - truth) ** 2, (1, 2))[None]
        fold = next((f for f in folds if _same(f.truth, truth)), None)
        if fold is None:
            folds.append(_Fold(squared, truth))
        else:
            fold.squared = np.concatenate([fold.squared, squared])
    return folds


def _same(first: np.ndarray, other: np.ndarray) -> bool:
    """The same labels, to a few thousandths of a pixel."""
    return first.shape == other.shape and np.allclose(first, other, rtol=0, atol=1e-4, equal_nan=True)


def _points(result: Result, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true points (N, K, 2) of these names; true ones NaN where absent."""
    columns = [result.names.index(name) for name in names]
    truth = np.where(result.visible[:, columns, None], result.target[:, columns], np.nan)
    return result.predicted[:, columns].astype(float), truth.astype(float)


def paired_bootstrap(folds: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The difference of two rows' scores, its 95 % interval and two-sided p over images drawn with replacement.

    Of each fold: squared errors by run and image of the first row (S, N) and of the other (S', N), normalised, and
    coordinates by image (N,). A row's score is the mean of its runs', so the interval is of the images' chance alone:
    the seeds' is the spread beside the mean.
    """
    generator = np.random.default_rng(0)
    scores: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for *rows, counts in folds:
        images = len(counts)
        drawn = generator.multinomial(images, np.full(images, 1 / images), RESAMPLES)  # how often each image is in each
        everywhere = np.concatenate([np.ones((1, images)), drawn])
        for held, squared in zip(scores, rows, strict=True):
            held.append((everywhere @ counts)[:, None] / (2 * everywhere @ squared.T))
    first, other = (np.concatenate(held, 1).mean(1) for held in scores)
    difference = other - first
    low, high = np.quantile(difference[1:], [0.025, 0.975])
    one_sided = min((difference[1:] <= 0).mean(), (difference[1:] >= 0).mean())
    p = max(2 * one_sided, 1 / RESAMPLES)
    return {"difference": float(difference[0]), "low": float(low), "high": float(high), "p": float(min(1.0, p))}


HEADINGS = (
    "row", "runs", "score", "RMSE px", "NME %", "PCK@5 %", "AUC", "failed %", "parameters", "MACs", "model MB",
    "peak MB", "images/s", "minutes", "ms at 1", "ms at 64", "score − first", "p", "note",
)  # fmt: skip
KEYS = ("row", "runs", *MEASURES, *COSTS, "difference", "p", "note")  # of the records, as HEADINGS has them


def cells(record: dict[str, Any]) -> list[str]:
    """A record as text, in the order of HEADINGS."""
    percent = {"scale": 100, "digits": 2}
    interval = (
        ""
        if record["difference"] is None
        else f"{record['difference']:+.1f} ({record['low']:+.1f} to {record['high']:+.1f})"
    )
    return [
        record["row"],
        str(record["runs"]),
        _spread(record, "score", digits=1),
        _spread(record, "rmse_px", digits=3),
        _spread(record, "nme", **percent),
        _spread(record, "pck@5%", **percent),
        _spread(record, "pck_auc", digits=4),
        _spread(record, "failure_rate", **percent),
        _short(record["parameters"]),
        _short(record["macs"]),
        _number(record["model_bytes"], 1e-6, 1),
        _number(record["peak_bytes"], 1e-6, 0),
        _number(record["train_images_per_second"], 1, 0),
        _number(record["train_seconds"], 1 / 60, 1),
        _number(record["latency_1"], 1000, 1),
        _number(record["latency_64"], 1000, 0),
        interval,
        "" if record["p"] is None else f"{record['p']:.3f}" if record["p"] >= 0.001 else "< 0.001",
        record["note"],
    ]  # fmt: skip


def _number(value: float | None, scale: float, digits: int) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"


def _spread(record: dict[str, Any], name: str, scale: float = 1, digits: int = 1) -> str:
    mean, sd = (_number(record[key], scale, digits) for key in (name, f"{name}_sd"))
    return f"{mean} ± {sd}" if sd else mean


def _short(value: float | None) -> str:
    """12345678 as 12.3 M."""
    if value is None:
        return ""
    power = next((p for p in (9, 6, 3) if value >= 10**p), 0)
    return f"{value / 10**power:.3g} {({9: 'G', 6: 'M', 3: 'k', 0: ''})[power]}".strip()


def to_markdown(records: Sequence[dict[str, Any]]) -> str:
    """Without the columns in which every row is empty."""
    texts = [cells(record) for record in records]
    kept = [i for i in range(len(HEADINGS)) if any(row[i] for row in texts)]
    lines = [[HEADINGS[i] for i in kept], ["---"] * len(kept)]
    lines += [[row[i].replace("|", "\\|") for i in kept] for row in texts]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_csv(records: Sequence[dict[str, Any]]) -> str:
    """The records as they are."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
