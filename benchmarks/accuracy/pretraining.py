"""Measure pretraining on a user's own images: train and evaluate the rows that `pretraining.csv` does not have yet.

    python benchmarks/accuracy/pretraining.py shared=FOLDER [--threads 1] [--list] [ROW ...]

`shared` is a folder with data/faces15 and data/faces_unlabelled. A row is facial_heatmap trained on the first 120 faces
of training.csv, from an encoder that `kpnet pretrain` has trained with one of its methods, or from scratch, and its
measures on val.csv, of the model at the end of its training. The encoders are trained on the other 1087 faces of
training.csv without their labels, or on faces_unlabelled, once for all seeds, for a number of steps that is meant to
take about the same processor time; the table has what each took. ROW is a name, or the beginning of one up to a space;
without it, all rows are run.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from running import RESULTS, children_minutes, kpnet, measure_seeds, rows_parser, shared_and_asked

TABLE = RESULTS / "pretraining.csv"
RUNS = Path("runs/pretraining")
SEEDS = (0, 1)
LABELS, EPOCHS = 120, 120  # 480 steps

IMAGES = {"faces15": ("rest.csv", 1087), "faces_unlabelled": ("faces.npz", 3691)}
STEPS = {"autoencoder": 680, "masked": 816}  # those of the first are fewer, as each does more work


@dataclass
class Row:
    """A training: the pretraining that it starts from, if any."""

    method: str = ""
    images: str = ""


ROWS = {"nothing": Row()} | {f"{method} {images}": Row(method, images) for images in IMAGES for method in STEPS}


def write_rest(shared: Path) -> Path:
    """Write the faces of training.csv that have no labels here, and return their folder."""
    header, *lines = (shared / "data/faces15/training.csv").read_text().splitlines()
    RUNS.mkdir(parents=True, exist_ok=True)
    (RUNS / "rest.csv").write_text("\n".join([header, *lines[LABELS:]]) + "\n")
    return RUNS


def pretrain(row: Row, shared: Path, threads: int) -> tuple[Path, float]:
    """Return the run folder of a row's pretraining and its processor minutes; run it if there is none."""
    folder = RUNS / f"pretrain_{row.method}_{row.images}"
    note = folder.with_suffix(".minutes")
    spent = float(note.read_text()) if note.is_file() else 0.0
    if not (folder / "final").is_dir():
        file, count = IMAGES[row.images]
        root = write_rest(shared) if row.images == "faces15" else shared / "data" / row.images
        before = children_minutes()
        try:
            kpnet(
                "pretrain",
                f"pretrain_{row.method}",
                f"data.root={root}",
                f"data.images={file}",
                "data.val=null",
                "data.workers=0",
                f"train.epochs={round(STEPS[row.method] / math.ceil(count / 32))}",
                *("--out", str(folder), "--resume"),
                threads=threads,
            )
        finally:
            spent += children_minutes() - before
            note.write_text(f"{spent:.2f}")
    return folder, spent


def measure(name: str, row: Row, seed: int, shared: Path, threads: int) -> dict[str, object]:
    """Train and evaluate one row; return its cells."""
    folder = RUNS / f"{name}_{seed}".replace(" ", "_")
    overrides: list[str] = []
    cost = 0.0
    if row.method:
        encoder, cost = pretrain(row, shared, threads)
        overrides.append(f"model.pretrained={encoder}")
    before = children_minutes()
    kpnet(
        "train",
        "facial_heatmap",
        f"data.root={shared / 'data/faces15'}",
        f"data.train={{file: training.csv, limit: {LABELS}}}",
        "data.workers=0",
        f"train.epochs={EPOCHS}",
        f"trainer.check_val_every_n_epoch={EPOCHS}",
        f"train.seed={seed}",
        *overrides,
        *("--out", str(folder), "--force"),
        threads=threads,
    )
    trained = children_minutes() - before
    plain, flipped = (
        json.loads(kpnet("evaluate", str(folder), *o, "--json", threads=threads)) for o in ((), ("--flip-test",))
    )
    return {
        "row": name,
        "labels": LABELS,
        "seed": seed,
        "score": round(plain["score"], 1),
        "score_flip": round(flipped["score"], 1),
        "rmse_px": round(plain["rmse_px"], 3),
        "pretrain_processor_minutes": round(cost, 1),
        "train_processor_minutes": round(trained, 1),
        "threads": threads,
    }


def main() -> None:
    parser = rows_parser(__doc__)
    given = parser.parse_intermixed_args()
    shared, asked = shared_and_asked(parser, given, [*ROWS])

    def run(name: str, seed: int) -> dict[str, object]:
        return measure(name, ROWS[name], seed, shared, given.threads)

    measure_seeds([*ROWS], asked, SEEDS, TABLE, run, only_list=given.list)


if __name__ == "__main__":
    main()
