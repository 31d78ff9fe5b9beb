"""Time `kpnet predict` on 300 images of 640x480 with the mouse recipe's network, and what makes it fast.

    python benchmarks/speed/predict.py [MODEL IMAGES] [--base CHECKOUT] [--rounds 3]

MODEL and IMAGES: by default an untrained network and drawn images. CHECKOUT: another version of kpnet, which must be
able to read MODEL, to compare the command with. Prints the processor time for each image at batch sizes of 1, 8 and 32,
with and without kept memory and folded batch norms; then the processor seconds (user and system, imports included) and
the peak memory of the commands, which run in turn on one thread, and their ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

import kpnet
from kpnet.models.folding import fold_batch_norms

ROOT = Path(__file__).parents[2]
COUNT = 300
NAMES = ["snout", "leftear", "rightear", "tailbase"]
# Runs one command, and prints what it took; its own process has no other children.
MEASURE = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "kpnet.cli", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime, used.ru_stime, used.ru_maxrss / 1024)
"""


def make(folder: Path) -> tuple[Path, Path]:
    """Save an untrained network of the mouse recipe, and write textured images."""
    torch.manual_seed(0)
    kpnet.build_model(ROOT / "examples" / "mouse" / "mouse.yaml", skeleton=NAMES).save(folder / "model")
    texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (880, 1040, 3), dtype=np.uint8), (0, 0), 2)
    (folder / "images").mkdir()
    for number in range(COUNT):
        cv2.imwrite(str(folder / "images" / f"{number:03}.png"), texture[number:][:480, number:][:, :640])
    return folder / "model", folder / "images"


def command(tree: Path, model: Path, images: Path) -> tuple[float, ...]:
    """Return user and system seconds and the peak in MB of `kpnet predict` of a checkout."""
    with tempfile.TemporaryDirectory() as out:
        called = [sys.executable, "-c", MEASURE, "predict", str(model.resolve()), str(images.resolve()), "--out", out]
        environment = os.environ | {"PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1"}
        # Not in a checkout: Python would import kpnet from the working folder.
        done = subprocess.run(called, env=environment, cwd=out, check=True, capture_output=True, text=True)
    return tuple(map(float, done.stdout.split()))


def compare_commands(trees: dict[str, Path], model: Path, images: Path, rounds: int) -> None:
    """Print what the command takes in each checkout, in turn."""
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in trees}
    for _ in range(rounds):
        for name, tree in trees.items():
            taken[name].append(command(tree, model, images))
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in taken.items()}
    for name, (user, system, peak) in medians.items():
        print(f"kpnet predict, {name}: {user:.1f} s user, {system:.1f} s system, {peak:.0f} MB")
    if "base" in medians:
        (*own, own_peak), (*other, other_peak) = medians["this"], medians["base"]
        print(f"processor seconds: {sum(own) / sum(other):.2f} x, peak memory: {own_peak / other_peak:.2f} x")


def compare_levers(path: Path, rounds: int) -> None:
    """Print the processor time for each image, relative to a plain model at batch size 1."""
    torch.set_num_threads(1)
    plain = kpnet.load_model(path)
    models = {"plain": plain, "folded": fold_batch_norms(plain)}
    images = torch.rand(32, plain.config.in_channels, *plain.config.input_size)
    medians: dict[tuple[str, str, int], float] = {}
    for memory in ("returned", "kept"):
        if memory == "kept" and not kpnet.keep_freed_memory():
            break
        taken: dict[tuple[str, int], list[float]] = {}
        for _ in range(2 * rounds + 1):
            for name, model in models.items():
                for size in (1, 8, 32):
                    before = time.process_time()
                    for batch in images.split(size):
                        model.infer(batch)
                    taken.setdefault((name, size), []).append((time.process_time() - before) / len(images))
        medians |= {(memory, *key): statistics.median(values) for key, values in taken.items()}
    first = medians["returned", "plain", 1]
    for (memory, name, size), seconds in medians.items():
        print(f"memory {memory}, {name}, batch {size}: {1e3 * seconds:.1f} ms an image, {seconds / first:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path, metavar="MODEL IMAGES")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if len(options.data) not in (0, 2):
        parser.error("expected a model and a folder of images, or neither")
    trees = {"this": ROOT} | ({"base": options.base} if options.base else {})
    with tempfile.TemporaryDirectory() as folder:
        model, images = options.data or make(Path(folder))
        compare_levers(model, options.rounds)  # before the commands, whose peaks are their own
        compare_commands(trees, model, images, options.rounds)


if __name__ == "__main__":
    main()
