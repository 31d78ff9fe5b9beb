"""Datasets: every format gives the same samples."""

from __future__ import annotations

from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.kaggle_csv import KaggleCSV
from kpnet.data.synthetic import SyntheticFaces
from kpnet.data.synthetic_clips import SyntheticClips

__all__ = ["DATASETS", "KaggleCSV", "KeypointDataset", "SyntheticClips", "SyntheticFaces"]
