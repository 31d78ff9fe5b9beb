"""`compare`: from configs to a table and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic, write_json
from kpnet.experiments.plan import Row, plan, split_seeds
from kpnet.experiments.report.charts import ReportRow
from kpnet.experiments.report.page import write_report
from kpnet.experiments.runner import MARK, Outcome, locked_folder, resumable, run_trials
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
    """Train and measure each config with each seed; the table's records, as `table.tabulate` gives them.

    `out` (`default_folder`) then holds `report.html`, `comparison.md`, `.csv` and `.json`, and the runs. What is
    finished there is not repeated; what was interrupted goes on. sources: `CONFIG:5` has five seeds, whatever `seeds`
    says. folds: cross-validate on the training data in place of the validation data. workers: trainings at once.
    A KpnetError for configs and folders that cannot be.
    """
    console, out = console or Console(), Path(out or default_folder(sources))
    rows = plan(sources, overrides, seeds, folds)
    with locked_folder(out, MARK), resumable():
        outcomes: list[Outcome] = []
        place = {trial.key: (seed, row) for row, each in enumerate(rows) for seed, trial in enumerate(each.trials)}
        for outcome in run_trials(rows, out, console, workers):
            outcomes = sorted([*outcomes, outcome], key=lambda each: place[each.trial.key])
            records = _write(rows, outcomes, out)
        if any(outcome.result for outcome in outcomes):
            write_report(_shown(rows, outcomes), records, out / "report.html")
    print_table(console, records)
    if not any(outcome.result for outcome in outcomes):
        raise KpnetError(f"{out}: not one run was finished; the first: {outcomes[0].problem}")
    return records


def default_folder(sources: Sequence[str | Path]) -> Path:
    """Of other configs, another one: a comparison's table is not overwritten by the next one's."""
    return Path("runs") / "_".join(["compare", *(Path(split_seeds(source)[0]).stem for source in sources)])[:100]


def group_outcomes(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[Group]:
    """The finished runs of each row, and why others are not."""
    groups = {row.name: Group(row.name, problems=[row.problem] if row.problem else []) for row in rows}
    for outcome in outcomes:
        group, seed = groups[outcome.trial.row], outcome.trial.config.train.seed
        if outcome.result is not None:
            group.results.append(outcome.result)
        else:
            group.problems.append(f"seed {seed}: {outcome.problem}")
    return list(groups.values())


def _shown(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[ReportRow]:
    """The rows that have a finished run."""
    shown = []
    for row in rows:
        done = [(o.folder, o.result) for o in outcomes if o.trial.row == row.name and o.result is not None]
        if done:
            configs = [o.trial.config for o in outcomes if o.trial.row == row.name and o.result is not None]
            shown.append(ReportRow(row.name, configs, [folder for folder, _ in done], [result for _, result in done]))
    return shown


def _write(rows: Sequence[Row], outcomes: Sequence[Outcome], out: Path) -> list[dict[str, Any]]:
    """The table's files, after each run anew: what is there can be read while the rest is trained."""
    records = tabulate(group_outcomes(rows, outcomes))
    runs = [{"row": o.trial.row, "run": str(o.folder.relative_to(out)), "problem": o.problem} for o in outcomes]
    write_atomic(out / "comparison.md", to_markdown(records).encode())
    write_atomic(out / "comparison.csv", to_csv(records).encode())
    write_json(out / MARK, {"rows": records, "runs": runs})
    return records


def print_table(console: Console, records: Sequence[dict[str, Any]]) -> None:
    """Two tables, as one would be too wide for most terminals, accuracy and costs; then the notes."""
    # What is piped is not cut to a terminal's width.
    console = console if console.is_terminal else Console(file=console.file, width=200)
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
