"""Measure guaranteed radii: on 100 random halves of validation data, against the law of split conformal prediction.

    python benchmarks/accuracy/guarantee.py RUN [RUN ...] [--at 0.9] [--held FILE]

Each run's final model predicts its validation data once. Half of the images guarantee, and the other half is measured,
100 times. Each run gets a row of `benchmarks/results/guarantee.csv`: the share of points in their own circles and of
images whose points all lie in their joint circles, with the standard deviations over the halves that were measured and
that the beta-binomial law gives; and the p-values of Kolmogorov-Smirnov tests of the law, of all points by Bonferroni.
Beside them is what the training ended with, cross-fitted: the calibration error of the confidence (`ece`), and the
shares of the points in the 50, 90 and 95 % ellipses.
With --held, a file that neither trained nor validated the runs guarantees, and all validation data is measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from running import RESULTS
from scipy import stats
from torch import Tensor

from kpnet import load_model
from kpnet.evaluation.guarantee import inside_radii
from kpnet.evaluation.intervals import share_interval
from kpnet.evaluation.measurement import predict_dataset
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.models.guarantee import conformal_rank, fit_guarantee
from kpnet.models.record import RECORD

TABLE = RESULTS / "guarantee.csv"
HALVES = 100


def predict(run: Path, data: Path | None) -> tuple[tuple[Any, Tensor, Tensor], np.ndarray, tuple[int, int]]:
    """Return raw predictions, truth and labels of a run's validation data or of a file, the images, and the size."""
    model = load_model(run)
    model.calibration = model.guarantee = None
    found = predict_dataset(model, evaluation_dataset(run, data, model))
    return (found.predicted, found.target, found.visible), found.images, model.config.input_size


def random_halves(run: Path, at: float) -> dict[str, Any]:
    """Return the row of a run: coverage over random halves of its validation images, and tests of its law."""
    (predicted, target, visible), keys, size = predict(run, None)
    draw = np.random.default_rng(0)
    covered, places, expected = [], [], []
    for _ in range(HALVES):
        first = torch.from_numpy(draw.permutation(int(keys.max()) + 1)[keys] % 2 == 0)
        halves = [predicted.map(lambda x, rows=rows: x[rows]) for rows in (first, ~first)]
        fitted = fit_guarantee(halves[0], target[first], visible[first], size, at)
        tested = inside_radii(fitted(halves[1], size), target[~first], visible[~first], size)
        inside, counted = (x.sum(0).numpy() for x in tested)
        ranks = np.array([conformal_rank(n[0], at) for n in fitted.points])
        law = stats.betabinom(counted, ranks, np.array(fitted.points)[:, 0] + 1 - ranks)
        below = law.cdf(inside - 1)
        covered.append(inside / counted)
        expected.append((law.mean() / counted, law.std() / counted))
        places.append(below + draw.uniform(size=len(inside)) * (law.cdf(inside) - below))  # uniform under the law
    shares, (mean, deviation) = np.array(covered), np.moveaxis(np.array(expected), 1, 0).mean(1)
    p = np.array([stats.kstest(each, "uniform").pvalue for each in np.array(places).T])
    record = json.loads((run / "final" / RECORD).read_text())["measures"]["reliability"]
    ended = {"ece": round(record["ece"], 4)} | {k: round(v["measured"], 4) for k, v in record["coverage"].items()}
    row = {"run": run.name, **ended, "at": at, "images": int(keys.max()) + 1, "instances": len(keys)}
    for name, part in (("points", slice(-1)), ("joint", slice(-1, None))):
        row |= {
            name: round(float(shares[:, part].mean()), 4),
            f"{name} law": round(float(mean[part].mean()), 4),
            f"{name} deviation": round(float(shares[:, part].std(0).mean()), 4),
            f"{name} deviation law": round(float(deviation[part].mean()), 4),
            f"{name} p": round(min(1.0, float(p[part].min()) * len(p[part])), 4),
        }
    return row


def from_held(run: Path, held: Path, at: float) -> None:
    """Print what radii from another file hold on the validation data."""
    (predicted, target, visible), _, size = predict(run, held)
    (tested, *truth), keys, _ = predict(run, None)
    fitted = fit_guarantee(predicted, target, visible, size, at)
    inside, counted = inside_radii(fitted(tested, size), truth[0], truth[1], size)
    found = {
        name: share_interval(inside[:, part], counted[:, part], keys)
        for name, part in (("points", slice(-1)), ("joint", slice(-1, None)))
    }
    print(json.dumps({"run": run.name, "held": str(held), **found}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--at", type=float, default=0.9)
    parser.add_argument("--held", type=Path, metavar="FILE")
    given = parser.parse_args()
    for run in given.runs:
        if given.held is not None:
            from_held(run, given.held, given.at)
            continue
        row = random_halves(run, given.at)
        print(json.dumps(row), flush=True)
        known = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame([row])[:0]
        rest = known[(known.run != row["run"]) | (known["at"] != given.at)]
        pd.DataFrame([*rest.to_dict("records"), row]).to_csv(TABLE, index=False)


if __name__ == "__main__":
    main()
