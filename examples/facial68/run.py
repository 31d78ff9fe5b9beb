"""Trains, and measures as 300-W does: NME by the outer eye corners, its AUC up to 8 %."""

import sys
from pathlib import Path

import kpnet

run, _, _ = kpnet.train(Path(__file__).parent / "facial68.yaml", sys.argv[1:])
measures = kpnet.evaluate(run, failure_threshold=0.08)
print(f"NME {100 * measures['nme']:.2f} % of the {measures['nme_by']}, AUC@0.08 {measures['ced_auc']:.3f}; {run}")
