"""Trains, and measures as DeepLabCut does: mean errors in pixels of the frames, of all points and of the sure ones."""

import sys
from pathlib import Path

from kpnet import load_config
from kpnet.evaluation.measurement import evaluate
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.training.supervised import train

run, model, _ = train(load_config(Path(__file__).parent / "mouse.yaml", sys.argv[1:]))
original = evaluate(model, evaluation_dataset(run, None, model), min_confidence=0.6)["image_pixels"]
print(f"test error {original['mre_px']:.2f} px, of the {original['sure']['points']} sure points", end=" ")
print(f"{original['sure']['mre_px']:.2f} px; {run}")
