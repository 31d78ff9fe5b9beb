"""Time `kpnet predict --engine ray` with two workers against the plain engine, one thread each.

    python benchmarks/speed/ray_engine.py [MODEL IMAGES] [--workers 2] [--few 2000]

MODEL and IMAGES: by default an untrained network of the facial recipe, and 20,000 drawn images of 96x96 pixels. Prints
the wall and processor seconds of both engines over all images and over the first few, of which each worker needs a
thousand; from their differences, which leave out what each needs to start, images/s and processor time for each image;
and the peak memory of the command, which is Ray's driver without its workers. Wall times mean something on cores that
are idle, processor times on others.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

import kpnet

ROOT = Path(__file__).parents[2]
COUNT = 20_000
# Runs the command in this process, and prints its own peak in MB.
MEASURE = """
import resource, sys
from kpnet.cli import main
sys.argv = ["kpnet", *sys.argv[1:]]
try:
    main()
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def make(folder: Path) -> tuple[Path, Path]:
    """Save an untrained network of the facial recipe, and write textured images."""
    torch.manual_seed(0)
    kpnet.build_model("facial_heatmap", skeleton="facial15").save(folder / "model")
    texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8), (0, 0), 2)
    (folder / "images").mkdir()
    for number in range(COUNT):
        y, x = divmod(number % 40_000, 200)
        cv2.imwrite(str(folder / "images" / f"{number:06}.jpg"), texture[y:][:96, x:][:, :96])
    return folder / "model", folder / "images"


def processor_seconds(pid: int) -> dict[int, float]:
    """Return what a process and Ray's workers have used so far, by their numbers."""
    used = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if int(path.parent.name) == pid or name.startswith("ray::MapWorker"):
            user, system = rest.split()[11:13]
            used[int(path.parent.name)] = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return used


def measure(model: Path, images: Path, workers: int | None) -> tuple[float, float, float]:
    """Return wall seconds, processor seconds of all processes, and the peak in MB of the command's own."""
    with tempfile.TemporaryDirectory() as out:
        engine = [] if workers is None else ["--engine", "ray"]
        called = [sys.executable, "-c", MEASURE, "predict", *map(str, (model, images)), "--out", f"{out}/out", *engine]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        cores = sorted(os.sched_getaffinity(0))[: workers or 1]
        start = time.perf_counter()
        # As many cores as workers, so that the plain engine's reading thread does not take a second one.
        pinned = ["taskset", "--cpu-list", ",".join(map(str, cores)), *called]
        process = subprocess.Popen(pinned, env=environment, cwd=out, stdout=subprocess.PIPE, text=True)
        used: dict[int, float] = {}
        while process.poll() is None:  # Ray's workers are no children that are waited for
            used |= processor_seconds(process.pid)
            time.sleep(0.2)
        wall, said = time.perf_counter() - start, process.communicate()[0]
        found = re.search(r"peak (\S+)", said)
        assert found is not None, said
        return wall, sum(used.values()), float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", type=Path, metavar="MODEL IMAGES")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--few", type=int, default=2000)
    arguments = parser.parse_args()
    if len(arguments.inputs) not in (0, 2):
        parser.error("expected both MODEL and IMAGES, or neither")
    with tempfile.TemporaryDirectory() as folder:
        model, images = arguments.inputs or make(Path(folder))
        files = sorted(images.resolve().glob("*.jpg"))
        few = Path(folder) / "few"
        few.mkdir()
        for file in files[: arguments.few]:
            (few / file.name).symlink_to(file)
        rates = {}
        for name, workers in (("plain", None), ("ray", arguments.workers)):
            short, long = (measure(model.resolve(), each.resolve(), workers) for each in (few, images))
            count = len(files) - arguments.few
            rates[name] = count / (long[0] - short[0])
            each = 1000 * (long[1] - short[1]) / count
            print(f"{name}: {rates[name]:.0f} images/s, {each:.2f} ms of processor time for each")
            print(f"  {arguments.few} images: {short[0]:.0f} s, {short[1]:.0f} s of processors, {short[2]:.0f} MB")
            print(f"  {len(files)} images: {long[0]:.0f} s, {long[1]:.0f} s of processors, {long[2]:.0f} MB")
        print(
            f"ray with {arguments.workers} workers: {rates['ray'] / rates['plain']:.2f} x the plain engine's images/s"
        )


if __name__ == "__main__":
    main()
