"""Where the tests find the checkout and the shared data."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("KPNET_SHARED", ROOT.parent / "shared"))
