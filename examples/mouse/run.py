"""Trains, and measures as DeepLabCut does: mean errors in pixels of the frames, of all and of the confident points."""

import sys
from pathlib import Path

import kpnet

run, _, _ = kpnet.train(Path(__file__).parent / "mouse.yaml", sys.argv[1:])
original = kpnet.evaluate(run, min_confidence=0.6)["image_pixels"]
print(f"test error {original['mre_px']:.2f} px, of the {original['confident']['points']} confident points", end=" ")
print(f"{original['confident']['mre_px']:.2f} px; {run}")
