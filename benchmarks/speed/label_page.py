"""Measure the server of `kpnet label` on 10,000 small images: opening, the next image, a saved label, memory.

Each is measured with the labels as CSV and as COCO JSON; the file of labels is also opened by its name.

    python benchmarks/speed/label_page.py [--images 10000] [--side 96] [--shown 300]

The page and its browser are not measured: requests go to the application in this process, in the page's order. What the
next image costs beside reading and encoding it is a ratio of medians, of calls that alternate. Half of the images have
labels of 15 points, so that a saved label writes a file of that size.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from starlette.testclient import TestClient

from kpnet.core.skeleton import Skeleton
from kpnet.labelling.label_rows import Instance, Point
from kpnet.labelling.labels import LabelFile
from kpnet.labelling.server import build_app
from kpnet.labelling.session import Session
from kpnet.labelling.source import open_source

POINTS, PORT = 15, 8765


def write_images(folder: Path, count: int, side: int) -> None:
    """Write images of noise."""
    rng = np.random.default_rng(0)
    for k in range(count):
        cv2.imwrite(str(folder / f"{k:06d}.png"), rng.integers(0, 255, (side, side, 3), np.uint8))


def write_labels(path: Path, count: int, side: int) -> None:
    """Write labels of every second image."""
    rng = np.random.default_rng(0)
    names = [f"{k:06d}.png" for k in range(count)]
    points = rng.uniform(0, side, (count, POINTS, 2)).round(3).tolist()
    start = {k: (Instance(tuple(Point(x, y, 2, "person") for x, y in points[k])),) for k in range(0, count, 2)}
    skeleton = Skeleton(tuple(f"point_{k}" for k in range(POINTS)))
    LabelFile(path, names, skeleton, start).set_skeleton(skeleton)


def milliseconds(call: Callable[[], object]) -> float:
    """Return the time of one call."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def resident_mb() -> float:
    """Return the memory of this process, on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def describe(times: list[float]) -> str:
    return f"median {statistics.median(times):6.1f} ms, 95 % {np.quantile(times, 0.95):6.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--shown", type=int, default=300)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, args.images, args.side)
        for ending in (".csv", ".json"):
            labels = folder / f"labels{ending}"
            write_labels(labels, args.images, args.side)
            measure(labels, args.images, args.shown)
            labels.unlink()


def measure(labels: Path, images: int, count: int) -> None:
    """Measure the labelling of a folder of images, and print the times."""
    start, used = time.perf_counter(), time.process_time()
    session = Session(open_source(labels.parent))
    address = f"http://127.0.0.1:{PORT}/token/"
    with TestClient(build_app(session, "token", PORT), base_url=address) as client:
        order = client.get("api/state").json()["order"]
        client.get(f"api/image/{order[0]}").raise_for_status()
        opened, used, before = time.perf_counter() - start, time.process_time() - used, resident_mb()

        def show(index: int) -> None:
            client.get(f"api/labels/{index}").raise_for_status()
            client.get(f"api/image/{index}").raise_for_status()

        def save(index: int) -> None:
            body = {"revision": session.labels.revision, "instances": [{"points": point, "box": None}]}
            client.put(f"api/labels/{index}", json=body).raise_for_status()

        point = [[1.0, 2.0, 2, "person"]] + [None] * (POINTS - 1)
        shown, alone, saved, warm = [], [], [], 0.0
        for number, index in enumerate(order[1 : count + 1]):
            shown.append(milliseconds(partial(show, index)))
            alone.append(milliseconds(partial(session.image, index)))
            if number % 10 == 0:
                saved.append(milliseconds(partial(save, index)))
            warm = resident_mb() if number == 20 else warm
        after = resident_mb()
    session.close()
    start = time.process_time()
    Session(open_source(labels)).close()
    file = time.process_time() - start
    print(f"{labels.name}")
    print(f"open            {opened:.2f} s, {used:.2f} s of them the processor's, for {images} images")
    print(f"open the file   {file:.2f} s of the processor's")
    print(f"next image      {describe(shown)}: {statistics.median(shown) / statistics.median(alone):.1f} x")
    print(f"read and encode {describe(alone)}")
    print(f"saved label     {describe(saved)}")
    print(f"memory          {before:.0f} MB, {warm:.0f} after 20 images, {after:.0f} at the end")


if __name__ == "__main__":
    main()
