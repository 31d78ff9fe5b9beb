"""Labelled images as samples that are the same whatever the format. Knows nothing of networks.

Imports core, config and the function modules. To add a format, see `kpnet.data.formats`.
"""

from __future__ import annotations

from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.coco import COCO
from kpnet.data.formats.cvat import CVAT
from kpnet.data.formats.deeplabcut import DeepLabCut
from kpnet.data.formats.folder import ImageFolder
from kpnet.data.formats.kaggle_csv import KaggleCSV
from kpnet.data.formats.label_studio import LabelStudio
from kpnet.data.formats.labelme import LabelMe
from kpnet.data.formats.npz import NPZ
from kpnet.data.formats.points_csv import PointsCSV
from kpnet.data.formats.pts import PTS
from kpnet.data.formats.sleap import SLEAP
from kpnet.data.formats.yolo import YOLO
from kpnet.data.synthetic.clips import SyntheticClips
from kpnet.data.synthetic.faces import SyntheticFaces
from kpnet.data.synthetic.scenes import SyntheticScenes

__all__ = [
    "COCO",
    "CVAT",
    "DATASETS",
    "NPZ",
    "PTS",
    "SLEAP",
    "YOLO",
    "DeepLabCut",
    "ImageFolder",
    "KaggleCSV",
    "KeypointDataset",
    "LabelMe",
    "LabelStudio",
    "PointsCSV",
    "SyntheticClips",
    "SyntheticFaces",
    "SyntheticScenes",
]
