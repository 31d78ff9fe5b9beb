"""Print a pip constraint for each dependency and extra of pyproject.toml: its lowest allowed version.

python .ci/lowest_versions.py > lowest.txt
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in [*project["dependencies"], *extras["coco"], *extras["formats"]]:
    found = re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", requirement)
    if found:
        print(f"{found[1]}=={found[2]}")
