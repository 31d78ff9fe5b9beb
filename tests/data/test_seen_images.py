"""The hashes that a run keeps of its images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.format_files import PICTURES, write_coco

from kpnet.core.errors import KpnetError
from kpnet.data import KaggleCSV
from kpnet.data.build import open_dataset
from kpnet.data.seen_images import IMAGES, image_hashes, read_seen_images, write_seen_images


def test_each_image_is_hashed_once_and_a_broken_one_is_left_out(tmp_path: Path) -> None:
    """An image of several samples has one hash."""
    dataset = open_dataset(write_coco(tmp_path))
    hashes = image_hashes(dataset)
    assert len(dataset) > len(hashes) == len(PICTURES)
    assert all(len(digest) == 16 for digest in hashes)
    broken = dataset.image_file(0)
    assert broken is not None
    broken.write_bytes(b"no image")
    assert image_hashes(dataset) == dict(list(hashes.items())[1:])


def test_a_resumed_run_keeps_what_it_saw_before(tmp_path: Path, make_csv: Callable[[int, int], str]) -> None:
    one, two = (tmp_path / "one.csv", tmp_path / "two.csv")
    for seed, path in enumerate((one, two)):
        path.write_text(make_csv(3, seed))
    assert read_seen_images(tmp_path) is None
    write_seen_images(tmp_path, KaggleCSV(one), None)
    write_seen_images(tmp_path, KaggleCSV(two), KaggleCSV(one))
    seen = read_seen_images(tmp_path)
    assert seen == {
        "train": {*image_hashes(KaggleCSV(one)), *image_hashes(KaggleCSV(two))},
        "val": {*image_hashes(KaggleCSV(one))},
    }
    (tmp_path / IMAGES).write_text("[]")
    with pytest.raises(KpnetError, match=r"images\.json: not the hashes of a run's images"):
        read_seen_images(tmp_path)
