"""The report of `kpnet data agree`: a table of distances, and the skeleton with the sigmas that follow."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from kpnet.core.console import PlainConsole, echo
from kpnet.core.display import display_name
from kpnet.core.errors import KpnetError, few
from kpnet.core.files import plain, write_atomic
from kpnet.core.outputs import output_file
from kpnet.core.skeleton import Skeleton
from kpnet.core.yaml import write_yaml
from kpnet.data import KeypointDataset
from kpnet.data.build import open_dataset
from kpnet.evaluation.agreement import (
    Agreement,
    Distance,
    MatchedLabels,
    PointAgreement,
    match_labels,
    measure_agreement,
)
from kpnet.evaluation.run_data import check_unseen


def run_agreement(
    first: Path, second: Path, form: Any, skeleton: str | None, run: Path | None, sigmas: Path | None, as_json: bool
) -> None:
    """Measure the agreement, print it, and write the skeleton if one is asked for."""
    if sigmas is not None and sigmas.suffix.lower() not in (".yaml", ".yml"):
        raise KpnetError(f"--write-sigmas: {sigmas}: expected a file that ends in .yaml")
    ours, theirs = (open_dataset(path, form, skeleton) for path in (first, second))
    try:
        labels = match_labels(ours, theirs)
    except KpnetError as error:
        raise KpnetError(f"{first} and {second}: {error}") from None
    found = measure_agreement(labels, None if run is None else _predict(run, (first, second), ours, labels))
    if sigmas is not None:
        with output_file(sigmas, "--write-sigmas", [first, second]):
            _write_sigmas(sigmas, ours.skeleton, found)
    if as_json:
        print(json.dumps(plain(dataclasses.asdict(found)), indent=2))
        return
    _print(found, first, second)
    if sigmas is not None:
        echo(f"skeleton with these sigmas: {sigmas}")


def _predict(run: Path, paths: tuple[Path, Path], ours: KeypointDataset, labels: MatchedLabels) -> np.ndarray:
    """Return the model's points (M, K, 2) for the matched instances, in pixels; NaN for a point that it has not."""
    from kpnet.core.runtime import best_device
    from kpnet.evaluation.measurement import predict_dataset, to_image_pixels
    from kpnet.evaluation.run_data import adapt_dataset
    from kpnet.models.build import load_model

    for path in paths:
        check_unseen(run, ours, path, fix="compare it on images that it has not seen", validation_allowed=False)
    model = load_model(run).to(best_device())
    result = predict_dataset(model, adapt_dataset(ours, model))
    points, _ = to_image_pixels(result.predicted, result.matrix, model.config.input_size)
    predicted = np.full(labels.first.shape, np.nan)
    for k, name in enumerate(labels.names):
        if name in model.skeleton.names:
            predicted[:, k] = points[labels.indices[:, 0], model.skeleton.names.index(name)]
    return predicted


def _write_sigmas(path: Path, skeleton: Skeleton, found: Agreement) -> None:
    measured = {each.name: each.sigma for each in found.points}
    lacking = [name for name in skeleton.names if not measured.get(name, 0) > 0]
    if lacking:
        raise KpnetError(
            f"--write-sigmas: no distance to derive a sigma from for {few(lacking)}: expected labels of every point by "
            "both, which are not the same, and boxes or at least 3 points an instance, which say how large it is"
        )
    sigmas = tuple(round(measured[name], 5) for name in skeleton.names)
    text = write_yaml(dataclasses.replace(skeleton, sigmas=sigmas).to_dict())
    write_atomic(path, text.encode())


def _print(found: Agreement, first: Path, second: Path) -> None:
    console = PlainConsole()
    console = console if console.is_terminal else PlainConsole(width=200)
    by = {"box": "of the box", "points": "of the box around the points"}[found.size]
    console.print(
        f"{first} and {second}: {found.instances} instances on {found.images} images in both; "
        f"% of the size, the root of the area {by}",
        soft_wrap=True,
    )
    for note in found.notes:
        console.print(f"  {note}", soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    with_model = found.overall.model is not None
    for title in ("point", "both", "one only", "px apart", "%", "sigma", *(["model ÷ people"] if with_model else [])):
        table.add_column(title, justify="left" if title == "point" else "right")
    for each in (*found.points, found.overall):
        table.add_row(*_cells(each))
    console.print(table)
    if (ratio := found.overall.model) is None:
        return
    said = (
        "the two people's labels are the same where the model predicts: there is no distance to compare it with"
        if np.isnan(ratio.mean)
        else f"the model is as far from a person's labels as {ratio.mean:.2f} × two people are from one another "
        f"({ratio.low:.2f} to {ratio.high:.2f})"
    )
    console.print(said, soft_wrap=True)


def _cells(each: PointAgreement) -> list[str]:
    share = Distance(*(100 * value for value in dataclasses.astuple(each.share)))
    model = [] if each.model is None else [_format(each.model)]
    sigma = "" if np.isnan(each.sigma) else f"{each.sigma:.4f}"
    return [
        display_name(each.name),
        str(each.labels),
        str(each.alone),
        _format(each.pixels),
        _format(share),
        sigma,
        *model,
    ]


def _format(value: Distance) -> str:
    return "" if np.isnan(value.mean) else f"{value.mean:.2f} ({value.low:.2f}–{value.high:.2f})"
