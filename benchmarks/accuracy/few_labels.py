"""Measure what multiplies few labels: another start, and images without labels.

    python benchmarks/accuracy/few_labels.py [shared=FOLDER] [ROW ...] [--threads 1] [--list] [--out TABLE]
    python benchmarks/accuracy/few_labels.py --table

ROW is a name that `--list` prints, or the beginning of one up to a space; without it, all rows are run that the table
`benchmarks/results/few_labels.csv` lacks. A name says the data, the number of labels, the start and the seed. FOLDER
(default: ../shared) holds data/faces15, data/faces_unlabelled, data/helen68, data/deeplabcut/openfield,
data/mirror_mouse and weights/squeezenet1_0_imagenet_fp16.safetensors.

Labels are the first of the training file. openfield and mirror_mouse have no validation file: fold 0 of a fixed split
into four validates (29 of 116 and 19 of 75 frames), and the labels are the first of the others in an order that is
fixed too. The starts:

- scratch: `facial_heatmap` with the channels 16 to 256;
- squeezenet: `facial_squeezenet` with ImageNet weights;
- pretrained: as scratch, after `kpnet pretrain` on all the training images, which runs once for each data set and has
  a row of its own;
- …+unlabelled: and the rest of the training images without their labels (`data.unlabelled`), by the recipe `few_labels`
  with the backbone of the start; openfield and mirror_mouse are augmented otherwise, as their mice lie in any direction
  or are not mirrored, and have half as many unlabelled images in a step;
- …+faces_unlabelled: and those of data/faces_unlabelled;
- …+self_train: and the rest of the training images by `kpnet train --self-train`.

Every training has about as many optimizer steps whatever its number of labels: 960, and 1600 of the rows "+unlabelled",
"+faces_unlabelled" (2400 with 120 labels of faces15) and "folds" (the second training of "+self_train" has twice 960).
The row of 1207 labels is `facial_heatmap` with unlabelled images; without them, see the shipped recipes. `openfield
folds` and `mirror_mouse folds` are the 20 and 5 folds of a cross-validation on all labels. faces15 is augmented as the
recipes say, the others alike whatever the start.

The measures are those of the final model on the validation data: the score of faces15, the mean error in pixels of the
image and in percent of the input's longer side, and the share of points within 5 % of that. The error of each point
goes to the table's neighbour `few_labels_points.csv`. Minutes are of processor time, for the training alone.
Trainings on openfield keep the decoded images in memory (`data.cache_gb`), which takes 0.86 times as long; its rows of
25 labels from scratch and from SqueezeNet were measured without.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from running import RESULTS, append_row, children_minutes, is_asked_for, kpnet, rows_parser, shared_and_asked

TABLE = RESULTS / "few_labels.csv"
RUNS = Path("runs/few_labels")
STEPS, UNLABELLED_STEPS, PRETRAINING_STEPS, FOLD_STEPS = 960, 1600, 600, 1600
RECIPE_LABELS, RECIPE_STEPS, RECIPE_BATCH = 120, 2400, 16  # of `few_labels`
BATCH = {"scratch": 32, "pretrained": 32, "squeezenet": 16}
SANDWICH = "model.backbone={name: conv_sandwich, channels: [24, 48, 96, 192, 384], norm: batch, residual: 1}"
SMALL = "model.backbone.channels=[16, 32, 64, 128, 256]"
WEIGHTS = "weights/squeezenet1_0_imagenet_fp16.safetensors"
FACES = ["Affine: {rotate: [-35, 35], scale: [0.8, 1.2], keep_ratio: true, translate_percent: [-0.08, 0.08], p: 0.95}"]
MOUSE = ["Affine: {rotate: [-180, 180], scale: [0.8, 1.25], keep_ratio: true, translate_percent: [-0.1, 0.1], p: 0.95}"]
MIRROR = ["Affine: {rotate: [-20, 20], scale: [0.8, 1.25], keep_ratio: true, translate_percent: [-0.1, 0.1], p: 0.95}"]
FLIP, CONTRAST = "HorizontalFlip: {p: 0.5}", "RandomBrightnessContrast: {p: 0.5}"
# What the student sees, as in `few_labels` but for the angles.
SEEN = "Affine: {rotate: [-%d, %d], scale: [0.7, 1.3], keep_ratio: true, translate_percent: [-0.12, 0.12], p: 1.0}"
HARDER = (
    "RandomBrightnessContrast: {brightness_limit: 0.3, contrast_limit: 0.4, p: 0.8}",
    "CoarseDropout: {num_holes_range: [1, 3], hole_height_range: [0.1, 0.35], hole_width_range: [0.1, 0.35], "
    "fill: random_uniform, p: 0.7}",
)
BETTER = "squeezenet"  # the start that is better than scratch under 200 labels
FOLDS = {"openfield": 20, "mirror_mouse": 5}


@dataclass(frozen=True)
class Data:
    """A data set: where it lies, its size and its augmentation. Those that are split are written to `RUNS`."""

    form: str
    folder: str
    train: str
    val: str
    images: str
    transforms: tuple[str, ...] | None  # None: the recipe's
    skeleton: str = "null"
    size: tuple[int, int] = (96, 96)
    channels: int = 1
    batches: int = 1  # those of the recipe are divided by this
    student: tuple[str, ...] | None = None  # augmentation of the unlabelled images. None: that of `few_labels`

    @property
    def is_split(self) -> bool:
        return self.train.endswith("points.csv")


DATA = {
    "faces15": Data("kaggle_csv", "data/faces15", "training.csv", "val.csv", "training.csv", None, "facial15"),
    "helen68": Data(
        "{name: pts, index_base: 0}",
        "data/helen68",
        "train",
        "val",
        "train",
        (FLIP, *FACES, CONTRAST),
        "ibug68",
        channels=3,
    ),
    "openfield": Data(
        "points_csv",
        "data/deeplabcut/openfield",
        "openfield/train/points.csv",
        "openfield/val/points.csv",
        "openfield/train",
        (FLIP, *MOUSE, CONTRAST),
        "mouse4",
        (128, 160),
        batches=2,
        student=(FLIP, SEEN % (180, 180), *HARDER),
    ),
    "mirror_mouse": Data(
        "points_csv",
        "data/mirror_mouse/CollectedData.csv",
        "mirror_mouse/train/points.csv",
        "mirror_mouse/val/points.csv",
        "mirror_mouse/train",
        (*MIRROR, CONTRAST),
        size=(128, 128),
        batches=2,
        student=(SEEN % (30, 30), *HARDER),
    ),
}


@dataclass(frozen=True)
class Row:
    """A training and its measures."""

    data: str
    labels: int | None  # None: all of them, in folds
    start: str
    seed: int = 0
    extra: str = ""  # unlabelled, faces_unlabelled or self_train
    fold: int | None = None

    @property
    def name(self) -> str:
        way = f"{self.start}+{self.extra}" if self.extra else self.start
        if self.fold is not None:
            return f"{self.data} folds {way} {self.fold}"
        return f"{self.data} {self.labels} {way} {self.seed}"


STARTS = ("scratch", "squeezenet", "pretrained")
SMALLER = (("faces15", 120), ("faces15", 60), ("helen68", 60), ("openfield", 25), ("mirror_mouse", 25))
LIST = [
    *(Row("faces15", labels, start, seed) for seed in (0, 1) for labels in (120, 60, 25) for start in STARTS),
    *(Row("helen68", 60, start) for start in STARTS),
    *(Row(data, labels, start) for data in ("openfield", "mirror_mouse") for labels in (25, 50) for start in STARTS),
    *(Row(data, labels, start, 0, "unlabelled") for data, labels in SMALLER for start in ("scratch", BETTER)),
    *(Row("faces15", labels, start, 0, "self_train") for labels in (120, 60) for start in ("scratch", BETTER)),
    *(Row("faces15", 120, start, 0, "faces_unlabelled") for start in ("scratch", BETTER)),
    Row("faces15", 1207, "scratch", 0, "faces_unlabelled"),
    *(Row(data, None, BETTER, 0, "", fold) for data, count in FOLDS.items() for fold in range(count)),
]
ROWS = {row.name: row for row in LIST}
COLUMNS = ("row", "minutes", "steps", "score", "mre_px", "mre_percent", "pck5", "train", "labels", "val", "val_images")


def split(name: str, shared: Path, folder: Path) -> None:
    """Write the frames of a data set that has no validation file: all of them, and a fixed split; each is done once."""
    from kpnet.config.schema import Fold
    from kpnet.core.skeleton import Skeleton
    from kpnet.data import DeepLabCut
    from kpnet.data.convert import convert
    from kpnet.data.wrappers.subset import Subset, split_fold

    skeleton = None if DATA[name].skeleton == "null" else Skeleton.load(DATA[name].skeleton)
    every = DeepLabCut(shared / DATA[name].folder, skeleton=skeleton)
    train, held = split_fold(every, Fold(index=0, of=4))
    parts = {"all": np.arange(len(every)), "train": np.random.default_rng(0).permutation(train), "val": held}
    (folder / name).mkdir(parents=True, exist_ok=True)
    for part, indices in parts.items():
        if not (folder / name / part).exists():
            convert(Subset(every, indices), folder / name / part, "points_csv")


def options(row: Row, shared: Path, runs: Path) -> list[str]:
    """Return the recipe of a row and its overrides."""
    data = DATA[row.data]
    root = (runs / "data" if data.is_split else shared / data.folder).resolve()
    weights = f"model.pretrained={(shared / WEIGHTS).resolve()}"
    if row.extra.endswith("unlabelled") and row.labels != 1207:
        assert row.labels is not None
        steps = RECIPE_STEPS if row.labels == RECIPE_LABELS else UNLABELLED_STEPS
        epochs = steps // math.ceil(row.labels / RECIPE_BATCH)
        values = [f"data.root={root}", f"data.train={{file: {data.train}, limit: {row.labels}}}", "data.workers=0"]
        values += [f"train.epochs={epochs}", f"train.seed={row.seed}", "trainer.logger=null"]
        values += [weights] if row.start == "squeezenet" else [SANDWICH, "model.pretrained=false"]
        if row.data != "faces15":
            values += [f"data.format={data.form}", f"data.val={data.val}", f"data.skeleton={data.skeleton}"]
            values += [f"model.input_size={list(data.size)}", f"model.in_channels={data.channels}"]
            values.append(f"trainer.check_val_every_n_epoch={epochs}")
        if data.student is not None:
            values += [*augmentation(data), f"train.unlabelled.transforms={as_list(data.student)}"]
            values.append(f"train.unlabelled.batch_size={32 // data.batches}")
        values += cache(row)
        return ["few_labels", *values, *unlabelled(row, data, shared)]
    recipe = "facial_squeezenet" if row.start == "squeezenet" else "facial_heatmap"
    values = [f"data.root={root}", f"data.format={data.form}", "data.workers=0", "trainer.logger=null"]
    values += [f"data.skeleton={data.skeleton}", *augmentation(data)]
    values += cache(row)
    values += [f"model.input_size={list(data.size)}", f"model.in_channels={data.channels}", f"train.seed={row.seed}"]
    if row.labels == 1207:
        values += ["data.train=training.csv", "data.val=val.csv", "trainer.check_val_every_n_epoch=60"]
        return [recipe, *values, *unlabelled(row, data, shared)]
    batch = BATCH[row.start] // data.batches
    if row.fold is not None:
        count, steps = FOLDS[row.data], FOLD_STEPS
        labels = math.floor({"openfield": 116, "mirror_mouse": 75}[row.data] * (1 - 1 / count))
        values += [f"data.train={row.data}/all/points.csv", f"data.fold={{index: {row.fold}, of: {count}}}"]
        values += ["data.val=null"]
    else:
        assert row.labels is not None
        labels, steps = row.labels, STEPS
        values += [f"data.train={{file: {data.train}, limit: {labels}}}", f"data.val={data.val}"]
    epochs = math.ceil(steps / math.ceil(labels / batch))
    values += [f"train.epochs={epochs}", f"train.batch_size={batch}", f"trainer.check_val_every_n_epoch={epochs}"]
    if row.start == "squeezenet":
        values.append(weights)
    else:
        values.append(SMALL)
    if row.start == "pretrained":
        values.append(f"model.pretrained={(runs / f'pretraining_{row.data}').resolve()}")
    return [recipe, *values, *unlabelled(row, data, shared)]


def cache(row: Row) -> list[str]:
    """Return the override that keeps the decoded images in memory, where they are large."""
    return ["data.cache_gb=1"] if row.data == "openfield" else []


def augmentation(data: Data) -> list[str]:
    """Return the override that gives the data's own augmentation, if it has one."""
    if data.transforms is None:
        return []
    return [f"data.transforms={as_list(data.transforms)}"]


def as_list(transforms: Sequence[str]) -> str:
    """Return transforms as an override gives them."""
    return f"[{', '.join(f'{{{each}}}' for each in transforms)}]"


def unlabelled(row: Row, data: Data, shared: Path) -> list[str]:
    """Return the overrides that give the images without labels; those that have labels are left out by kpnet."""
    if row.extra == "faces_unlabelled":
        folder = (shared / "data/faces_unlabelled/faces.npz").resolve()
        return [f"data.unlabelled={folder if row.labels == 1207 else [data.images, str(folder)]}"]
    if not row.extra:
        return []
    return [f"data.unlabelled={data.images}", *(["--self-train"] if row.extra == "self_train" else [])]


def pretrain(name: str, shared: Path, runs: Path, table: Path, threads: int) -> None:
    """Pretrain on the training images of a data set, and append its minutes; done once."""
    folder, data = runs / f"pretraining_{name}", DATA[name]
    if (folder / "final").is_dir():
        return
    root = (runs / "data" if data.is_split else shared / data.folder).resolve()
    images = {"faces15": 1207, "helen68": 1207, "openfield": 87, "mirror_mouse": 56}[name]
    epochs = math.ceil(PRETRAINING_STEPS / math.ceil(0.9 * images / 32))
    before = children_minutes()
    kpnet(
        "pretrain",
        "pretrain_autoencoder",
        SMALL,
        f"data.root={root}",
        f"data.images={data.images}",
        "data.workers=0",
        *augmentation(data),
        f"model.in_channels={data.channels}",
        f"model.input_size={list(data.size)}",
        f"train.epochs={epochs}",
        f"trainer.check_val_every_n_epoch={epochs}",
        "trainer.logger=null",
        *("--out", folder, "--force"),
        threads=threads,
    )
    minutes = round(children_minutes() - before, 1)
    append_row(table, {"row": f"{name} pretraining 0", "minutes": minutes, "steps": PRETRAINING_STEPS}, COLUMNS)


def measure(row: Row, shared: Path, runs: Path, threads: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Train and measure a row; return its cells, and the error of each point in percent of the input's longer side."""
    data, folder = DATA[row.data], runs / row.name.replace(" ", "_").replace("+", "_")
    before = children_minutes()
    kpnet("train", *options(row, shared, runs), "--out", folder, "--force", threads=threads)
    minutes = children_minutes() - before
    found = json.loads(kpnet("evaluate", folder, "--json", threads=threads))
    shown = found.get("image_pixels", found)
    points = {point: round(100 * errors["mre_px"] / max(data.size), 3) for point, errors in found["per_point"].items()}
    cells = {
        "row": row.name,
        "minutes": round(minutes, 1),
        "steps": int(pd.read_csv(folder / "metrics.csv").step.iloc[-1]),
        "score": round(found["score"], 1) if row.data == "faces15" else "",
        "mre_px": round(shown["mre_px"], 3),
        "mre_percent": round(100 * found["mre_px"] / max(data.size), 3),
        "pck5": round(100 * found["pck@5%"], 2),
        "train": data.train if row.fold is None else f"{row.data}/all/points.csv",
        "labels": row.labels or "",
        "val": data.val if row.fold is None else f"fold {row.fold} of {FOLDS[row.data]}",
        "val_images": found["images"],
    }
    return cells, points


def markdown(path: Path = TABLE) -> str:
    """Return the table of all rows, the folds of a cross-validation in one; those that lack name their command."""
    table = (pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)).set_index("row")
    lines = [
        "| row | score | error px | % of the side | within 5 %, % | minutes |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    pretrainings = (name for name in table.index if " pretraining " in name)
    lines += [f"| {name} |  |  |  |  | {table.minutes[name]:.1f} |" for name in pretrainings]
    for name in dict.fromkeys(row.name.rpartition(" ")[0] if row.fold is not None else row.name for row in LIST):
        rows = table[[is_asked_for(each, [name]) for each in table.index]]
        if " folds " not in name and len(rows):
            [row] = rows.to_dict("records")
            score = "" if pd.isna(row["score"]) else f"{row['score']:.0f}"
            cells = [score, *(f"{row[key]:.2f}" for key in ("mre_px", "mre_percent")), f"{row['pck5']:.1f}"]
            lines.append(f"| {name} | {' | '.join(cells)} | {row['minutes']:.1f} |")
            continue
        if len(rows):
            cells = [f"{rows[k].mean():.2f} (spread {rows[k].std():.2f})" for k in ("mre_px", "mre_percent", "pck5")]
            lines.append(f"| {name}: {len(rows)} of them |  | {' | '.join(cells)} | {rows.minutes.mean():.1f} each |")
        if len(rows) < FOLDS.get(name.split()[0], 0) if " folds " in name else True:
            command = f'`python benchmarks/accuracy/few_labels.py shared=FOLDER "{name}"`'
            lines.append(f"| {name} | not run: {command} |  |  |  |  |")
    return "\n".join(lines)


def points_markdown(path: Path = TABLE) -> str:
    """Return the table of the errors of mirror_mouse's points: their mean over the folds, and its spread."""
    table = pd.read_csv(path.with_name(f"{path.stem}_points.csv"))
    table = table[table.row.str.startswith("mirror_mouse folds")]
    lines = ["| point | folds | error, % of the side | spread |", "| --- | --: | --: | --: |"]
    for point, errors in table.groupby("point", sort=False).mre_percent:
        lines.append(f"| {point} | {len(errors)} | {errors.mean():.2f} | {errors.std():.2f} |")
    missing = '| not run: `python benchmarks/accuracy/few_labels.py shared=FOLDER "mirror_mouse folds"` |  |  |  |'
    return "\n".join(lines if len(table) else [*lines, missing])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = rows_parser(__doc__)
    parser.add_argument("--table", action="store_true", help="print the table for the documentation and exit")
    parser.add_argument("--out", type=Path, default=TABLE, help="the table")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the trainings")
    given = parser.parse_intermixed_args(arguments)
    if given.table:
        return print(markdown(given.out), points_markdown(given.out), sep="\n\n")
    shared, asked = shared_and_asked(parser, given, [*ROWS])
    for name, row in ROWS.items():
        done = set(pd.read_csv(given.out).row) if given.out.is_file() else set()
        if not is_asked_for(name, asked):
            continue
        if name in done or given.list:
            print(f"{'measured' if name in done else 'not yet '}  {name}")
            continue
        if DATA[row.data].is_split:
            split(row.data, shared, given.runs / "data")
        if row.start == "pretrained":
            pretrain(row.data, shared, given.runs, given.out, given.threads)
        found, points = measure(row, shared, given.runs, given.threads)
        append_row(given.out, found, COLUMNS)  # first: a row that is there is not measured again
        for point, error in points.items():
            beside = given.out.with_name(f"{given.out.stem}_points.csv")
            append_row(beside, {"row": name, "point": point, "mre_percent": error})
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
