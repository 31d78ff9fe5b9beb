"""A sweep's table: a row a trial."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from kpnet.config.sweep import SweepConfig
from kpnet.core.files import write_atomic


def records(sweep: SweepConfig, trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """Flat records of the trials: a grid's in the order of its cells, others the best first."""
    rows = []
    for trial in trials:
        attributes = trial.user_attrs
        state = "diverged" if attributes.get("diverged") else trial.state.name.lower()
        score = trial.value if state == "complete" else None
        rows.append(
            {
                "trial": trial.number,
                **attributes["values"],
                "score": score,
                "rmse_px": attributes.get("rmse_px"),
                "state": state,
                "run": attributes["run"],
                "note": attributes["note"],
            }
        )
    if sweep.method == "grid":
        return sorted(rows, key=lambda row: [_place(sweep, key, row[key]) for key in sweep.space])
    return sorted(rows, key=lambda row: -1.0 if row["score"] is None else row["score"], reverse=True)


def _place(sweep: SweepConfig, key: str, value: Any) -> int:
    values = sweep.space[key]
    assert isinstance(values, list)
    return [json.dumps(v) for v in values].index(json.dumps(value))


def to_markdown(sweep: SweepConfig, rows: Sequence[dict[str, Any]]) -> str:
    """Columns of the keys, by their last words, and the score; `tables` makes one table for each of a key's values."""
    keys = sweep.columns or [key for key in sweep.space if key != sweep.tables]
    if sweep.tables is None:
        return _table(sweep, keys, rows)
    values = sweep.space[sweep.tables]
    assert isinstance(values, list)
    parts = []
    for value in values:
        held = [row for row in rows if row[sweep.tables] == value]
        parts.append(f"{_words(sweep, sweep.tables)}: {value}\n\n{_table(sweep, keys, held)}")
    return "\n".join(parts)


def _table(sweep: SweepConfig, keys: list[str], rows: Sequence[dict[str, Any]]) -> str:
    lines = [[*(_words(sweep, key) for key in keys), "score"], ["---"] * (len(keys) + 1)]
    for row in rows:
        score = f"{row['score']:.2f}" if row["score"] is not None else row["state"]
        lines.append([*(_value(row[key]) for key in keys), score])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _words(sweep: SweepConfig, key: str) -> str:
    """The last word of a key, where no other of the sweep's ends so."""
    last = key.rpartition(".")[2]
    alone = sum(other.rpartition(".")[2] == last for other in sweep.space) == 1
    return last.replace("_", " ") if alone else key


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_tables(sweep: SweepConfig, trials: Sequence[FrozenTrial], out: Path) -> list[dict[str, Any]]:
    """`sweep.md` and `sweep.csv`, after each trial anew."""
    rows = records(sweep, trials)
    write_atomic(out / "sweep.md", to_markdown(sweep, rows).encode())
    write_atomic(out / "sweep.csv", pd.DataFrame(rows).to_csv(index=False).encode())
    return rows
