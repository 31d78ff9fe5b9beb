"""Trains on boxes, and measures as COCO does: OKS AP by pycocotools, on the boxes that the file has."""

import sys
from pathlib import Path

import kpnet
from kpnet.evaluation.coco import coco_measures, write_results
from kpnet.evaluation.measurement import predict_dataset
from kpnet.evaluation.run_data import evaluation_dataset

run, model, _ = kpnet.train(Path(__file__).parent / "people.yaml", sys.argv[1:])
data = evaluation_dataset(run, None, model)
labels = write_results(predict_dataset(model, data), data, model.config.input_size, run / "results.json")
measures = coco_measures(labels, run / "results.json", model.skeleton)
print(f"AP {measures['AP']:.3f}, AR {measures['AR']:.3f}; {run / 'results.json'}")
