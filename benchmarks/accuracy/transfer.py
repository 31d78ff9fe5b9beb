"""Measure transfer learning on faces15: train and evaluate the rows that `transfer.csv` does not have yet.

    python benchmarks/accuracy/transfer.py shared=FOLDER [--threads 1] [--list] [ROW ...]
    python benchmarks/accuracy/transfer.py --plot docs/images/label_efficiency.png

`shared` is a folder with data/faces15, data/faces_unlabelled and weights/squeezenet1_0_imagenet_fp16.safetensors. A row
is one training (the autoencoder's rows begin with the pretraining, which runs once) and its measures on val.csv, of the
model at the end of its training, plain and with the flip test; the error of each point goes to `transfer_points.csv`.
Both files are in `benchmarks/results`. ROW is a name, or the beginning of one up to a space; without it, all rows are
run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from running import RESULTS, append_row, kpnet, measure_seeds, rows_parser, shared_and_asked

TABLE, POINTS = RESULTS / "transfer.csv", RESULTS / "transfer_points.csv"
RUNS = Path("runs/transfer")
SEEDS = (0, 1)


@dataclass
class Row:
    """A training: its config, the overrides, and the pretraining that it starts from."""

    config: str
    overrides: tuple[str, ...] = ()
    labels: int | None = None
    pretraining: tuple[str, ...] | None = None  # overrides of pretrain_autoencoder


def first(labels: int) -> str:
    """Return the override that trains on the first `labels` samples."""
    return f"data.train={{file: training.csv, limit: {labels}}}"


def steps(labels: int, epochs: int = 32) -> tuple[str, ...]:
    """Return overrides with about as many steps and validations for any number of labels."""
    factor = 480 // labels
    return f"train.epochs={epochs * factor}", f"trainer.check_val_every_n_epoch={factor}"


WEIGHTS = "model.pretrained=SHARED/weights/squeezenet1_0_imagenet_fp16.safetensors"
SQUEEZENET = {
    "squeezenet frozen": (WEIGHTS, "train.freeze=true"),
    "squeezenet at once": (WEIGHTS,),
    "squeezenet frozen first": (WEIGHTS, "train.freeze={until: 4}"),
    "squeezenet slow backbone": (WEIGHTS, "train.lr_scale={backbone: 0.25}"),
    "squeezenet scratch": ("model.pretrained=false",),
}
SMALL = ("model.backbone.channels=[16, 32, 64, 128, 256]",)
CONV_120 = (*SMALL, first(120), *steps(120, 60))
DENOISING = ("train.mask=null",)
PARTIAL = {"": "partial.csv", " at 0.2": "{file: partial.csv, weight: 0.2}"}
ROWS = {
    **{f"{name} 480": Row("facial_squeezenet", (*o, first(480), *steps(480)), 480) for name, o in SQUEEZENET.items()},
    **{
        f"{name} {labels}": Row("facial_squeezenet", (*SQUEEZENET[name], first(labels), *steps(labels)), labels)
        for labels in (60, 120, 240)
        for name in ("squeezenet at once", "squeezenet scratch")
    },
    **{
        f"conv_sandwich scratch {labels}": Row("facial_heatmap", (*SMALL, first(labels), *steps(labels, 60)), labels)
        for labels in (60, 120, 240, 480)
    },
    "conv_sandwich autoencoder 60": Row("facial_heatmap", (*SMALL, first(60), *steps(60, 60)), 60, SMALL),
    "conv_sandwich autoencoder 120": Row("facial_heatmap", CONV_120, 120, SMALL),
    "conv_sandwich denoising 120": Row("facial_heatmap", CONV_120, 120, (*SMALL, *DENOISING)),
    "conv_sandwich autoencoder, frozen first 120": Row(
        "facial_heatmap", (*CONV_120, "train.freeze={until: 60}"), 120, SMALL
    ),
    **{
        f"120 and partial{name}": Row(
            "facial_heatmap",
            (*SMALL, f"data.train=[{{file: training.csv, limit: 120}}, {file}]", *steps(480, 60)),
            120,
        )
        for name, file in PARTIAL.items()
    },
    "training": Row("facial_heatmap", (*SMALL, "train.epochs=30")),
    **{
        f"training and partial{name}": Row(
            "facial_heatmap", (*SMALL, f"data.train=[training.csv, {file}]", "train.epochs=24")
        )
        for name, file in PARTIAL.items()
    },
    "mlp": Row("facial_mlp"),
    "conv": Row(  # trains in minutes, as the fully connected network does; facial_regression takes twenty
        "facial_regression",
        (
            "train.epochs=30",
            "train.batch_size=32",
            "train.optimizer={name: adamw, lr: 2.0e-3, weight_decay: 1.0e-2}",
            "model.head.hidden=[256]",
        ),
    ),
}


def pretrain(overrides: tuple[str, ...], shared: Path, threads: int) -> Path:
    """Return the run folder of a pretraining with these settings; run it if there is none."""
    name = "_".join(["autoencoder", *("".join(c for c in o if c.isalnum()) for o in overrides)])
    folder = RUNS / name
    if not (folder / "final").is_dir():
        data = f"data.root={shared / 'data/faces_unlabelled'}"
        kpnet("pretrain", "pretrain_autoencoder", data, *overrides, "--out", str(folder), "--force", threads=threads)
    return folder


def measure(name: str, row: Row, seed: int, shared: Path, threads: int) -> dict[str, object]:
    """Train and evaluate one row; return its cells, and append its points' errors to their table."""
    folder = RUNS / f"{name}_{seed}".replace(" ", "_").replace(",", "")
    overrides = [o.replace("SHARED", str(shared)) for o in row.overrides]
    if row.pretraining is not None:
        overrides.append(f"model.pretrained={pretrain(row.pretraining, shared, threads)}")
    overrides += [f"data.root={shared / 'data/faces15'}", f"train.seed={seed}"]
    kpnet("train", row.config, *overrides, "--out", str(folder), "--force", threads=threads)
    plain, flipped = (
        json.loads(kpnet("evaluate", str(folder), *o, "--json", threads=threads)) for o in ((), ("--flip-test",))
    )
    for point, values in plain["per_point"].items():
        append_row(POINTS, {"row": name, "seed": seed, "point": point, "error_px": round(values["rmse_px"], 3)})
    history = pd.read_csv(folder / "metrics.csv")
    return {
        "row": name,
        "labels": row.labels or "",
        "seed": seed,
        "epochs": len(history),
        "score": round(plain["score"], 1),
        "score_flip": round(flipped["score"], 1),
        "rmse_px": round(plain["rmse_px"], 3),
        "train_minutes": round(history.seconds.sum() / 60, 1),
        "threads": threads,
    }


def plot(path: Path) -> None:
    """Plot the score against the number of labels: a dot for each seed, a line through their means."""
    from matplotlib.figure import Figure

    from kpnet.plot import save_figure

    table = pd.read_csv(TABLE)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    lines = {
        "squeezenet at once": "SqueezeNet, ImageNet weights",
        "squeezenet scratch": "SqueezeNet from scratch",
        "conv_sandwich scratch": "conv sandwich from scratch",
        "conv_sandwich autoencoder": "conv sandwich, autoencoder",
    }
    for number, (start, label) in enumerate(lines.items()):
        rows = table[table.row.str.fullmatch(rf"{start} \d+")]
        mean = rows.groupby("labels").score.mean()
        axes.plot(mean.index, mean, color=f"C{number}", label=label)
        axes.scatter(rows.labels, rows.score, color=f"C{number}", s=14)
    axes.set(xscale="log", yscale="log", xlabel="labelled faces", ylabel="score on val.csv", xticks=[60, 120, 240, 480])
    axes.set_xticklabels(["60", "120", "240", "480"])
    axes.set_yticks(marks := [300, 400, 500, 600, 700, 800, 900], [str(mark) for mark in marks])
    axes.minorticks_off()
    axes.legend()
    save_figure(figure, path)


def main() -> None:
    parser = rows_parser(__doc__)
    parser.add_argument("--plot", type=Path, help="draw the label-efficiency curve here and exit")
    given = parser.parse_intermixed_args()
    if given.plot:
        return plot(given.plot)
    shared, asked = shared_and_asked(parser, given, [*ROWS])

    def run(name: str, seed: int) -> dict[str, object]:
        return measure(name, ROWS[name], seed, shared, given.threads)

    measure_seeds([*ROWS], asked, SEEDS, TABLE, run, only_list=given.list)


if __name__ == "__main__":
    main()
