"""Trains, and measures as 300-W does: NME by the outer eye corners, its AUC up to 8 %."""

import sys
from pathlib import Path

from kpnet import load_config
from kpnet.evaluation.measurement import evaluate
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.training.supervised import train

run, model, _ = train(load_config(Path(__file__).parent / "facial68.yaml", sys.argv[1:]))
measures = evaluate(model, evaluation_dataset(run, None, model), failure=0.08)
print(f"NME {100 * measures['nme']:.2f} % of the {measures['nme_by']}, AUC@0.08 {measures['ced_auc']:.3f}; {run}")
