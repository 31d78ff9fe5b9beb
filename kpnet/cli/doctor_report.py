"""The report of `kpnet data doctor`: its table, its contact sheet, and the mended copy."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from kpnet.core.console import PlainConsole
from kpnet.core.display import display_name
from kpnet.core.errors import KpnetError
from kpnet.core.files import file_name, write_atomic
from kpnet.core.outputs import output_file
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.build import open_dataset
from kpnet.data.convert import WRITERS, check_target, convert
from kpnet.data.formats.detect import detect_format
from kpnet.data.formats.writing import csv_text
from kpnet.evaluation.doctor import Examination, check_enough, examine, examine_with_run, mend
from kpnet.evaluation.run_data import check_unseen
from kpnet.evaluation.suspicions import KINDS, Suspicion
from kpnet.plot import draw_contact_sheet, save_figure

COLUMNS = ("image", "instance", "kind", "points", "z", "evidence", "certain", "proposal")


@dataclass(frozen=True)
class DoctorOptions:
    """What is examined, and with which models."""

    data: Path
    form: Any
    skeleton: str | None
    folds: int
    recipe: str | None
    run: Path | None
    out: Path | None
    workers: int


def run_doctor(options: DoctorOptions, sheet: Path, table: Path, count: int, fix: Path | None) -> None:
    """Examine the labels, print and write what is found, and write the mended copy if one is asked for."""
    path, form = detect_format(options.data) if options.form is None else (options.data, options.form)
    dataset = open_dataset(path, form, options.skeleton)
    if options.run is not None:
        other = "leave out --run, and models are trained that do not see a part of it"
        check_unseen(options.run, dataset, options.data, fix=other, validation_allowed=False)
    labelled = int(dataset.labels().sum())
    if not labelled:
        raise KpnetError(f"{options.data}: no labelled point in it; expected labels to examine")
    try:
        check_enough(labelled)
    except KpnetError as error:
        raise KpnetError(f"{options.data}: {error}") from None
    count_images = len({dataset.image_key(index) for index in range(len(dataset))})
    if options.run is None and options.folds > count_images:
        raise KpnetError(
            f"--folds: expected at most as many as there are images ({count_images}), found {options.folds}"
        )
    if fix is not None:
        check_target(fix, own_format(dataset))
    images = (dataset.image_file(index) for index in range(len(dataset)))
    read = [options.data, path, *(image for image in images if image is not None)]
    with ExitStack() as outputs:
        for file, option in ((sheet, "--sheet"), (table, "--table")):
            outputs.enter_context(output_file(file, option, read))
        found = _examine(options, path, form, dataset)
        _write(dataset, found, sheet, table, count)
    if fix is not None:
        certain = [each for each in found.suspicions if each.certain]
        done = convert(mend(dataset, certain, found.skeleton), fix, own_format(dataset))
        console = PlainConsole()
        console.print(f"{len(certain)} of {len(found.suspicions)} mended: {fix}", soft_wrap=True)
        if done.lost:
            console.print(f"not written, as that format cannot store it: {', '.join(done.lost)}", soft_wrap=True)


def own_format(dataset: KeypointDataset) -> str:
    """Return the format in which a copy of a dataset is written: its own, or COCO where that has no writer."""
    name = next((name for name, cls in DATASETS.items() if cls is type(dataset)), "")
    return name if name in WRITERS else "coco"


def _examine(options: DoctorOptions, path: Path, form: Any, dataset: KeypointDataset) -> Examination:
    if options.run is not None:
        return examine_with_run(options.run, dataset)
    from kpnet.experiments.folds import fold_config, predict_folds

    config = fold_config(path, form, dataset, options.folds, options.recipe)
    out = options.out or Path("runs") / file_name(f"doctor_{path.stem}")
    view, predictions = predict_folds(config, options.folds, out, workers=options.workers)
    return examine(dataset, predictions, view.skeleton, config.model.input_size)


def _write(dataset: KeypointDataset, found: Examination, sheet: Path, table: Path, count: int) -> None:
    rows = [_row(dataset, found, each) for each in found.suspicions]
    write_atomic(table, csv_text([list(COLUMNS), *rows]).encode())
    console = PlainConsole()
    console = console if console.is_terminal else PlainConsole(width=200)
    samples = len({each.index for each in found.suspicions})
    kinds = [f"{sum(each.kind == kind for each in found.suspicions)} {kind}" for kind in KINDS]
    said = ", ".join(kind for kind in kinds if not kind.startswith("0 "))
    console.print(f"{samples} of {len(dataset)} samples look wrong{': ' * bool(said)}{said}", soft_wrap=True)
    if not rows:
        return
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for title in COLUMNS:
        shown.add_column(title, justify="right" if title in ("z", "evidence") else "left")
    for row in rows[:count]:
        shown.add_row(*map(display_name, row))
    console.print(shown)
    if len(rows) > count:
        console.print(f"… {len(rows) - count} more", soft_wrap=True)
    order = list(dict.fromkeys(each.index for each in found.suspicions))[:count]
    notes: dict[int, str] = {}
    for each in found.suspicions:
        notes[each.index] = f"{notes[each.index]}, …" if each.index in notes else f"{each.kind}: {each.note}"
    save_figure(draw_contact_sheet(dataset, order, notes, _own_points(dataset, found)), sheet, png_compression=1)
    console.print(f"all of them: {table}; the worst: {sheet}", soft_wrap=True)


def _row(dataset: KeypointDataset, found: Examination, each: Suspicion) -> list[str]:
    names = [found.skeleton.names[k] for k in each.points]
    points = ", ".join(names[:3]) + (f", … {len(names)} in all" if len(names) > 3 else "")
    z = "" if np.isnan(each.z) else f"{each.z:.1f}"
    place = [dataset.image_name(each.index), str(dataset.instance(each.index))]
    return [*place, each.kind, points, z, f"{each.evidence:.1f}", "yes" if each.certain else "", each.note]


def _own_points(dataset: KeypointDataset, found: Examination) -> np.ndarray:
    """Return the predictions (N, K, 2) for the dataset's own points, NaN for those that the model has not."""
    points = np.full((len(dataset), len(dataset.skeleton), 2), np.nan)
    for k, name in enumerate(dataset.skeleton.names):
        if name in found.skeleton.names:
            points[:, k] = found.predicted[:, found.skeleton.names.index(name)]
    return points
