"""What shows that a file was executed where it was to be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Marker:
    """A pickle of it makes a folder when it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)
