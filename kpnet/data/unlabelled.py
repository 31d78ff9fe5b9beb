"""Images without labels, for pretraining: a folder of images, an npz, or a CSV with an Image column."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kpnet.config.pretraining import PretrainConfig
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.data.formats.npz import IMAGES, check_images, read_npz
from kpnet.data.formats.pixel_csv import read_pixel_csv
from kpnet.data.images import FOREIGN_SUFFIXES, find_image_files, header_problem, read_image

_log = logging.getLogger("kpnet")


class Images(Protocol):
    """A sequence of N images, each uint8 (H, W) or (H, W, C), of any sizes. An array (N, H, W) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


class ImageFiles:
    """Image files, each read when it is needed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index])


class UnlabelledImages(KeypointDataset):
    """Images as samples without labels.

    They have two missing keypoints, a left and a right one, so that transforms that mirror the image are allowed.

    Args:
        images: The images.
        indices: Indices of the images to use. None: all.
        **common: Arguments of `KeypointDataset`.
    """

    skeleton = Skeleton.from_names(["left", "right"])

    def __init__(self, images: Images, indices: Sequence[int] | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.images = images
        self.indices = range(len(images)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images[self.indices[index]].copy(), np.full((2, 2), np.nan)


def build_images(config: PretrainConfig) -> tuple[UnlabelledImages, UnlabelledImages | None]:
    """Build the datasets of a pretraining.

    Args:
        config: The pretraining's config. Its `data.val` is a file, or a fraction of the images, selected by the seed.

    Returns:
        Training images with augmentation, and validation images without, or None where `data.val` is null.

    Raises:
        KpnetError: There are no images, or none left to train on.
    """
    data, seed = config.data, config.train.seed
    images, val = open_images(Path(data.root) / data.images), data.val
    indices = np.random.default_rng(seed).permutation(len(images)).tolist()
    common: dict[str, Any] = {"image_size": config.model.input_size, "in_channels": config.model.in_channels}
    held: UnlabelledImages | None = None
    if isinstance(val, str):
        held = UnlabelledImages(open_images(Path(data.root) / val), **common)
    elif val is not None:
        count = max(1, round(val * len(images)))
        if count >= len(images):
            raise KpnetError(
                f"data.val: {val:g} of {len(images)} images leaves none to train on; give more, or val: null"
            )
        held, indices = UnlabelledImages(images, indices[:count], **common), indices[count:]
    train = UnlabelledImages(images, sorted(indices), seed=seed, **common)
    if data.transforms:
        from kpnet.data.transforms.augment import Augment

        train.transform = Augment(data.transforms, train.skeleton)
    return train, held


def open_images(path: Path) -> Images:
    """Open the images of a folder and its subfolders, an npz or a CSV, or raise KpnetError if there are none."""
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        raise KpnetError(f"{path}: no such file or folder; expected a folder of images, an .npz or a .csv")
    if path.suffix.lower() == ".csv":
        return read_pixel_csv(path).images
    if path.suffix.lower() == ".npz":
        return check_images(path, read_npz(path, [IMAGES])[IMAGES])
    raise KpnetError(f"{path}: expected a folder of images, an .npz or a .csv")


def _of_folder(path: Path) -> ImageFiles:
    every = find_image_files(path)
    paths = [file for file in every if file.suffix.lower() not in FOREIGN_SUFFIXES] or every
    if len(paths) < len(every):
        other = next(file for file in every if file.suffix.lower() in FOREIGN_SUFFIXES)
        _log.warning("%s: %d files that cannot be read are left out: %s, …", path, len(every) - len(paths), other.name)
    # The first bytes show what is no image at all, before a training begins.
    problems = [problem for file in paths if (problem := header_problem(file)) is not None]
    if problems:
        raise KpnetError(f"{problems[0]} ({len(problems)} of {len(paths)} in {path}); replace or remove it")
    return ImageFiles(paths)
