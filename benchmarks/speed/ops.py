"""Compare decoding and encoding with dsntnn, kornia and numpy loops per point: time and peak memory, side by side.

    python benchmarks/speed/ops.py [--device cuda] [--repeats 21]

Times are medians of interleaved repeats; on a CPU they are one thread's processor time. Soft-argmax is measured forward
and backward. On a CPU everything runs twice, because glibc's allocator matters more than the arithmetic: once with
memory that the process keeps, once with fresh pages for each tensor of 4 MB and more (the default lies between). Peak
memory is the highest sum of live bytes that a call allocates beyond its inputs: the allocator's own events on a CPU
(`torch.profiler`), `max_memory_allocated` on a GPU, `tracemalloc` for numpy. The other libraries (`pip install dsntnn
kornia`) and kpnet must agree before anything is timed. The numpy loops do what the usual codecs do, sample by sample on
the CPU: DARK is an argmax, an 11-cell blur, a logarithm and a Taylor step per point; encoding pastes a 3-sigma window
per point.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import random
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # before torch: no lines of the profiler's own

import cv2
import numpy as np
import torch
from memory import peak_bytes
from torch import Tensor

from kpnet import decoding
from kpnet.coordinates import normalized_to_pixel
from kpnet.rendering import render_gaussian2d

SHAPES = ((64, 17, 64, 48), (256, 15, 24, 24))
SIGMA = 2.0
BLUR, KERNEL = 2.0, 11  # cv2's own sigma for 11 cells is 2.0
MEMORY = {
    "kept": {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**33)},
    "fresh": {"MALLOC_MMAP_THRESHOLD_": str(2**22)},
}


def dark_loop(maps: np.ndarray, blurred: bool) -> np.ndarray:
    """Return DARK's cells (B, K, 2) of probability maps (B, K, h, w), sample by sample and point by point."""
    return np.stack([dark_sample(sample, blurred) for sample in maps])


def dark_sample(maps: np.ndarray, blurred: bool) -> np.ndarray:
    """Return DARK's cells (K, 2) of one sample's maps (K, h, w)."""
    count, height, width = maps.shape
    y, x = np.unravel_index(maps.reshape(count, -1).argmax(1), (height, width))
    xy = np.stack([x, y], -1).astype(np.float32)
    log = np.log(np.maximum(smooth(maps) if blurred else maps, 1e-30))
    for k, (i, j) in enumerate(zip(y, x, strict=True)):
        if 1 <= i < height - 1 and 1 <= j < width - 1:
            z = log[k]
            slope = np.array([z[i, j + 1] - z[i, j - 1], z[i + 1, j] - z[i - 1, j]]) / 2
            xx = z[i, j + 1] - 2 * z[i, j] + z[i, j - 1]
            yy = z[i + 1, j] - 2 * z[i, j] + z[i - 1, j]
            cross = (z[i + 1, j + 1] - z[i + 1, j - 1] - z[i - 1, j + 1] + z[i - 1, j - 1]) / 4
            if xx * yy - cross**2 > 0:
                xy[k] -= np.linalg.inv(np.array([[xx, cross], [cross, yy]])) @ slope
    return xy


def smooth(maps: np.ndarray) -> np.ndarray:
    """Blur each map (K, h, w) in a frame of zeros and scale it back to its maximum."""
    count, height, width = maps.shape
    frame = KERNEL // 2
    smoothed = np.empty_like(maps)
    for k in range(count):
        padded = np.zeros((height + 2 * frame, width + 2 * frame), maps.dtype)
        padded[frame:-frame, frame:-frame] = maps[k]
        inner = cv2.GaussianBlur(padded, (KERNEL, KERNEL), 0)[frame:-frame, frame:-frame]
        smoothed[k] = inner * (maps[k].max() / inner.max())
    return smoothed


def encode_loop(cells: np.ndarray, size: tuple[int, int], rounded: bool) -> np.ndarray:
    """Return maps (B, K, h, w) of points (B, K, 2) in cells: one stamp at whole cells (MSRA), or exact ones (UDP)."""
    return np.stack([encode_sample(sample, size, rounded) for sample in cells])


def encode_sample(cells: np.ndarray, size: tuple[int, int], rounded: bool) -> np.ndarray:
    """Return the maps (K, h, w) of one sample's points (K, 2)."""
    height, width = size
    maps = np.zeros((len(cells), height, width), np.float32)
    reach = math.ceil(3 * SIGMA)
    offsets = np.arange(-reach, reach + 1, dtype=np.float32)
    stamp = np.exp(-(offsets**2 + offsets[:, None] ** 2) / (2 * SIGMA**2))
    for k in range(len(cells)):
        center = np.floor(cells[k] + 0.5).astype(np.int64)
        (left, top), (right, bottom) = center - reach, center + reach + 1
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            continue
        window = stamp
        if not rounded:
            dx, dy = offsets + (center[0] - cells[k, 0]), offsets + (center[1] - cells[k, 1])
            window = np.exp(-(dx**2 + dy[:, None] ** 2) / (2 * SIGMA**2))
        region = maps[k, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        window = window[max(-top, 0) : height - top, max(-left, 0) : width - left]
        np.maximum(region, window, out=region)
    return maps


def by_kornia(logits: Tensor) -> Tensor:
    """Run kornia's soft-argmax, and move its -1 and 1 from the outermost cells' centres to their outer edges."""
    from kornia.geometry.subpix import spatial_expectation2d, spatial_softmax2d

    height, width = logits.shape[-2:]
    xy = spatial_expectation2d(spatial_softmax2d(logits), normalized_coordinates=True)
    return xy * xy.new_tensor([(width - 1) / width, (height - 1) / height])


def by_dsntnn(logits: Tensor) -> Tensor:
    """Run dsntnn's soft-argmax."""
    import dsntnn

    return dsntnn.dsnt(dsntnn.flat_softmax(logits))


@dataclass
class Call:
    """One way to do a job, and its measurements."""

    action: Callable[[], object]
    numpy: bool = False
    seconds: list[float] = field(default_factory=list)
    peak: int = 0

    @property
    def milliseconds(self) -> float:
        return statistics.median(self.seconds) * 1e3


class Inputs:
    """Inputs of the calls of one shape: random logits with a Gaussian peak each, and the points."""

    def __init__(self, shape: tuple[int, int, int, int], device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.size = shape[2:]
        self.xy = torch.rand(*shape[:2], 2, generator=generator) * 1.6 - 0.8
        maps = render_gaussian2d(self.xy, self.size, SIGMA).clamp(min=1e-20)
        self.probabilities = maps.numpy()
        self.cells = normalized_to_pixel(self.xy, self.size).numpy()
        self.log_maps = maps.log().to(device)
        self.logits = (self.log_maps + torch.randn(shape, generator=generator).to(device)).requires_grad_()
        self.upstream = torch.randn(*shape[:2], 2, generator=generator).to(device)
        self.points = self.xy.to(device)

    def step(self, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        xy = function(self.logits)
        return xy.detach(), torch.autograd.grad(xy, self.logits, self.upstream)[0]

    def check(self) -> None:
        """Check that the results agree, so that the same work is timed."""
        xy, slope = self.step(decoding.soft_argmax2d)
        for other in (by_dsntnn, by_kornia):
            other_xy, other_slope = self.step(other)
            torch.testing.assert_close(xy, other_xy, atol=1e-5, rtol=0)
            torch.testing.assert_close(slope, other_slope, atol=1e-5, rtol=0)
        for blur in (0.0, BLUR):
            ours = normalized_to_pixel(decoding.dark_decode2d(self.log_maps, blur), self.size).cpu().numpy()
            np.testing.assert_allclose(ours, dark_loop(self.probabilities, blur > 0), atol=0.02)
        rendered = render_gaussian2d(self.points, self.size, SIGMA).cpu().numpy()
        np.testing.assert_allclose(rendered, encode_loop(self.cells, self.size, rounded=False), atol=math.exp(-4.0))

    def jobs(self) -> dict[str, dict[str, Call]]:
        p, logs = self.probabilities, self.log_maps
        ways = {"kpnet": decoding.soft_argmax2d, "dsntnn": by_dsntnn, "kornia": by_kornia}
        return {
            "soft-argmax": {name: Call(partial(self.step, way)) for name, way in ways.items()},
            "DARK, blurred": {
                "kpnet": Call(lambda: decoding.dark_decode2d(logs, BLUR)),
                "numpy": Call(lambda: dark_loop(p, True), numpy=True),
            },
            "DARK": {
                "kpnet": Call(lambda: decoding.dark_decode2d(logs)),
                "numpy": Call(lambda: dark_loop(p, False), numpy=True),
            },
            "encoding": {
                "kpnet": Call(lambda: render_gaussian2d(self.points, self.size, SIGMA)),
                "numpy, rounded": Call(lambda: encode_loop(self.cells, self.size, True), numpy=True),
                "numpy, exact": Call(lambda: encode_loop(self.cells, self.size, False), numpy=True),
            },
            "local soft-argmax, radius 5": {
                "kpnet": Call(lambda: self.step(lambda z: decoding.local_soft_argmax2d(z, 5)))
            },
            "quarter offset": {"kpnet": Call(lambda: decoding.quarter_offset2d(logs))},
        }


def peak_of(call: Call, device: str) -> int:
    """Return the highest sum of live bytes allocated during one call."""
    if call.numpy:
        tracemalloc.start()
        call.action()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call.action()
        return torch.cuda.max_memory_allocated() - before
    return peak_bytes(call.action)


def measure(job: dict[str, Call], device: str, repeats: int) -> None:
    """Time the calls of a job in turn, and take their peak memory."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    for call in job.values():
        call.action()
    for _ in range(repeats):
        for call in random.sample([*job.values()], len(job)):  # in turn, each would always find one other's cache
            start = clock()
            call.action()
            if device == "cuda":
                torch.cuda.synchronize()
            call.seconds.append(clock() - start)
    for call in job.values():
        call.peak = peak_of(call, device)


def figures(shape: tuple[int, ...], jobs: dict[str, dict[str, Call]]) -> list[str]:
    """Return a line for each goal that kpnet set itself on one CPU thread."""
    large = shape == SHAPES[0]
    leads = (
        ("soft-argmax", "dsntnn", 2 if large else 1),
        ("soft-argmax", "kornia", 4 if large else 1),
        ("DARK, blurred", "numpy", 20),
        ("encoding", "numpy, rounded", 4 if large else 20),
    )
    lines = []
    for job, other, goal in leads:
        ratio = jobs[job][other].milliseconds / jobs[job]["kpnet"].milliseconds
        lines.append(f"{shape} {job}: {ratio:.2f} x as fast as {other} (at least {goal}): {verdict(ratio >= goal)}")
    for job, calls in jobs.items():
        ratio = calls["kpnet"].peak / (4 * math.prod(shape))
        lines.append(f"{shape} {job}: peak memory {ratio:.2f} x the maps' (at most 2): {verdict(ratio <= 2)}")
    return lines


def verdict(reached: bool) -> str:
    return "reached" if reached else "missed"


def compare(device: str, repeats: int) -> None:
    """Measure every job at every shape, and print the table and the goals."""
    print("| shape | job | by | ms | to kpnet | peak MB | of the maps |\n|---|---|---|---:|---:|---:|---:|")
    lines = []
    for shape in SHAPES:
        inputs = Inputs(shape, device)
        inputs.check()
        jobs = inputs.jobs()
        for job, calls in jobs.items():
            measure(calls, device, repeats)
            for name, call in calls.items():
                times = f"{call.milliseconds:.2f} | {call.milliseconds / calls['kpnet'].milliseconds:.1f} x"
                memory = f"{call.peak / 1e6:.1f} | {call.peak / (4 * math.prod(shape)):.2f}"
                print(f"| {shape} | {job} | {name} | {times} | {memory} |", flush=True)
        lines += figures(shape, jobs)
    print("\n" + "\n".join(lines), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--memory", choices=tuple(MEMORY), help=argparse.SUPPRESS)
    options = parser.parse_args()
    missing = [name for name in ("dsntnn", "kornia") if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"the comparison needs other libraries: pip install {' '.join(missing)}")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if options.device == "cuda" or options.memory:
        compare(options.device, options.repeats)
        return
    for memory, environment in MEMORY.items():
        print(f"\nOne CPU thread, {memory} memory\n", flush=True)
        command = [sys.executable, __file__, "--memory", memory, "--repeats", str(options.repeats)]
        subprocess.run(command, env=os.environ | environment, check=True)


if __name__ == "__main__":
    main()
