"""Measure what a training step costs with the backbone frozen, relative to the whole step.

    python benchmarks/speed/frozen_step.py [--threads 1] [BACKBONE ...]

Both models train on one batch of 32 images of 96x96 pixels in memory; their steps alternate, in one process. Memory is
what a step adds at its peak, by the profiler's account of every tensor. The goal is at most 0.6 x of both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from memory import peak_bytes

from kpnet import build_model
from kpnet.models.keypoint_model import KeypointModel

BATCH, SIDE, POINTS, REPEATS = 32, 96, 15, 15


def stepper(model: KeypointModel) -> Callable[[], None]:
    """Return a function that takes one training step on a fixed batch."""
    torch.manual_seed(0)
    images, target = torch.rand(BATCH, 3, SIDE, SIDE), torch.rand(BATCH, POINTS, 2) - 0.5
    weight = torch.ones(BATCH, POINTS)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        loss = torch.stack(list(model.head.loss(model.output(images), target, weight).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "backbones", nargs="*", default=["torchvision/squeezenet1_0", "resnet18", "mobilenetv3_small_100"]
    )
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("| backbone | ms | frozen | | peak MB | frozen | |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in given.backbones:
        steps = []
        for freeze in (False, True):
            model = build_model(backbone=name, head="heatmap", num_keypoints=POINTS, input_size=SIDE).train()
            if freeze:
                model.freeze_backbone()
            steps.append(stepper(model))
        times: list[list[float]] = [[], []]
        for repeat in range(REPEATS + 3):
            for step, taken in zip(steps, times, strict=True):
                start = time.perf_counter()
                step()
                if repeat >= 3:  # the first ones warm up
                    taken.append(time.perf_counter() - start)
        full, frozen = (statistics.median(taken) * 1e3 for taken in times)
        most, less = (peak_bytes(step) / 1e6 for step in steps)
        shares = frozen / full, less / most
        print(
            f"| {name} | {full:.1f} | {frozen:.1f} | {shares[0]:.2f} x | {most:.0f} | {less:.0f} | {shares[1]:.2f} x |"
        )
        print(f"  at most 0.6 x: {'reached' if max(shares) <= 0.6 else 'missed'}", flush=True)


if __name__ == "__main__":
    main()
