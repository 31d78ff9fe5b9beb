"""A folder of pictures without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS
from kpnet.data.formats.image_files import ImageFileDataset
from kpnet.data.formats.instances import Instances
from kpnet.data.formats.skipped import Skipped
from kpnet.data.images import IMAGE_SUFFIXES


@DATASETS.register("folder")
class ImageFolder(ImageFileDataset):
    """The pictures of a folder, and of those beneath it, without labels: every point of the skeleton is missing.

    exif: pictures as a viewer shows them.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        exif: bool = True,
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        path = Path(path)
        own = Skeleton(("point",)) if skeleton is None else skeleton
        names = np.array([str(file.relative_to(path)) for file in image_paths(path)])
        count = len(names)
        absent = np.full((count, len(own), 2), np.nan)
        instances = Instances(own, names, np.arange(count), absent, names)
        super().__init__(path, instances, Skipped(path, strict), skeleton=own, exif=exif, **options)


def image_paths(path: Path) -> list[Path]:
    """The picture files of a folder and of those beneath it. A KpnetError for a folder without any."""
    if not path.is_dir():
        raise KpnetError(f"{path}: no such folder; expected one of pictures")
    paths = sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file())
    if not paths:
        raise KpnetError(f"{path}: found no pictures in it (expected {', '.join(IMAGE_SUFFIXES)})")
    return paths
