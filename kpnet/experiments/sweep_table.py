"""What a study holds of its trials, and the table of a sweep: a row per trial."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from kpnet.config.sweep import SweepConfig
from kpnet.core.files import write_atomic

OUTCOME = "outcome"  # the attribute of an ended trial: its values, run, note, RMSE and state


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the ended trials that have an outcome; of several with the same values, the last."""
    found = {}
    for trial in study.get_trials(deepcopy=False):
        outcome = trial.user_attrs.get(OUTCOME)
        if outcome is None or not trial.state.is_finished():
            continue
        if trial.state != TrialState.FAIL or outcome["state"] == "failed":  # not killed before it could tell
            found[json.dumps(outcome["values"])] = trial
    return list(found.values())


def failures(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return a line for each trial that failed; one that was stopped has a result, and one that diverged the worst."""
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    return [f"trial {trial.number}: {trial.user_attrs[OUTCOME]['note']}" for trial in failed]


def records(sweep: SweepConfig, trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """Return flat records of the trials: a grid in the order of its cells, other methods best first."""
    rows = []
    for trial in trials:
        outcome = trial.user_attrs[OUTCOME]
        state = "diverged" if outcome["state"] == "diverged" else trial.state.name.lower()
        score = trial.value if state == "complete" else None
        rows.append(
            {
                "trial": trial.number,
                **outcome["values"],
                "score": score,
                "rmse_px": outcome["rmse_px"],
                "state": state,
                "run": outcome["run"],
                "note": outcome["note"],
            }
        )
    if sweep.method == "grid":
        return sorted(rows, key=lambda row: [_place(sweep, key, row[key]) for key in sweep.space])
    return sorted(rows, key=lambda row: -1.0 if row["score"] is None else row["score"], reverse=True)


def _place(sweep: SweepConfig, key: str, value: Any) -> int:
    """Return the index of a value in the grid."""
    values = sweep.space[key]
    assert isinstance(values, list)
    return [json.dumps(v) for v in values].index(json.dumps(value))


def to_markdown(sweep: SweepConfig, rows: Sequence[dict[str, Any]]) -> str:
    """Return Markdown with a column per key and the score; with `tables`, one table for each value of that key."""
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
    """Return the last part of a key, or the whole key if another one ends the same."""
    last = key.rpartition(".")[2]
    alone = sum(other.rpartition(".")[2] == last for other in sweep.space) == 1
    return last.replace("_", " ") if alone else key


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_tables(sweep: SweepConfig, trials: Sequence[FrozenTrial], out: Path) -> list[dict[str, Any]]:
    """Write `sweep.md` and `sweep.csv`, which is done after each trial; return their records."""
    rows = records(sweep, trials)
    write_atomic(out / "sweep.md", to_markdown(sweep, rows).encode())
    write_atomic(out / "sweep.csv", pd.DataFrame(rows).to_csv(index=False).encode())
    return rows
