"""Print a pip constraint for each dependency of pyproject.toml: its lowest allowed version.

python .ci/lowest_versions.py > lowest.txt
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in project["dependencies"]:
    found = re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", requirement)
    if found:
        print(f"{found[1]}=={found[2]}")
