"""A folder of images without labels.

Layout: a folder and its subfolders with images of any kind that is read; files that are no images are ignored. Each
image is one sample, called by its path below the folder, and all its keypoints are missing. The format serves to
predict labels for images, or to look at them with `kpnet data`. Damaged images are skipped.
"""

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
from kpnet.data.surroundings import Background


@DATASETS.register("folder")
class ImageFolder(ImageFileDataset):
    """Images of a folder and its subfolders, without labels: every keypoint of the skeleton is missing.

    Args:
        path: The folder.
        exif: Apply the EXIF rotation, as an image viewer does; false reads pixels as they are stored.
        skeleton: Names of the missing keypoints. None: one keypoint called `point`.
        strict: Raise an error at the first damaged image, instead of skipping it with a warning.
        **options: `complete_only` and the arguments of `KeypointDataset`.

    Raises:
        KpnetError: There is no such folder, or no usable image in it.
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
        unlabelled = Background(partial=set(names.tolist()))  # which says nothing of what is on them
        instances = Instances(own, names, np.arange(count), absent, names, background=unlabelled)
        super().__init__(path, instances, Skipped(path, strict), skeleton=own, exif=exif, **options)
