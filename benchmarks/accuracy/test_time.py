"""Measure test-time views and another decoding on the runs of a comparison.

    python benchmarks/accuracy/test_time.py runs/shipped

Each finished run's final model is measured on val.csv: as it is, with the flip test, with flips and shifts of 2 px, and
decoded by soft-argmax. Rows are appended to `benchmarks/results/test_time.csv` as they come; rows in that file are not
measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
from running import RESULTS, append_row

from kpnet.config.loading import run_config
from kpnet.evaluation.measurement import evaluate
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.heads.heatmap import HeatmapHead
from kpnet.models.build import load_model
from kpnet.models.test_time import TestTime

TABLE = RESULTS / "test_time.csv"
VIEWS = {"plain": TestTime(), "flip": TestTime(flip=True), "flip_shift": TestTime(flip=True, shift=2.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="the folder of a finished comparison")
    given = parser.parse_args()
    done = set(pd.read_csv(TABLE)[["row", "seed"]].itertuples(index=False, name=None)) if TABLE.is_file() else set()
    for trial in sorted(given.comparison.glob("runs/*/trial.json")):
        run, row = trial.parent, json.loads(trial.read_text())["row"]
        config = run_config(run)
        assert config is not None
        if (row, config.train.seed) in done:
            continue
        model = load_model(run)
        data = evaluation_dataset(run, None, model)
        found = {"row": row, "seed": config.train.seed}
        found |= {name: round(evaluate(model, data, test_time=view)["score"], 2) for name, view in VIEWS.items()}
        if isinstance(model.head, HeatmapHead):
            model.head.decoding = "soft_argmax"
            found["soft_argmax"] = round(evaluate(model, data)["score"], 2)
        append_row(TABLE, found, ["row", "seed", *VIEWS, "soft_argmax"])
        print(found, flush=True)


if __name__ == "__main__":
    main()
