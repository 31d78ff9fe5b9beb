"""Images and keypoints as arrays in one npz file, as `numpy.savez` writes it.

Layout: one `.npz` file with an instance in each row of its arrays:

- `images`: uint8 (N, H, W) or (N, H, W, 1 or 3), RGB.
- `keypoints`: numbers (N, K, 2), x and y in pixels, NaN where missing.

Optional:

- `names`: text (K,), names of the keypoints. Without it they are those of the skeleton, or called 0, 1, 2, …
- `visibility`: numbers (N, K) of 0 (absent, whatever its coordinates), 1 (hidden) and 2 (visible).
- `boxes`: numbers (N, 4), the edges x0, y0, x1, y1 of each instance, NaN where there is none.
- `image_names`: text (N,), the same for instances of one image. Rows of one name that have other pixels are other
  images, and get a number behind the name.

Coordinates: pixels, integers are pixel centres, as in kpnet. An image reaches from -0.5 to W - 0.5, and so do boxes.

Rows with an infinite coordinate are skipped with a warning. Points with a visibility other than 0, 1 and 2, and boxes
without area or outside their image, are left out with one. Arrays of other shapes or types are an error, and so are
pickled objects, which are never loaded.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError, did_you_mean, first_line
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.instances import InstanceDataset, Instances, tell_apart, unnamed_skeleton
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.unpacking import MAX_GIB, check_unpacked_size
from kpnet.data.formats.writing import check_one_size, sample_points, written_names

IMAGES = "images"
_OPTIONAL = ("names", "visibility", "boxes", "image_names")


@DATASETS.register("npz")
class NPZ(InstanceDataset):
    """Arrays `images` (N, H, W) or (N, H, W, C) and `keypoints` (N, K, 2) in one npz file, held in memory.

    Args:
        path: The npz file.
        max_gib: Size in memory, in GiB, up to which a file is read that is over twenty times as large unpacked.
        skeleton: Skeleton to use if its keypoint names are the file's, or if it has as many keypoints as a file
            without names. None: the file's names, or 0, 1, 2, …
        strict: Raise an error at the first row that cannot be used, instead of skipping it with a warning.
        **options: `complete_only` and the arguments of `KeypointDataset`.

    Attributes:
        pixels: The file's images, uint8 (N, H, W) or (N, H, W, C). Sample i is row `kept[i]`.

    Raises:
        KpnetError: The file has no such arrays, or no row in it can be used.

    Example:
        >>> np.savez("faces.npz", images=images, keypoints=keypoints, names=["nose", "left_eye", "right_eye"])
        >>> dataset = NPZ("faces.npz")
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_gib: float = MAX_GIB,
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        path = Path(path)
        arrays = read_npz(path, (IMAGES, "keypoints"), _OPTIONAL, max_gib)
        self.pixels = check_images(path, arrays[IMAGES])
        points = _array(path, arrays, "keypoints", (len(self.pixels), None, 2))
        assert points is not None
        points[np.isnan(points).any(-1)] = np.nan
        count, points_count = points.shape[:2]
        names = _array(path, arrays, "names", (points_count,), text=True)
        own = unnamed_skeleton(points_count, skeleton) if names is None else Skeleton.of_names(names.tolist())
        rows = np.arange(count).astype(str)
        image_names = _array(path, arrays, "image_names", (count,), text=True)
        skipped = Skipped(path, strict)
        own_names = rows if image_names is None else np.array(tell_apart(image_names.tolist(), self.pixels, skipped))
        images, image_index = np.unique(own_names, return_inverse=True)
        sizes = np.full((len(images), 2), self.pixels.shape[1:3])
        instances = Instances(own, images, image_index, points, np.char.add("row ", rows), sizes=sizes)
        instances.boxes = _array(path, arrays, "boxes", (count, 4))
        instances.visibility = _array(path, arrays, "visibility", (count, points_count))
        super().__init__(instances, skipped, skeleton=skeleton, **options)

    def image(self, index: int) -> np.ndarray:
        return np.array(self.pixels[self.kept[index]])


def read_npz(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), max_gib: float = MAX_GIB
) -> dict[str, np.ndarray]:
    """Read arrays of an npz file.

    Args:
        path: The file.
        required: Names of arrays that it has to have.
        optional: Names of arrays that are read if it has them.
        max_gib: Size in memory, in GiB, up to which a file is read that is over twenty times as large unpacked.

    Returns:
        The arrays by name.

    Raises:
        KpnetError: The file is no npz, lacks a required array, has pickled objects in one that is read, or would fill
            the memory.
    """
    if not path.is_file():
        raise KpnetError(f"{path}: no such file; expected an npz with {' and '.join(required)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in required:
                if key not in file:
                    names = ", ".join(file.files) or "nothing"
                    raise KpnetError(f'{path}: no array "{key}" in it{did_you_mean(key, file.files)}; found {names}')
            keys = [key for key in (*required, *optional) if key in file]
            check_unpacked_size(path, f"{', '.join(keys)}", sum(_size(file.zip, key) for key in keys), max_gib)
            return {key: file[key] for key in keys}
    except KpnetError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        reason = first_line(error)
        raise KpnetError(f"{path}: not a readable npz file of plain arrays: {reason}") from None


def has_keypoints(path: Path) -> bool:
    """Return whether a file has labels; true also for what is no readable npz, of which the reader says so."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return "keypoints" in file or IMAGES not in file
    except Exception:  # a damaged archive can raise anything
        return True


def _size(archive: zipfile.ZipFile, key: str) -> int:
    """Return the size in bytes of an array in an npz, from its header."""
    names = archive.namelist()
    with archive.open(f"{key}.npy" if f"{key}.npy" in names else key) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return math.prod(shape) * dtype.itemsize


def check_images(path: Path, images: np.ndarray) -> np.ndarray:
    """Return the images, or raise KpnetError unless they are uint8 (N, H, W) or (N, H, W, 1 or 3)."""
    fits = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if images.dtype != np.uint8 or not fits or not images.size:
        raise KpnetError(
            f'{path}: "{IMAGES}": expected uint8 (N, H, W) or (N, H, W, 1 or 3), found {images.dtype} {images.shape}'
        )
    return images


def _array(
    path: Path, arrays: dict[str, np.ndarray], key: str, shape: tuple[int | None, ...], *, text: bool = False
) -> np.ndarray | None:
    """Return an array as float64 or text, checked for its shape (None: any length above 0); None if it is missing."""
    if key not in arrays:
        return None
    values = arrays[key]
    fits = values.ndim == len(shape) and all(
        f == s or (s is None and f) for f, s in zip(values.shape, shape, strict=True)
    )
    if not fits or values.dtype.kind not in ("U" if text else "fiub"):
        wanted = ", ".join("K" if s is None else str(s) for s in shape)
        kind = "text" if text else "numbers"
        raise KpnetError(f'{path}: "{key}": expected {kind} ({wanted}), found {values.dtype} {values.shape}')
    return values if text else values.astype(np.float64)


def write_npz(dataset: KeypointDataset, file: io.BytesIO) -> None:
    """Write the npz file. The images have to be of one size."""
    every = range(len(dataset))
    images = [dataset.read(index)[0] for index in every]
    check_one_size(dataset, images, "npz")
    none = np.full(4, np.nan)
    boxes = [dataset.box(index) for index in every]
    arrays = {
        "images": np.stack(images),
        "keypoints": np.stack([sample_points(dataset, index) for index in every]),
        "names": np.array(dataset.skeleton.names),
        "visibility": np.stack([dataset.visibility(index) for index in every]),
        "image_names": np.array(written_names(dataset)),
    }
    if any(box is not None for box in boxes):
        arrays["boxes"] = np.stack([none if box is None else box for box in boxes])
    np.savez_compressed(file, allow_pickle=False, **arrays)
