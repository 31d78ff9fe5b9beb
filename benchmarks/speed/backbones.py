"""Measure what a prediction costs with a transformer, relative to a ResNet-18, at 256x256.

    python benchmarks/speed/backbones.py [BACKBONE ...]

Models with the head heatmap and random weights; their passes alternate, in one process on one thread. The least
processor time of each counts: on a busy machine, other programs only add to it.
"""

from __future__ import annotations

import argparse
import time

import torch

from kpnet import build_model

SIDE, POINTS, REPEATS = 256, 15, 7
BACKBONES = ("vit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch16_224", "vit_small_patch14_dinov2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=BACKBONES)
    names = ["resnet18", *parser.parse_args().backbones]
    torch.set_num_threads(1)
    models = {n: build_model(backbone=n, head="heatmap", num_keypoints=POINTS, input_size=SIDE).eval() for n in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    images = torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        for _ in range(REPEATS):
            for name, model in models.items():
                start = time.thread_time()
                model(images)
                times[name].append(time.thread_time() - start)
    print("| backbone | parameters (M) | ms | relative |\n| --- | ---: | ---: | ---: |")
    for name, model in models.items():
        least = min(times[name])
        size = sum(p.numel() for p in model.parameters()) / 1e6
        print(f"| {name} | {size:.1f} | {least * 1e3:.0f} | {least / min(times['resnet18']):.2f} |")


if __name__ == "__main__":
    main()
