"""`report.html`: a comparison as one page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kpnet.config.loading import flatten, run_config, to_yaml
from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic
from kpnet.core.hub_address import format_path, is_hub
from kpnet.core.outputs import output_file
from kpnet.experiments.plan import unique_name
from kpnet.experiments.report.charts import (
    ReportRow,
    assign_colours,
    draw_charts,
    draw_reliability,
    draw_shapes,
    point_errors,
)
from kpnet.experiments.report.found_gallery import build_found_gallery
from kpnet.experiments.report.gallery import build_gallery, comparable
from kpnet.experiments.result import FILE, load_result, measure_run
from kpnet.experiments.table import HEADINGS, KEYS, Group, cells, tabulate


def report_runs(runs: Sequence[str | Path], out: str | Path = "report.html") -> Path:
    """Build the page of existing runs; those that differ only by seed and fold share a row.

    Args:
        runs: Run folders.
        out: The HTML file to write.

    Returns:
        The path of the page.

    Raises:
        KpnetError: If there is no run, a folder is not a run with metrics, or `out` is a file of another program.
    """
    if not runs:
        raise KpnetError("nothing to report: give run folders")
    with output_file(out, "--out"):
        rows = group_runs(runs)
        return write_report(rows, tabulate([Group(row.name, row.results) for row in rows]), Path(out))


def group_runs(runs: Sequence[str | Path]) -> list[ReportRow]:
    """Group runs into rows by their configs, in order of appearance."""
    rows: dict[str, ReportRow] = {}
    for run in map(Path, runs):
        if is_hub(run):
            raise KpnetError(f"{format_path(run)}: expected a run folder: the hub has no record of a training")
        config = run_config(run)
        if config is None:
            raise KpnetError(f"{run}: not a run: it has no config.yaml")
        key = to_yaml(_recipe(config.model_dump(mode="json")))
        if key not in rows:
            rows[key] = ReportRow(unique_name(config.name, [row.name for row in rows.values()]), [], [], [])
        rows[key].runs.append(run)
        rows[key].configs.append(config)
        rows[key].results.append(load_result(run) if (run / FILE).is_file() else measure_run(run))
    return list(rows.values())


def write_report(rows: Sequence[ReportRow], records: Sequence[dict[str, Any]], out: Path) -> Path:
    """Write the page of these rows and of the table's records to `out`, and return its path."""
    assign_colours(rows)
    configs, alike = [_recipe(_config(row)) for row in rows], comparable(rows)
    page = Environment(
        loader=PackageLoader("kpnet.experiments.report", "."), autoescape=True, undefined=StrictUndefined
    )
    columns = _filled(records)
    text = page.get_template("report.html.j2").render(
        title=" · ".join(row.name for row in rows),
        headings=[HEADINGS[i] for i in columns],
        table=_table(records, columns, {row.name: row.colour for row in rows}),
        charts=draw_charts(rows),
        reliability=draw_reliability(rows),
        shapes=draw_shapes(rows),
        points=point_errors(rows),
        gallery=build_gallery(alike),
        found=build_found_gallery(rows),
        omitted=[row.name for row in rows if row.name not in {a.name for a in alike}],
        differences=_differences(configs),
        rows=[
            {
                "name": row.name,
                "runs": [run.name for run in row.runs],
                "config": to_yaml(_config(row)),
                "colour": row.colour,
            }
            for row in rows
        ],
        versions=_versions(rows),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, text.encode(errors="backslashreplace"))
    return out


def _config(row: ReportRow) -> dict[str, Any]:
    return row.configs[0].model_dump(mode="json")


def _recipe(values: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a config that the runs of a row have in common."""
    train = {key: value for key, value in values["train"].items() if key != "seed"}
    data = {key: value for key, value in values["data"].items() if key not in ("fold", "root")}
    return {**values, "train": train, "data": data}


def _differences(configs: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the keys whose values differ between configs, with the value of each config."""
    flats = [flatten(config) for config in configs]
    keys = {key: None for each in flats for key in each if key != "name"}
    table = {key: [str(each.get(key, "")) for each in flats] for key in keys}
    return {key: values for key, values in table.items() if len(set(values)) > 1}


def _versions(rows: Sequence[ReportRow]) -> dict[str, str]:
    """Return the versions that the runs were made with; different ones are joined in the order of the rows."""
    every = [result.versions for row in rows for result in row.results]
    return {name: " and ".join(dict.fromkeys(versions[name] for versions in every)) for name in every[0]}


def _filled(records: Sequence[dict[str, Any]]) -> list[int]:
    """Return the columns of the table that are not empty in every row."""
    return [i for i, texts in enumerate(zip(*map(cells, records), strict=True)) if any(texts)]


def _table(
    records: Sequence[dict[str, Any]], columns: Sequence[int], colours: dict[str, str]
) -> list[list[dict[str, Any]]]:
    """Return the cells of these columns of the table: text, sort value, key and colour of the row."""
    rows = []
    for record in records:
        texts, colour = cells(record), colours.get(record["row"], "none")
        rows.append([{"text": texts[i], "value": record[KEYS[i]], "key": KEYS[i], "colour": colour} for i in columns])
    return rows
