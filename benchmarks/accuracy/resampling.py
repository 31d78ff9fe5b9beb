"""Measure how far an exported model's points move where a program resizes images in another way than kpnet.

    python benchmarks/accuracy/resampling.py MODEL.onnx VAL.csv

MODEL.onnx is a model of faces that `kpnet export` wrote, with its `predict.py` beside it. The faces are enlarged with
cubic interpolation, and get noise of 8 grey levels, as photographs have it; they then shrink to the input's size by
each method. Distances are in pixels of the input.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from kpnet.data import KaggleCSV

FACES, FACTORS, NOISE = 100, (3, 10), 8
METHODS: dict[str, Callable[[np.ndarray, tuple[int, int]], np.ndarray]] = {
    "Pillow BOX": lambda image, size: np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)),
    "Pillow LANCZOS": lambda image, size: np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)),
    "Pillow BILINEAR": lambda image, size: np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)),
    "OpenCV INTER_LINEAR": lambda image, size: cv2.resize(image, size, interpolation=cv2.INTER_LINEAR),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("labels", type=Path)
    given = parser.parse_args()
    sys.path.insert(0, str(given.model.parent))
    predict = importlib.import_module("predict")
    model, faces = predict.Model(str(given.model)), KaggleCSV(given.labels)
    print("| factor | method | mean | 99 % | largest |\n| ---: | --- | ---: | ---: | ---: |")
    for factor in FACTORS:
        images = []
        for index in range(min(FACES, len(faces))):
            small = np.squeeze(faces.read(index)[0])
            large = cv2.resize(small, (small.shape[1] * factor, small.shape[0] * factor), interpolation=cv2.INTER_CUBIC)
            noise = np.random.default_rng(index).normal(0, NOISE, large.shape)
            images.append(np.clip(large + noise, 0, 255).astype(np.uint8))
        size = model.info["input_size"]
        channels = model.info["channels"]
        views = [predict.letterbox(predict.to_channels(image, channels), size) for image in images]
        own = model.run(views)["points"]
        for name, resize in METHODS.items():
            others = [predict.to_channels(resize(image, size[::-1]), channels) for image in images]
            points = model.run([(other, matrix) for other, (_, matrix) in zip(others, views, strict=True)])["points"]
            apart = np.linalg.norm(points - own, axis=-1) / factor
            print(f"| {factor} | {name} | {apart.mean():.2f} | {np.quantile(apart, 0.99):.2f} | {apart.max():.2f} |")


if __name__ == "__main__":
    main()
