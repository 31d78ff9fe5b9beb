"""Train a recipe to the end on a GPU, larger and longer than it is shipped, and report its score.

    python benchmarks/accuracy/gpu_training.py data.root=data/faces15 --out runs/gpu [key=value ...]
    python benchmarks/accuracy/gpu_training.py --cpu --out /tmp/small    # two epochs on drawn faces

The recipe is `facial_heatmap` with twice the channels, 400 epochs and batches of 128, augmented on the device;
overrides change any of it. The score is that of the final model on the validation data, plainly and averaged over views
(mirrored, two scales and shifts). A line of JSON: scores, minutes, epochs, and the device.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

import kpnet
from kpnet.config.loading import load_config
from kpnet.core.runtime import best_device
from kpnet.data.build import build_val
from kpnet.models.test_time import TestTime

LARGER = [
    "model.backbone={name: conv_sandwich, channels: [48, 96, 192, 384, 768], norm: batch, residual: 1}",
    "model.head.decoder={name: top_down, width: 128}",
    *("train.epochs=400", "train.batch_size=128", "train.average={name: ema, decay: 0.995}"),
    *("data.workers=8", "data.device_transforms=true", "trainer.precision=null"),
]
SMALL = [
    *("trainer.accelerator=cpu", "data.format=synthetic", "data.train=64", "data.val=16", "data.root=."),
    *("train.epochs=2", "train.batch_size=16", "data.workers=0"),
    "model.backbone={name: conv_sandwich, channels: [8, 16, 24, 32, 48], norm: batch, residual: 1}",
]
VIEWS = TestTime(flip=True, scales=(0.95, 1.0, 1.05), shift=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--recipe", default="facial_heatmap")
    parser.add_argument("--out", type=Path, required=True, help="the run folder")
    parser.add_argument("--cpu", action="store_true", help="a dry run: a small network, two epochs, drawn faces")
    given = parser.parse_args()
    if not given.cpu and not torch.cuda.is_available():
        parser.error("torch finds no GPU here: --cpu makes a dry run")
    config = load_config(given.recipe, [*LARGER, *(SMALL if given.cpu else []), *given.overrides])
    kpnet.keep_freed_memory()
    started = time.perf_counter()
    _, model, measures = kpnet.train(config, out=given.out)
    minutes = (time.perf_counter() - started) / 60
    val = build_val(config, model.skeleton, model.frame_window)
    views = kpnet.evaluate(model.to(best_device()), val, test_time=VIEWS, workers=config.data.workers)
    result = {
        "score": round(measures["score"], 1),
        "score_with_views": round(views["score"], 1),
        "rmse_px": round(measures["rmse_px"], 4),
        "minutes": round(minutes, 1),
        "epochs": config.train.epochs,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
