"""What a training step costs with the backbone frozen, against the whole step.

    python benchmarks/speed/frozen_step.py [--threads 1] [BACKBONE ...]

Both models train on one batch of 32 images of 96x96 in memory, their steps taken in turn, in one process. Memory is
what the step adds at its peak, in the profiler's account of every tensor. At most 0.6 x is asked for.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from kpnet import build_model
from kpnet.models.keypoint_model import KeypointModel

BATCH, SIDE, POINTS, REPEATS = 32, 96, 15, 15


def stepper(model: KeypointModel) -> Callable[[], None]:
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


def peak_memory(step: Callable[[], None]) -> int:
    """Bytes that a step holds at most, beyond what is there before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    held = most = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


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
        most, less = (peak_memory(step) / 1e6 for step in steps)
        shares = frozen / full, less / most
        print(
            f"| {name} | {full:.1f} | {frozen:.1f} | {shares[0]:.2f} x | {most:.0f} | {less:.0f} | {shares[1]:.2f} x |"
        )
        print(f"  at most 0.6 x: {'reached' if max(shares) <= 0.6 else 'missed'}", flush=True)


if __name__ == "__main__":
    main()
