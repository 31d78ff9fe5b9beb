"""What views and decodings at test time are worth, for the runs of a comparison.

    python benchmarks/accuracy/test_time.py runs/shipped

Measures each finished run's final model on val.csv: as it is, with the flip test, with shifts of 2 px too, and read by
soft-argmax. Written into `benchmarks/results/test_time.csv` as they come; what is there is not measured again.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pandas as pd

from kpnet.config.loading import run_config
from kpnet.evaluation.measurement import evaluate
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.heads.heatmap import HeatmapHead
from kpnet.models.build import load_model
from kpnet.models.test_time import TestTime

TABLE = Path(__file__).parents[1] / "results" / "test_time.csv"
VIEWS = {"plain": TestTime(), "flip": TestTime(flip=True), "flip_shift": TestTime(flip=True, shift=2.0)}


def main() -> None:
    done = set(pd.read_csv(TABLE)[["row", "seed"]].itertuples(index=False, name=None)) if TABLE.is_file() else set()
    for trial in sorted(Path(sys.argv[1]).glob("runs/*/trial.json")):
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
        new = not TABLE.is_file()
        with TABLE.open("a", newline="") as file:
            writer = csv.DictWriter(file, ["row", "seed", *VIEWS, "soft_argmax"], lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(found)
        print(found, flush=True)


if __name__ == "__main__":
    main()
