"""Datasets: every format gives the same samples."""

from __future__ import annotations

from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.kaggle_csv import KaggleCSV

__all__ = ["DATASETS", "KaggleCSV", "KeypointDataset"]
