"""The orders in which images are shown; a module of its own, so that the command line loads nothing else."""

from __future__ import annotations

from enum import StrEnum


class Queue(StrEnum):
    """Order in which the page shows the images."""

    order = "order"
    random = "random"
    uncertain = "uncertain"
    suspicious = "suspicious"
