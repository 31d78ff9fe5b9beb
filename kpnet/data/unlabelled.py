"""Images without labels, for pretraining: a folder of pictures, an npz, a CSV with an Image column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from kpnet.config.pretraining import PretrainConfig
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.data.formats.npz import IMAGES, check_images, read_npz
from kpnet.data.formats.pixel_csv import read_pixel_csv
from kpnet.data.images import find_image_files, read_image


class Images(Protocol):
    """N images, each uint8 (H, W) or (H, W, C), of any sizes: an array is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


class ImageFiles:
    """Picture files, read as they are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index])


class UnlabelledImages(KeypointDataset):
    """Those of `images` that `indices` name, as samples all of whose points are missing.

    Two points, a left and a right one, so that a mirroring transform has sides to swap.
    """

    skeleton = Skeleton.from_names(["left", "right"])

    def __init__(self, images: Images, indices: Sequence[int] | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.images = images
        self.indices = range(len(images)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W) or (H, W, C), a copy, and (2, 2) NaN."""
        return self.images[self.indices[index]].copy(), np.full((2, 2), np.nan)


def build_images(config: PretrainConfig) -> tuple[UnlabelledImages, UnlabelledImages | None]:
    """Training images with augmentation, and validation images without: a file of their own, or a share by the seed."""
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
    """The images of a folder (and those below it), an npz or a CSV. Raises KpnetError for one that has none."""
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        raise KpnetError(f"{path}: no such file or folder; expected a folder of pictures, an .npz or a .csv")
    if path.suffix.lower() == ".csv":
        return read_pixel_csv(path).images
    if path.suffix.lower() == ".npz":
        return check_images(path, read_npz(path, [IMAGES])[IMAGES])
    raise KpnetError(f"{path}: expected a folder of pictures, an .npz or a .csv")


def _of_folder(path: Path) -> ImageFiles:
    paths = find_image_files(path)
    # By their first bytes alone: what is no picture at all is told before a training begins.
    bad = [f for f in paths if not cv2.haveImageReader(str(f))]
    if bad:
        raise KpnetError(
            f"{bad[0]}: not a picture that can be read ({len(bad)} of {len(paths)} in {path}); mend or remove it"
        )
    return ImageFiles(paths)
