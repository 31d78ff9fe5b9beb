"""Comparisons of configs: train them, tabulate their measures, build the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kpnet.core.console import PlainConsole
from kpnet.core.errors import KpnetError
from kpnet.core.files import file_name, write_atomic, write_json
from kpnet.experiments.plan import Row, plan, split_seeds
from kpnet.experiments.report.charts import ReportRow
from kpnet.experiments.report.page import write_report
from kpnet.experiments.runner import Outcome, locked_folder, resumable, run_trials
from kpnet.experiments.table import HEADINGS, Group, cells, tabulate, to_csv, to_markdown


def compare(
    sources: Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    seeds: int = 3,
    folds: int | None = None,
    workers: int = 1,
    out: str | Path | None = None,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Train and measure each config with each seed.

    Finished runs in `out` are not repeated, and interrupted ones are continued.

    Args:
        sources: YAML files or names of recipes; `CONFIG:5` has five seeds, whatever `seeds` says.
        overrides: Config values for all of them, such as "train.epochs=10".
        seeds: Trainings per config, whose seeds count up from the config's own.
        folds: Number of folds to cross-validate with on the training data; None uses the validation data.
        workers: Trainings to run at the same time.
        out: Folder for `report.html`, `comparison.md`, `.csv` and `.json`, and `runs/`; None is `default_folder`.
        console: Where to print; None is the terminal.

    Returns:
        The records of the table, as `table.tabulate` returns them.

    Raises:
        KpnetError: If nothing can be trained, a config is given twice, no run finishes, or `out` holds something else.
    """
    console, out = console or PlainConsole(), Path(out or default_folder(sources))
    rows = plan(sources, overrides, seeds, folds)
    with locked_folder(out, "comparison"), resumable():
        outcomes: list[Outcome] = []
        place = {trial.key: (seed, row) for row, each in enumerate(rows) for seed, trial in enumerate(each.trials)}
        for outcome in run_trials(rows, out, console, workers):
            outcomes = sorted([*outcomes, outcome], key=lambda each: place[each.trial.key])
            records = _write(rows, outcomes, out)
        if any(outcome.result for outcome in outcomes):
            write_report(_report_rows(rows, outcomes), records, out / "report.html")
    print_table(console, records)
    if not any(outcome.result for outcome in outcomes):
        raise KpnetError(f"{out}: no run was finished; the first one: {outcomes[0].problem}")
    return records


def default_folder(sources: Sequence[str | Path]) -> Path:
    """Return a folder named after the configs, so that comparing others does not overwrite this table."""
    return Path("runs") / file_name("_".join(["compare", *(Path(split_seeds(source)[0]).stem for source in sources)]))


def group_outcomes(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[Group]:
    """Return each row's finished runs, and the problems of its other runs."""
    groups = {row.name: Group(row.name, problems=[row.problem] if row.problem else []) for row in rows}
    for outcome in outcomes:
        group, seed = groups[outcome.trial.row], outcome.trial.config.train.seed
        if outcome.result is not None:
            group.results.append(outcome.result)
        else:
            group.problems.append(f"seed {seed}: {outcome.problem}")
    return list(groups.values())


def _report_rows(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[ReportRow]:
    """Return the rows that have a finished run."""
    found = [ReportRow(row.name, [], [], []) for row in rows]
    for row in found:
        for outcome in outcomes:
            if outcome.trial.row == row.name and outcome.result is not None:
                row.configs.append(outcome.trial.config)
                row.runs.append(outcome.folder)
                row.results.append(outcome.result)
    return [row for row in found if row.results]


def _write(rows: Sequence[Row], outcomes: Sequence[Outcome], out: Path) -> list[dict[str, Any]]:
    """Write the table's files, which is done after each run: they can be read while the others are trained."""
    records = tabulate(group_outcomes(rows, outcomes))
    runs = [{"row": o.trial.row, "run": str(o.folder.relative_to(out)), "problem": o.problem} for o in outcomes]
    write_atomic(out / "comparison.md", to_markdown(records).encode())
    write_atomic(out / "comparison.csv", to_csv(records).encode())
    write_json(out / "comparison.json", {"rows": records, "runs": runs})
    return records


def print_table(console: Console, records: Sequence[dict[str, Any]]) -> None:
    """Print a table of accuracy and one of costs, as a single one is too wide for most terminals; then the notes."""
    # Piped tables are not cut to the terminal's width.
    console = console if console.is_terminal else PlainConsole(file=console.file, width=200)
    texts = [cells(record) for record in records]
    place = HEADINGS.index("parameters")
    accuracy = [0, *range(2, place), HEADINGS.index("score − first"), HEADINGS.index("p")]
    for columns in (accuracy, [0, 1, *range(place, HEADINGS.index("score − first"))]):
        table = Table()
        kept = [c for c in columns if any(row[c] for row in texts)]
        for c in kept:
            table.add_column(HEADINGS[c], justify="right" if c else "left", overflow="fold")
        for row in texts:
            table.add_row(*(Text(row[c]) for c in kept))
        console.print(table)
    for record in records:
        if record["note"]:
            console.print(f"{record['row']}: {record['note']}", markup=False, highlight=False, soft_wrap=True)
