"""What `kpnet data next` does: rank the images of a folder or dataset, print them, and draw a contact sheet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from kpnet.core.console import PlainConsole, echo
from kpnet.core.display import display_name
from kpnet.core.errors import KpnetError
from kpnet.core.outputs import output_file
from kpnet.core.progress import progress
from kpnet.data.build import open_dataset
from kpnet.inference.predictor import Predictor
from kpnet.labelling.labels import read_labels
from kpnet.labelling.ranking import Candidate, PredictedDataset, candidates, rank_uncertain
from kpnet.labelling.source import default_labels, holds_only_images, open_folder, relative_names
from kpnet.plot import draw_contact_sheet, save_figure

NOTHING = "nothing found"


def run_data_next(run: Path, data: Path, form: Any, count: int, sheet: Path) -> bool:
    """Print the images to label next and draw them; return whether an image could not be read or predicted."""
    images, read, name = _images(data, form)
    if not images:
        raise KpnetError(f"{data}: every image has labels; expected some without")
    failures: list[str] = []
    predictor = Predictor(run)
    with output_file(sheet, "--sheet", [data]):
        ranked = rank_uncertain(
            predictor,
            progress(images, "images", len(images)),
            count,
            failed=lambda index, error: failures.append(str(error)),
        )[:count]
        for line in failures:
            echo(f"kpnet: {line}", error=True)
        if not ranked:
            raise KpnetError(f"{data}: none of its {len(images)} images can be predicted")
        table = Table("", "image", "expected error, px", "% of the side")
        for number, each in enumerate(ranked, 1):
            is_found = len(each.prediction.keypoints) > 0
            values = (f"{each.expected_error:.2f}", f"{100 * each.share:.2f}") if is_found else (NOTHING, "")
            table.add_row(str(number), display_name(name(each.index)), *values)
        console = PlainConsole()
        console = console if console.is_terminal else PlainConsole(width=200)
        console.print(table)
        notes = {
            k: f"{100 * each.share:.1f} % expected error" if len(each.prediction.keypoints) else NOTHING
            for k, each in enumerate(ranked)
        }
        dataset = PredictedDataset(predictor, ranked, read, name)
        save_figure(draw_contact_sheet(dataset, range(len(ranked)), notes), sheet, png_compression=1)
    console.print(f"contact sheet: {sheet}", highlight=False, soft_wrap=True)
    return bool(failures)


def _images(data: Path, form: Any) -> tuple[list[Candidate], Callable[[int], np.ndarray], Callable[[int], str]]:
    """Return the images without labels, what reads an image, and what its name is."""
    if form is None and data.is_dir() and holds_only_images(data):
        source = open_folder(data, default_labels(data / "labels"))
        names = relative_names(source.images, source.labels)
        known = read_labels(source.labels)[1] if source.labels.is_file() else {}
        labelled = {name for name, instances in known.items() if instances}
        found: list[Candidate] = [
            (i, partial(source.read, i), None) for i, name in enumerate(names) if name not in labelled
        ]
        return found, source.read, names.__getitem__
    dataset = open_dataset(data, form)
    return list(candidates(dataset)), lambda index: dataset.read(index)[0], dataset.image_name
