"""The table of a comparison: means and standard deviations over seeds, costs, and significance of differences."""

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
MEASURES = ("score", "rmse_px", "nme", "pck@5%", "pck_auc", "failure_rate", "found_ap")
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
    """A row's finished runs, and the problems of the others."""

    name: str
    results: list[Result] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def tabulate(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Compute the table of a comparison.

    Args:
        groups: The rows; the others are compared with the first.

    Returns:
        A flat record per row: the mean of each measure over the runs and its standard deviation (`<measure>_sd`; None
        for a single run), the means of the costs, and the difference of the score to the first row's with its 95 %
        interval and p over resampled images.
    """
    first = groups[0]
    records = []
    for group in groups:
        record: dict[str, Any] = {"row": group.name, "runs": len(group.results), "failed": len(group.problems)}
        for name in MEASURES:
            record[name], record[f"{name}_sd"] = _mean_sd([_measure(r, name) for r in group.results])
        for name in COSTS:
            record[name] = _mean_sd([r.cost.get(name) for r in group.results])[0]
        record |= {"difference": None, "low": None, "high": None, "p": None, "note": "; ".join(group.problems)}
        if group is not first and group.results:
            record |= _difference(first, group, record["note"])
        records.append(record)
    return records


def _measure(result: Result, name: str) -> Any:
    """Return a measure of a run; `found_ap` is the AP of the instances that the model finds itself, None for others."""
    return result.measures.get("instances", {}).get("AP") if name == "found_ap" else result.measures[name]


def _mean_sd(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Return the mean and standard deviation; None if a value is missing, or there is only one."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    if not known or len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def _difference(first: Group, other: Group, note: str) -> dict[str, Any]:
    """Compare the scores of two rows on the points that both have, if their images are the same."""
    if not first.results:
        return {"note": _join(note, f"not compared with {first.name}, which has no run")}
    a, b = first.results[0], other.results[0]
    if a.input_size != b.input_size:
        note = _join(note, f"in px of its own input, {b.input_size[0]}x{b.input_size[1]}")
    shared = [name for name in a.names if name in b.names]
    if not shared:
        return {"note": _join(note, f"not compared with {first.name}, as they share no points")}
    theirs, mine = _folds(first, shared), _folds(other, shared)
    order = [next((m for m in mine if m.is_of_the_images_of(f)), None) for f in theirs]
    pairs = [(f, m) for f, m in zip(theirs, order, strict=True) if m is not None]
    if len(pairs) != len(theirs) or len(theirs) != len(mine):
        return {"note": _join(note, f"not compared with {first.name}, as images or labels differ")}
    if shared != a.names or shared != b.names:
        note = _join(note, f"compared with {first.name} on {len(shared)} shared points")
    return {**paired_bootstrap([(f.squared, m.squared, f.counts) for f, m in pairs]), "note": note}


def _join(note: str, more: str) -> str:
    return f"{note}; {more}" if note else more


@dataclass
class _Fold:
    """The runs that were measured on the same images: all runs, or those of one fold of a cross-validation.

    Attributes:
        squared: Sums of squared errors (S, I) by run and image, normalised.
        truth: True points (N, K, 2) of the samples, normalised; NaN where absent.
        images: Number of the image of each sample (N,).
    """

    squared: np.ndarray
    truth: np.ndarray
    images: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Number of coordinates of each image (I,)."""
        return np.bincount(self.images, np.isfinite(self.truth).sum((1, 2)))

    def is_of_the_images_of(self, other: _Fold) -> bool:
        """Return whether images and labels are the same, these to a few thousandths of a pixel."""
        first, second = self.truth, other.truth
        if first.shape != second.shape or not np.array_equal(self.images, other.images):
            return False
        return np.allclose(first, second, rtol=0, atol=1e-4, equal_nan=True)


def _folds(group: Group, names: Sequence[str]) -> list[_Fold]:
    """Group a row's runs by the images that they were measured on."""
    folds: list[_Fold] = []
    for result in group.results:
        predicted, truth = _points(result, names)
        squared = np.bincount(result.images, np.nansum((predicted - truth) ** 2, (1, 2)))[None]
        new = _Fold(squared, truth, result.images)
        fold = next((f for f in folds if f.is_of_the_images_of(new)), None)
        if fold is None:
            folds.append(new)
        else:
            fold.squared = np.concatenate([fold.squared, squared])
    return folds


def _points(result: Result, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted and true points (N, K, 2) of these names; true ones are NaN where absent."""
    columns = [result.names.index(name) for name in names]
    truth = np.where(result.visible[:, columns, None], result.target[:, columns], np.nan)
    return result.predicted[:, columns].astype(float), truth.astype(float)


def paired_bootstrap(folds: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Compare the scores of two rows by a paired bootstrap over images.

    A row's score is the mean of its runs, so the interval is about the choice of images alone; the standard deviation
    beside the mean is about seeds. See Efron and Tibshirani 1993, An Introduction to the Bootstrap.

    Args:
        folds: For each fold, the squared errors by run and image of the first row (S, N) and of the other (S', N),
            normalised, and the number of coordinates of each image (N,).

    Returns:
        `difference` of the other row to the first, `low` and `high` of its 95 % interval, and the two-sided `p`.
    """
    generator = np.random.default_rng(0)
    scores: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for *rows, counts in folds:
        images = len(counts)
        drawn = generator.multinomial(
            images, np.full(images, 1 / images), RESAMPLES
        )  # how often each image is in each resample
        weights = np.concatenate([np.ones((1, images)), drawn])  # the first is the data itself
        for held, squared in zip(scores, rows, strict=True):
            held.append((weights @ counts)[:, None] / (2 * weights @ squared.T))
    first, other = (np.concatenate(held, 1).mean(1) for held in scores)
    difference = other - first
    low, high = np.quantile(difference[1:], [0.025, 0.975])
    one_sided = min((difference[1:] <= 0).mean(), (difference[1:] >= 0).mean())
    p = max(2 * one_sided, 1 / RESAMPLES)
    return {"difference": float(difference[0]), "low": float(low), "high": float(high), "p": float(min(1.0, p))}


HEADINGS = (
    "row", "runs", "score", "RMSE px", "NME %", "PCK@5 %", "AUC", "failed %", "found AP", "parameters", "MACs",
    "model MB", "peak MB", "images/s", "minutes", "ms at 1", "ms at 64", "score − first", "p", "note",
)  # fmt: skip
KEYS = ("row", "runs", *MEASURES, *COSTS, "difference", "p", "note")  # keys of the records, in the order of HEADINGS


def cells(record: dict[str, Any]) -> list[str]:
    """Return a record as text, in the order of HEADINGS."""
    percent = {"scale": 100, "digits": 2}
    interval = (
        ""
        if record["difference"] is None
        else f"{record['difference']:+.1f} ({record['low']:+.1f} to {record['high']:+.1f})"
    )
    return [
        record["row"],
        str(record["runs"]),
        _mean_text(record, "score", digits=1),
        _mean_text(record, "rmse_px", digits=3),
        _mean_text(record, "nme", **percent),
        _mean_text(record, "pck@5%", **percent),
        _mean_text(record, "pck_auc", digits=4),
        _mean_text(record, "failure_rate", **percent),
        _mean_text(record, "found_ap", digits=4),
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
    """Return a scaled number as text; "" for None."""
    return "" if value is None else f"{value * scale:.{digits}f}"


def _mean_text(record: dict[str, Any], name: str, scale: float = 1, digits: int = 1) -> str:
    """Return a measure as "mean ± standard deviation"."""
    mean, sd = (_number(record[key], scale, digits) for key in (name, f"{name}_sd"))
    return f"{mean} ± {sd}" if sd else mean


def _short(value: float | None) -> str:
    """Return 12345678 as "12.3 M"."""
    if value is None:
        return ""
    power = next((p for p in (9, 6, 3) if value >= 10**p), 0)
    return f"{value / 10**power:.3g} {({9: 'G', 6: 'M', 3: 'k', 0: ''})[power]}".strip()


def to_markdown(records: Sequence[dict[str, Any]]) -> str:
    """Return the table as Markdown, without columns that are empty in every row."""
    texts = [cells(record) for record in records]
    kept = [i for i in range(len(HEADINGS)) if any(row[i] for row in texts)]
    lines = [[HEADINGS[i] for i in kept], ["---"] * len(kept)]
    lines += [[row[i].replace("|", "\\|") for i in kept] for row in texts]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_csv(records: Sequence[dict[str, Any]]) -> str:
    """Return the records as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
