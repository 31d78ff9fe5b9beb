"""Train both ways of finding instances on three data sets, and measure what they find on their own.

    python benchmarks/accuracy/instances.py [shared=FOLDER] [ROW ...] [--threads 1] [--keep FOLDER]

ROW is a name from the first column of `benchmarks/results/instances.csv`; without any, every row that the table lacks
is trained and appended, with the minutes of processor time of its training. FOLDER (default: ../shared) holds
`data/flies` and `data/coco_mini`; the scenes are drawn. Rows of `coco_mini` are measured on the images that they were
trained on: a check that everything can be found again. With `--keep`, runs stay in that folder, and one that is there
already is measured and not trained.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from running import RESULTS, append_row, children_minutes, is_asked_for, kpnet, split_folder

from kpnet import Predictor
from kpnet.data.wrappers.scenes import Scenes
from kpnet.evaluation.instances import evaluate_instances
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.inference.prediction import Prediction

TABLE = RESULTS / "instances.csv"
SMALL = ["data.workers=0", "trainer.logger=null"]
SCENES = [
    "data.format=synthetic_scenes",
    "model.num_keypoints=null",
    "data.root=.",
    "data.train=150",
    "data.val=200",
    "train.epochs=20",
]
MINI = ["data.root={shared}/data/coco_mini", "data.train=person_keypoints.json", "data.val=person_keypoints.json"]
MINI += ["data.skeleton=coco17", "model.num_keypoints=null", "data.transforms=[]", "model.in_channels=3"]
ROWS: dict[str, tuple[str, list[str]]] = {
    "flies two_stage 0": ("flies", ["data.root={shared}/data/flies", "data.cache_gb=0.2"]),
    "flies single_stage 0": ("flies_single_stage", ["data.root={shared}/data/flies", "data.cache_gb=0.2"]),
    "flies two_stage 1": ("flies", ["data.root={shared}/data/flies", "data.cache_gb=0.2", "train.seed=1"]),
    "flies single_stage 1": (
        "flies_single_stage",
        ["data.root={shared}/data/flies", "data.cache_gb=0.2", "train.seed=1"],
    ),
    "scenes two_stage 0": ("flies", [*SCENES, "model.input_size=96"]),
    "scenes single_stage 0": ("flies_single_stage", [*SCENES, "model.input_size=256"]),
    "coco_mini two_stage 0": ("flies", [*MINI, "train.epochs=150", "model.input_size=[192,144]"]),
    "coco_mini single_stage 0": ("flies_single_stage", [*MINI, "train.epochs=400", "model.input_size=384"]),
}


def measure(run: Path) -> dict[str, Any]:
    """Measure a run on its validation data: with the true boxes, and with those that it finds."""
    predictor = Predictor(run)
    dataset = evaluation_dataset(run, None, predictor.model)
    scenes = dataset if isinstance(dataset, Scenes) else Scenes(dataset, predictor.model.config.input_size)
    truth = [scenes.truth(index) for index in range(len(scenes))]
    boxed: list[Prediction] = []
    start = time.process_time()
    found = [predictor(scenes.image(index)) for index in range(len(scenes))]
    seconds = (time.process_time() - start) / len(scenes)
    measures = evaluate_instances(found, truth, predictor.model.skeleton)
    if predictor.model.finder is not None:
        boxed = [with_scores(predictor(scenes.image(i), boxes=each.boxes.tolist())) for i, each in enumerate(truth)]
    with_boxes = evaluate_instances(boxed, truth, predictor.model.skeleton)["AP"] if boxed else np.nan
    names = ("AP", "precision", "recall", "mre_px", "count_right")
    values = {"AP_boxes": with_boxes, **{name: measures[name] for name in names}}
    return {**{name: round(float(value), 4) for name, value in values.items()}, "seconds_per_image": round(seconds, 3)}


def with_scores(prediction: Prediction) -> Prediction:
    """Return a prediction whose instances have scores: the mean confidence of their points."""
    confidence = prediction.confidence
    count = len(prediction.keypoints)
    return replace(prediction, scores=np.ones(count) if confidence is None else confidence.mean(-1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to measure; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder of the runs; a temporary one by default")
    given = parser.parse_args()
    shared, asked = split_folder(given.rows, "shared", "../shared")
    done = {line.split(",")[0] for line in TABLE.read_text().splitlines()[1:]} if TABLE.is_file() else set()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        for name, (recipe, overrides) in ROWS.items():
            if name in done or not is_asked_for(name, asked):
                continue
            run, minutes = folder / name.replace(" ", "_"), float("nan")
            if not (run / "final").is_dir():
                options = [each.replace("{shared}", shared) for each in (*SMALL, *overrides)]
                before = children_minutes()
                kpnet("train", recipe, *options, "--out", run, threads=given.threads)
                minutes = children_minutes() - before
            append_row(TABLE, {"row": name, "minutes": round(minutes, 1), **measure(run)})
            print(TABLE.read_text().splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
