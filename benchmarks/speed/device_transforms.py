"""Measure the augmentation of whole batches against albumentations, in microseconds per image on one thread.

    python benchmarks/speed/device_transforms.py [RECIPE] [--batch 32] [--rounds 60]

Both sides take a recipe's transforms (default: facial_heatmap), on random images of its size with the recipe's points.
albumentations' side is `kpnet.data.transforms.augment.Augment`, image by image, then the batch as floats in [0, 1]; the
other side is `kpnet.data.transforms.device.DeviceAugment` on the batch of bytes, conversion included. The sides take
turns, and the ratio is that of their medians. With a GPU, the device's side is timed there too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import albumentations as A
import cv2
import numpy as np
import torch

from kpnet import load_config
from kpnet.core.allocator import keep_freed_memory
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import unit_images
from kpnet.data.transforms.augment import Augment
from kpnet.data.transforms.device import DeviceAugment

POINTS = A.KeypointParams(format="xy", remove_invisible=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="facial_heatmap")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    keep_freed_memory()  # as the command does
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    config = load_config(given.recipe)
    size, channels, count = config.model.input_size, config.model.in_channels, given.batch
    assert config.data.skeleton is not None
    skeleton = Skeleton.load(config.data.skeleton)
    on_device = DeviceAugment(config.data.transforms, skeleton, size)
    if on_device.on_cpu:
        print(on_device.describe())
    ours = Augment(config.data.transforms, skeleton)
    specs = [{each: {}} if isinstance(each, str) else each for each in config.data.transforms]
    alone = A.Compose(
        [getattr(A, name)(**options) for each in specs for name, options in each.items()],
        keypoint_params=POINTS,
    )
    rng = np.random.default_rng(0)
    shape = (count, *size) if channels == 1 else (count, *size, channels)
    images = rng.integers(0, 256, shape, np.uint8)
    xy = rng.uniform(10, min(size) - 10, (count, len(skeleton), 2))
    planes = (
        torch.from_numpy(images)[:, None] if channels == 1 else torch.from_numpy(images).movedim(-1, 1).contiguous()
    )
    batch = {
        "keypoints": torch.rand(count, len(skeleton), 2) - 0.5,
        "visible": torch.ones(count, len(skeleton), dtype=torch.bool),
        "weight": torch.ones(count, len(skeleton)),
    }

    def floats(augmented: list[np.ndarray]) -> torch.Tensor:
        stacked = torch.from_numpy(np.stack(augmented))
        return unit_images(stacked[:, None] if channels == 1 else stacked.movedim(-1, 1))

    def device_side(device: str) -> Callable[[int], object]:
        there = {key: value.to(device) for key, value in batch.items()}
        generator, sent = torch.Generator(device), planes.to(device)

        def augment(turn: int) -> object:
            result = on_device({**there, "image": unit_images(sent)}, generator.manual_seed(turn))
            if device == "cuda":
                torch.cuda.synchronize()
            return result

        return augment

    jobs: dict[str, Callable[[int], object]] = {
        "albumentations alone": lambda turn: floats(
            [alone(image=images[i], keypoints=xy[i])["image"] for i in range(count)]
        ),
        "kpnet, image by image": lambda turn: floats([ours(images[i], xy[i], turn + i)[0] for i in range(count)]),
        "kpnet, batches on the CPU": device_side("cpu"),
    }
    if torch.cuda.is_available():
        jobs["kpnet, batches on the GPU"] = device_side("cuda")
    clock = time.perf_counter if torch.cuda.is_available() else time.thread_time  # a GPU's work is no thread's time
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(-3, given.rounds):  # the first fill the caches
        for name, job in jobs.items():
            start = clock()
            job(max(turn, 0))
            if turn >= 0:
                seconds[name].append((clock() - start) / count)
    first = median(seconds["albumentations alone"])
    for name, own in seconds.items():
        print(f"{name:28} {1e6 * median(own):6.0f} us an image   {first / median(own):5.2f} x as fast")


if __name__ == "__main__":
    main()
