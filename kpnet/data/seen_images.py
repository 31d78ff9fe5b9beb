"""The hashes that a run keeps of its images, by which data that the training saw is found, whatever its file's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from kpnet.core.errors import KpnetError
from kpnet.core.files import write_json
from kpnet.core.progress import progress
from kpnet.data.base import KeypointDataset
from kpnet.data.duplicates import pixel_digest

IMAGES = "images.json"  # in the run folder
HEX = 16  # of a digest's 32 digits: two of a million images share these with a probability of 3e-8


def image_hashes(dataset: KeypointDataset, bar: bool = False) -> dict[str, str]:
    """Return the hash of each image of a dataset, of its pixels before any crop or augmentation.

    Args:
        dataset: The samples. An image of several samples is read once; one that cannot be read has no hash.
        bar: Show a progress bar in a terminal.

    Returns:
        The name of the first sample's image of each hash, in the dataset's order.
    """
    names: dict[str, str] = {}
    done: set[str] = set()
    indices = range(len(dataset))
    for index in progress(indices, "hashing images") if bar else indices:
        key = dataset.image_key(index)
        if key in done:
            continue
        done.add(key)
        try:
            image = dataset.read(index)[0]
        except KpnetError:  # the training says so, if it uses the image at all
            continue
        names.setdefault(pixel_digest(image).hex()[:HEX], dataset.image_name(index))
    return names


def write_seen_images(run: Path, train: KeypointDataset, val: KeypointDataset | None, bar: bool = False) -> None:
    """Write the hashes of a run's images into its folder; those that are there stay, as a resumed run saw them too.

    Args:
        run: The run folder.
        train: The training data.
        val: The validation data, or None.
        bar: Show a progress bar in a terminal.
    """
    before = read_seen_images(run) or {}
    found = {"train": image_hashes(train, bar), "val": {} if val is None else image_hashes(val, bar)}
    write_json(run / IMAGES, {split: sorted({*before.get(split, ()), *hashes}) for split, hashes in found.items()})


def read_seen_images(run: Path) -> Mapping[str, frozenset[str]] | None:
    """Return the hashes of a run's images, of `train` and of `val`; None for a run that keeps none.

    Args:
        run: The run folder.

    Raises:
        KpnetError: The file is damaged.
    """
    path = run / IMAGES
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {split: frozenset(map(str, values[split])) for split in ("train", "val")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KpnetError(
            f"{path}: not the hashes of a run's images: {type(error).__name__}: {error}; "
            "delete it, and data that the run has seen is known by its file alone"
        ) from None
