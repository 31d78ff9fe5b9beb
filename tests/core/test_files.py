"""Writing files."""

from __future__ import annotations

import json
import math
from pathlib import Path

from kpnet.core.files import write_json


def test_json_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "measures.json"
    write_json(path, {"nme": math.nan, "scores": [1.5, math.inf], "kept": {"epoch": 3}})
    assert json.loads(path.read_text()) == {"nme": None, "scores": [1.5, None], "kept": {"epoch": 3}}
    assert path.read_text().endswith("}\n")
    assert list(tmp_path.iterdir()) == [path]
