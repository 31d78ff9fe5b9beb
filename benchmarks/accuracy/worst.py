"""Find what limits a model: its worst faces on the validation data of its run, with the flip test.

    python benchmarks/accuracy/worst.py RUN FIGURE.png [--count 20]

Prints their share of the squared error, the score without them, and each keypoint group's share of their error, and
draws them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from kpnet.evaluation.measurement import predict_dataset
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.metrics import score
from kpnet.models.build import load_model
from kpnet.models.test_time import TestTime
from kpnet.plot import draw_predictions, save_figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("figure", type=Path, help="where the faces are drawn")
    parser.add_argument("--count", type=int, default=20, help="number of faces")
    given = parser.parse_args()
    model = load_model(given.run)
    dataset = evaluation_dataset(given.run, None, model)
    found = predict_dataset(model, dataset, test_time=TestTime(flip=True))
    predicted, truth, visible = found.predicted.keypoints, found.target, found.visible
    squared = torch.where(visible, (predicted - truth).square().sum(-1), 0.0)  # (N, K)
    order = (squared.sum(1) / visible.sum(1)).argsort(descending=True)
    worst, rest = order[: given.count], order[given.count :]
    print(f"the worst {given.count} of {len(order)}: {squared[worst].sum() / squared.sum():.0%} of the squared error")
    without = score(predicted[rest], truth[rest], visible[rest])
    print(f"score {score(predicted, truth, visible):.1f}, without them {without:.1f}")
    for name, indices in model.skeleton.group_indices.items():
        print(f"  {name}: {squared[worst][:, indices].sum() / squared[worst].sum():.0%} of theirs")
    images = torch.stack([dataset[int(index)]["image"] for index in worst])
    save_figure(draw_predictions(images, truth[worst], predicted[worst], visible[worst]), given.figure)


if __name__ == "__main__":
    main()
