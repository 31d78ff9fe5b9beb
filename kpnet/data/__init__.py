"""Datasets: every format gives the same samples."""

from __future__ import annotations

from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.coco import COCO
from kpnet.data.deeplabcut import DeepLabCut
from kpnet.data.folder import Folder
from kpnet.data.kaggle_csv import KaggleCSV
from kpnet.data.npz import NPZ
from kpnet.data.points_csv import PointsCSV
from kpnet.data.pts import PTS
from kpnet.data.synthetic import SyntheticFaces
from kpnet.data.synthetic_clips import SyntheticClips

__all__ = [
    "COCO",
    "DATASETS",
    "NPZ",
    "PTS",
    "DeepLabCut",
    "Folder",
    "KaggleCSV",
    "KeypointDataset",
    "PointsCSV",
    "SyntheticClips",
    "SyntheticFaces",
]
