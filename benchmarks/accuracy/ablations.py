"""What of the default recipe matters: one thing is other, two seeds, a shortened schedule.

    python benchmarks/accuracy/ablations.py data.root=data/faces15 [--threads 1] [--list] [--table] [NAME ...]

A row is one training on training.csv and its measures on val.csv, of the model at the end of its training: as
shipped, with the flip test, and read by soft-argmax. Each is written into `benchmarks/results/ablations.csv` as it comes, so
that none is made twice. Without NAME: all that are not there yet.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parents[1] / "results" / "ablations.csv"
RUNS = Path("runs/ablations")
SHORT = 12  # epochs of an ablation


@dataclass
class Row:
    seed: int
    overrides: tuple[str, ...]


FLIP, LIGHT = "{HorizontalFlip: {p: 0.5}}", "{RandomBrightnessContrast: {p: 0.5}}"
HOLES = (
    "{CoarseDropout: {num_holes_range: [1, 1], hole_height_range: [0.1, 0.3], hole_width_range: [0.1, 0.3], "
    "fill: random_uniform, p: 0.3}}"
)
MOVES = "rotate: [-35, 35], scale: [0.8, 1.2], translate_percent: [-0.08, 0.08], p: 0.95"
EVEN = f"{{Affine: {{{MOVES}, keep_ratio: true}}}}"
NARROW = "model.backbone.channels=[16, 32, 64, 128, 256]"  # of the ablations: two thirds of the default's width


def _transforms(*entries: str) -> tuple[str, ...]:
    return (f"data.transforms=[{', '.join(entries)}]",)


ABLATIONS = {
    "default": (),
    "stride_8": ("model.head.stride=8",),
    "temperature_learned": ("model.head.temperature=learned",),
    "loss_l1": ("model.head.loss={l1: 1.0}",),
    "loss_cross_entropy": ("model.head.loss={cross_entropy: 1.0}",),
    "loss_js": ("model.head.loss={l1: 1.0, js: 0.1}",),
    "decoder_unet": ("model.head.decoder=unet",),
    "decoder_deconv": ("model.head.decoder=deconv",),
    "augment_none": ("data.transforms=[]",),
    "augment_stretched": _transforms(FLIP, f"{{Affine: {{{MOVES}}}}}", LIGHT, HOLES),
    "augment_no_holes": _transforms(FLIP, EVEN, LIGHT),
    "augment_no_flip": _transforms(EVEN, LIGHT, HOLES),
    "average_none": ("train.average=null",),
    "decoder_aspp": ("model.head.decoder=aspp",),
    "stride_2": ("model.head.stride=2",),
    "average_swa": ("train.average=swa",),
    "hardest_8": ("model.head.hardest=8",),
    "stages_2": ("model.head.stages=2",),
    "decoder_upsample": ("model.head.decoder=upsample",),
    "loss_wing": ("model.head.loss={wing: 1.0, cross_entropy: 0.3}",),
    "loss_variance": ("model.head.loss={l1: 1.0, cross_entropy: 0.3, variance: 0.01}",),
}

ROWS = {
    f"{name} seed {seed}": Row(seed, (f"train.epochs={SHORT}", NARROW, *overrides))
    for seed in (0, 1)
    for name, overrides in ABLATIONS.items()
}


def kpnet(*arguments: str, threads: int) -> str:
    """What `kpnet` prints."""
    command = [sys.executable, "-m", "kpnet.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(name: str, row: Row, root: str, threads: int) -> dict[str, object]:
    folder = RUNS / name.replace(" ", "_")
    overrides = [f"data.root={root}", f"train.seed={row.seed}", *row.overrides]
    kpnet("train", "facial_heatmap", *overrides, "--out", str(folder), "--force", threads=threads)

    def evaluate(*options: str) -> dict[str, float]:
        found: dict[str, float] = json.loads(kpnet("evaluate", str(folder), *options, "--json", threads=threads))
        return found

    shipped, flipped = evaluate(), evaluate("--flip-test")
    read = evaluate("--decoding", "soft_argmax")
    history = pd.read_csv(folder / "metrics.csv")
    shown = " ".join(f'"{o}"' if " " in o else o for o in (f"train.seed={row.seed}", *row.overrides))
    return {
        "row": name,
        "epochs": len(history),
        "score": round(shipped["score"], 2),
        "rmse_px": round(shipped["rmse_px"], 3),
        "nme_percent": round(100 * shipped["nme"], 2),
        "score_flip": round(flipped["score"], 2),
        "score_soft_argmax": round(read["score"], 2),
        "train_minutes": round(history.seconds.sum() / 60, 1),
        "threads": threads,
        "command": f"kpnet train facial_heatmap data.root=data/faces15 {shown}",
    }


def ablations() -> None:
    """The ablations as a Markdown table: the difference of each to the default of the same seed."""
    table = pd.read_csv(RESULTS)
    names = table.row.str.extract(r"(?P<name>\S+) seed (?P<seed>\d)")
    table = table.join(names).dropna(subset="name").set_index(["name", "seed"])
    print("| what is other | score | difference | with flip test |\n| --- | --- | --- | --- |")
    for name in ABLATIONS:
        if name not in table.index.get_level_values("name"):
            continue
        rows = table.loc[[name]]
        cells = [" / ".join(f"{score:.0f}" for score in rows.score)]
        for column in ("score", "score_flip"):
            default = table.loc["default", column].reindex(rows.index.get_level_values("seed")).to_numpy()
            cells.append(" / ".join(f"{apart:+.0f}" for apart in rows[column].to_numpy() - default))
        print(f"| `{name}` | {' | '.join(cells if name != 'default' else [cells[0], '', ''])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="*", metavar="data.root=FOLDER | NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="names of the rows that are not measured yet")
    parser.add_argument("--table", action="store_true", help="print the ablations that are measured, and end")
    given = parser.parse_intermixed_args()
    if given.table:
        return ablations()
    roots = [a.removeprefix("data.root=") for a in given.arguments if a.startswith("data.root=")]
    asked = [a for a in given.arguments if not a.startswith("data.root=")]
    chosen = [n for n in ROWS if any(n == a or n.startswith(f"{a} ") for a in asked)] if asked else list(ROWS)
    unknown = [a for a in asked if not any(n == a or n.startswith(f"{a} ") for n in ROWS)]
    if unknown:
        parser.error(f'no ablation "{unknown[0]}"; there are: {", ".join(ABLATIONS)}')
    for name in chosen:
        done = set(pd.read_csv(RESULTS).row)
        if name in done or given.list:
            print(f"{'measured' if name in done else 'not yet '}  {name}")
            continue
        found = measure(name, ROWS[name], roots[0] if roots else "data/faces15", given.threads)
        with RESULTS.open("a", newline="") as file:
            csv.DictWriter(file, list(found), lineterminator="\n").writerow(found)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
