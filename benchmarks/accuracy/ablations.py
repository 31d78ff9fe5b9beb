"""Ablate the default recipe: change one thing at a time, with two seeds and a shortened schedule.

    python benchmarks/accuracy/ablations.py data.root=data/faces15 [--threads 1] [--list] [--table] [NAME ...]

A row is one training on training.csv and its measures on val.csv, of the model at the end of its training: as
shipped, with the flip test, and decoded by soft-argmax. Each row is appended to `benchmarks/results/ablations.csv` as
soon as it is measured, and rows in that file are not measured again. Without NAME, all missing rows are run.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from running import RESULTS, append_row, is_asked_for, kpnet, split_folder

TABLE = RESULTS / "ablations.csv"
RUNS = Path("runs/ablations")
SHORT = 12  # epochs of an ablation


@dataclass
class Row:
    """A training of the default recipe with other settings."""

    seed: int
    overrides: tuple[str, ...]


FLIP, LIGHT = "{HorizontalFlip: {p: 0.5}}", "{RandomBrightnessContrast: {p: 0.5}}"
HOLES = (
    "{CoarseDropout: {num_holes_range: [1, 1], hole_height_range: [0.1, 0.3], hole_width_range: [0.1, 0.3], "
    "fill: random_uniform, p: 0.3}}"
)
MOVES = "rotate: [-35, 35], scale: [0.8, 1.2], translate_percent: [-0.08, 0.08], p: 0.95"
EVEN = f"{{Affine: {{{MOVES}, keep_ratio: true}}}}"
NARROW = "model.backbone.channels=[16, 32, 64, 128, 256]"  # two thirds of the default's width, in every row


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


def measure(name: str, row: Row, root: str, threads: int) -> dict[str, object]:
    """Train and evaluate one row; return its cells."""
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
    """Print the measured ablations as a Markdown table, with the difference of each to the default of its seed."""
    table = pd.read_csv(TABLE)
    names = table.row.str.extract(r"(?P<name>\S+) seed (?P<seed>\d)")
    table = table.join(names).dropna(subset="name").set_index(["name", "seed"])
    print("| change | score, seeds 0 / 1 | difference | difference with flip test |\n| --- | --- | --- | --- |")
    for name in ABLATIONS:
        if name not in table.index.get_level_values("name"):
            continue
        rows = table.loc[[name]].sort_index()
        cells = [" / ".join(f"{score:.0f}" for score in rows.score)]
        for column in ("score", "score_flip"):
            default = table.loc["default"][column].reindex(rows.index.get_level_values("seed")).to_numpy()
            cells.append(" / ".join(f"{apart:+.0f}" for apart in rows[column].to_numpy() - default))
        print(f"| `{name}` | {' | '.join(cells if name != 'default' else [cells[0], '', ''])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="*", metavar="data.root=FOLDER | NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="list the rows and whether they are measured")
    parser.add_argument("--table", action="store_true", help="print the measured rows as Markdown and exit")
    given = parser.parse_intermixed_args()
    if given.table:
        return ablations()
    root, asked = split_folder(given.arguments, "data.root", "data/faces15")
    for each in asked:
        if not any(is_asked_for(name, [each]) for name in ROWS):
            parser.error(f'no ablation "{each}"; there are: {", ".join(ABLATIONS)}')
    for name in (name for name in ROWS if is_asked_for(name, asked)):
        done = set(pd.read_csv(TABLE).row) if TABLE.is_file() else set()
        if name in done or given.list:
            print(f"{'measured' if name in done else 'not yet '}  {name}")
            continue
        found = measure(name, ROWS[name], root, given.threads)
        append_row(TABLE, found)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
