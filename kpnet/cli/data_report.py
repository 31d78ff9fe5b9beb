"""The report of `kpnet data check`: its text, its table and its contact sheet."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from kpnet.core.console import PlainConsole, echo
from kpnet.core.display import display_name, one_line
from kpnet.core.outputs import output_file
from kpnet.core.progress import progress
from kpnet.data.base import KeypointDataset
from kpnet.data.build import open_dataset
from kpnet.data.check import Findings, check_data
from kpnet.plot import draw_contact_sheet, save_figure

_SHOWN = 20  # lines per kind of problem
_POINTS = 500  # rows of the table


def run_data_check(data: Path, form: Any, skeleton: str | None, sheet: Path, count: int) -> bool:
    """Print the findings, draw the contact sheet, and return whether a sample or an image cannot be used."""
    log = logging.getLogger("kpnet")
    level = log.level
    log.setLevel(logging.ERROR)  # what is skipped is in the report
    try:
        dataset = open_dataset(data, form, skeleton)
    finally:
        log.setLevel(level)
    images = (dataset.image_file(index) for index in range(len(dataset)))
    with output_file(sheet, "--sheet", [data, *(path for path in images if path is not None)]):
        return _report(data, dataset, sheet, count)


def _report(data: Path, dataset: KeypointDataset, sheet: Path, count: int) -> bool:
    found = check_data(dataset, progress(range(len(dataset)), "samples"), _print_finding)
    console = PlainConsole()
    console = console if console.is_terminal else PlainConsole(width=200)
    console.print(f"{data}: {type(dataset).__name__}", highlight=False, soft_wrap=True)
    for line in _lines(dataset, found):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(_table(dataset, found))
    if found.samples:
        figure = draw_contact_sheet(dataset, _choose(found, len(dataset), count), found.suspicious)
        save_figure(figure, sheet, png_compression=1)
        console.print(f"contact sheet: {sheet}", highlight=False, soft_wrap=True)
    return bool(found.unusable)


def _print_finding(line: str) -> None:
    """Print what was found on stderr: the report, on stdout, counts it and shows the first ones of its kind."""
    echo(one_line(line), error=True)
    sys.stderr.flush()


def _choose(found: Findings, samples: int, count: int) -> list[int]:
    """Choose samples for the sheet: first the suspicious ones, then others spread evenly over the data."""
    odd = [*found.suspicious, *found.outside_samples][: count // 2]
    others = np.linspace(0, samples - 1, min(count, samples)).round().astype(int).tolist()
    return list(dict.fromkeys([*odd, *others]))[:count]


def _lines(dataset: KeypointDataset, found: Findings) -> list[str]:
    lines = [f"  {found.samples} samples on {found.images} images, at most {found.most} per image; {found.boxes} boxes"]
    if found.sizes is not None:
        (w, h), (width, height) = found.sizes
        lines.append(f"  images from {w}x{h} to {width}x{height}")
    points = len(found.names) * found.samples
    labelled = points - int(found.missing.sum())
    lines.append(
        f"  {labelled} of {points} points labelled, {found.hidden.sum()} hidden, {found.outside.sum()} outside"
    )
    lines += _several("skipped", found.skipped)
    lines += _several("notes", found.notes)
    lines += _several("hints", found.hints)
    lines += _several("images that cannot be read", found.failed)
    where = [dataset.image_name(index) for index in found.outside_samples]
    lines += _several("samples with points outside", where)
    sides = [
        f"{dataset.image_name(index)} #{dataset.instance(index)}: {what}" for index, what in found.suspicious.items()
    ]
    lines += _several("samples whose left and right may be swapped", sides)
    lines += _several("images that occur more than once", [" = ".join(names) for names in found.duplicates])
    lines += _several("file names that occur in several folders", [", ".join(paths) for paths in found.same_names])
    mirror = dataset.skeleton.can_mirror
    lines += [] if mirror else ["  left/right pairs are unknown: transforms that mirror will be refused"]
    possible = [f"{left} and {right}" for left, right in dataset.skeleton.possible_pairs]
    lines += _several("pairs that may be left and right (pairs in a skeleton says so; else they do not swap)", possible)
    return lines


def _several(what: str, items: list[str]) -> list[str]:
    """Return a heading with the number of items, and the first of them; nothing if there are none."""
    if not items:
        return []
    more = [f"    … {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return [f"  {len(items)} {what}:", *(f"    {one_line(item)}" for item in items[:_SHOWN]), *more]


def _table(dataset: KeypointDataset, found: Findings) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("point", "labelled", "missing", "hidden", "outside"):
        table.add_column(title, justify="left" if title == "point" else "right")
    for k, name in enumerate(found.names[:_POINTS]):
        counts = (found.samples - found.missing[k], found.missing[k], found.hidden[k], found.outside[k])
        table.add_row(display_name(name), *map(str, counts))
    if len(found.names) > _POINTS:
        table.add_row(f"… {len(found.names) - _POINTS} more")
    return table
