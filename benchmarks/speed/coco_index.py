"""Time the indexing of a COCO keypoints file of train2017's size against json.load, and measure its memory.

    python benchmarks/speed/coco_index.py [FOLDER]

The file is written to FOLDER (default: a temporary one) if it is not there: 262,465 made-up people on 64,115 images
that do not exist. Prints the seconds of both, their ratio, and the memory that a loader's worker has for itself after
it has read all labels.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np

from kpnet.core.skeleton import Skeleton
from kpnet.data.formats import coco, image_files

PEOPLE, IMAGES, LABELLED = 262_465, 64_115, 149_813  # as train2017 has; LABELLED people have a labelled point


def write(path: Path) -> None:
    """Write a file as long as the real one, with segments of 66 numbers."""
    rng, person = np.random.default_rng(0), Skeleton.load("coco17")
    images = [
        {"license": 1, "file_name": f"{i:012d}.jpg", "coco_url": f"http://images.cocodataset.org/train2017/{i:012d}.jpg",
         "height": 480, "width": 640, "date_captured": "2013-11-14 17:02:52", "id": i}
        for i in range(IMAGES)
    ]  # fmt: skip
    xy = rng.integers(0, 480, (PEOPLE, 17, 2))
    seen = rng.integers(0, 3, (PEOPLE, 17)) * (np.arange(PEOPLE) < LABELLED)[:, None]
    points = np.concatenate([xy * (seen > 0)[..., None], seen[..., None]], -1).reshape(PEOPLE, 51).tolist()
    segments = rng.uniform(0, 480, (PEOPLE, 66)).round(2).tolist()
    annotations = [
        {"segmentation": [segments[i]], "num_keypoints": int((seen[i] > 0).sum()), "area": 1234.5, "iscrowd": 0,
         "keypoints": points[i], "image_id": i % IMAGES, "bbox": [10.5, 20.25, 100.75, 200.0],
         "category_id": 1, "id": i}
        for i in range(PEOPLE)
    ]  # fmt: skip
    category = {"supercategory": "person", "id": 1, "name": "person", "keypoints": list(person.names), "skeleton": []}
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))


def own_megabytes() -> float:
    """Return the memory that this process shares with no other (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def read_all(dataset: coco.COCO, queue: multiprocessing.Queue) -> None:
    """Read every label, as a loader's worker does, and report the worker's own memory before and after."""
    before = own_megabytes()
    for index in range(len(dataset)):
        dataset.keypoints(index), dataset.box(index), dataset.image_name(index)
    queue.put((before, own_megabytes()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where the file is written, or lies already")
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp())
    path = folder / "person_keypoints.json"
    if not path.is_file():
        write(path)
    print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")
    # There are no images, and looking for them is not what is timed.
    image_files._exists = lambda folder, names: (True for _ in names)
    image_files.image_problem = lambda path: None
    for _ in range(2):
        start = time.perf_counter()
        with path.open() as file:
            json.load(file)
        plain = time.perf_counter() - start
        start = time.perf_counter()
        dataset = coco.COCO(path)
        ours = time.perf_counter() - start
        print(f"json.load {plain:.2f} s, index {ours:.2f} s: {ours / plain:.2f} x; {len(dataset)} samples")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=read_all, args=(dataset, queue))
    worker.start()
    before, after = queue.get()
    worker.join()
    print(f"a worker's own memory: {before:.0f} MB at its start, {after:.0f} MB after reading all labels")


if __name__ == "__main__":
    main()
