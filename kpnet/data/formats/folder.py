"""A folder of pictures without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS
from kpnet.data.formats.image_files import ImageFileDataset
from kpnet.data.formats.instances import Instances
from kpnet.data.formats.skipped import Skipped
from kpnet.data.images import find_image_files


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
        names = np.array([str(file.relative_to(path)) for file in find_image_files(path)])
        count = len(names)
        absent = np.full((count, len(own), 2), np.nan)
        instances = Instances(own, names, np.arange(count), absent, names)
        super().__init__(path, instances, Skipped(path, strict), skeleton=own, exif=exif, **options)
