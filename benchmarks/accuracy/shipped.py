"""Compare all shipped recipes on faces15: the tables and charts of the docs.

    python benchmarks/accuracy/shipped.py data.root=data/faces15 [key=value ...] [--workers 2]

The two default recipes are trained with three seeds, the others with one. Runs go to `runs/shipped`; finished ones are
not repeated. The table is copied to `benchmarks/results/shipped/`, its charts to `docs/images/`. The report stays in
`runs/shipped`, because it shows faces. `facial_squeezenet` starts from ImageNet weights, which are downloaded or taken
from torch's cache (`TORCH_HOME`).
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

from running import RESULTS

from kpnet.experiments.comparison import compare
from kpnet.experiments.report.charts import assign_colours, draw_charts
from kpnet.experiments.report.page import group_runs

RECIPES = (
    "facial_heatmap:3",
    "facial_regression:3",
    "facial_heatmap_large",
    "facial_simcc",
    "facial_offset",
    "facial_multi",
    "facial_rle",
    "facial_resnet18_heatmap",
    "facial_resnet18_regression",
    "facial_squeezenet",
    "facial_mlp",
    "facial_regression_i2dl",
)
OUT = Path("runs/shipped")
TABLES, CHARTS = RESULTS / "shipped", RESULTS.parents[1] / "docs" / "images"


def beside(panels: list[str]) -> str:
    """Return one SVG with the SVGs of a chart's panels, which have one size, beside each other."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', panels[0])
    assert found is not None
    width, height = map(float, found.groups())
    size = f'width="{width:g}" height="{height:g}"'
    placed = [panel.replace("<svg", f'<svg x="{n * width:g}" {size}', 1) for n, panel in enumerate(panels)]
    box = f"0 0 {len(panels) * width:g} {height:g}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">\n{"".join(placed)}</svg>\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    records = compare(RECIPES, given.overrides, seeds=1, workers=given.workers, out=OUT)
    TABLES.mkdir(exist_ok=True)
    for name in ("comparison.md", "comparison.csv", "comparison.json"):
        shutil.copy(OUT / name, TABLES / name)
    order = [record["row"] for record in records]
    done = group_runs(sorted(path.parent for path in OUT.glob("runs/*/result.json")))
    rows = sorted((row for row in done if row.name in order), key=lambda row: order.index(row.name))
    assign_colours(rows)
    charts = draw_charts(rows)
    for title, file in (("Accuracy against cost", "shipped_cost.svg"), ("Cumulative error", "shipped_errors.svg")):
        (CHARTS / file).write_text(beside(charts[title]).replace("currentColor", "#808080"))  # on light and dark pages


if __name__ == "__main__":
    main()
