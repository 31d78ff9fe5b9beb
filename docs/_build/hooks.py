"""Content generated while the site is built: `<!-- generated: NAME -->` is replaced by what NAME returns here."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from kpnet.cli.entry import app

sys.path.insert(0, str(Path(__file__).parent))  # mkdocs loads this file by its path
from reference_tables import config_reference

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the generated parts of a page; mkdocs calls this for each one."""
    return re.sub(r"^<!-- generated: (\w+) -->$", lambda found: GENERATED[found[1]](), markdown, flags=re.MULTILINE)


def shipped() -> str:
    """Return the table of all recipes, as the comparison wrote it."""
    return (RESULTS / "shipped" / "comparison.md").read_text(encoding="utf-8")


def test_time() -> str:
    """Return the table of scores with other views and decodings at test time."""
    table = pd.read_csv(RESULTS / "test_time.csv").sort_values("plain", ascending=False)
    lines = [
        "| recipe | seed | plain | flip test | flips and shifts of 2 px | soft-argmax decoding |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for row, seed, *scores in table.itertuples(index=False):
        lines.append(f"| `{row}` | {seed} | {' | '.join('' if pd.isna(s) else f'{s:.1f}' for s in scores)} |")
    return "\n".join(lines)


def _script(name: str) -> Any:
    """Import a script of `benchmarks/accuracy`."""
    sys.path.insert(0, str(BENCHMARKS / "accuracy"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS / "accuracy"))


def few_labels() -> str:
    """Return what `python benchmarks/accuracy/few_labels.py --table` prints."""
    return str(_script("few_labels").markdown())


def few_labels_points() -> str:
    """Return the table of the errors of a mouse's points, which the same command prints."""
    return str(_script("few_labels").points_markdown())


def ablations() -> str:
    """Return what `python benchmarks/accuracy/ablations.py --table` prints."""
    script = _script("ablations")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        script.ablations()
    return printed.getvalue()


def i2dl_grid() -> str:
    """Return the tables of the sweep over the course's grid, as it wrote them."""
    return (RESULTS / "i2dl_grid" / "sweep.md").read_text(encoding="utf-8")


def calibration() -> str:
    """Return the table of calibration errors and coverage of the 90 % ellipse, before and after calibration."""
    table = pd.read_csv(RESULTS / "calibration.csv")
    lines = [
        "| recipe | val score | calibration error | calibrated | in the 90 % ellipse | calibrated | 95 % interval |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for config, rows in table.groupby("config"):
        before, after = (rows[rows.calibrated == when].iloc[0] for when in ("before", "after"))
        low, high = (100 * float(value) for value in after["90% interval"].split())
        cells = [f"`{config}`", f"{after.score:.1f}", f"{before.ece:.3f}", f"{after.ece:.3f}"]
        cells += [f"{100 * before['90%']:.1f} %", f"{100 * after['90%']:.1f} %", f"{low:.1f} to {high:.1f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def presence() -> str:
    """Return the table of what models say of points that are covered or outside, each with its seed."""
    table = pd.read_csv(RESULTS / "presence.csv")
    lines = [
        "| row | seed | epochs | val score | clean calibration error | covered: confidence | outside: confidence "
        "| outside: presence | AUC of presence | its calibration error |",
        "| --- " + "| --: " * 9 + "|",
    ]
    figures = ("clean ece", "covered confidence", "outside confidence", "outside presence", "presence auc")
    for _, row in table.iterrows():
        cells = [row["row"], str(row.seed), str(row.epochs), f"{row.score:.1f}"]
        cells += ["–" if pd.isna(row[name]) else f"{row[name]:.3f}" for name in (*figures, "presence ece")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def guarantee() -> str:
    """Return the table of what radii hold over random halves, beside the law."""
    lines = [
        "| run | images | at | points | law | images as a whole | law | p of the law, points | images "
        "| calibration error | in the 90 % ellipses |",
        "| --- " + "| --: " * 10 + "|",
    ]
    for row in pd.read_csv(RESULTS / "guarantee.csv").to_dict("records"):
        cells = [row["run"], str(row["images"]), f"{100 * row['at']:g} %"]
        for what in ("points", "joint"):
            for law in ("", " law"):
                share, deviation = row[f"{what}{law}"], row[f"{what} deviation{law}"]
                cells.append(f"{100 * share:.1f} ± {100 * deviation:.1f} %")
        cells += [f"{row[f'{what} p']:.2f}" for what in ("points", "joint")]
        cells += ["" if pd.isna(row["ece"]) else f"{row['ece']:.3f}", "" if pd.isna(row["90%"]) else f"{row['90%']:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def watch() -> str:
    """Return the table of what is found in batches of new images, and of the expected errors."""
    lines = [
        "| model | batches | AUC | found | expected error px | true error px |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    for row in pd.read_csv(RESULTS / "watch.csv").to_dict("records"):
        cells = ["" if pd.isna(row["auc"]) else f"{row['auc']:.3f}", f"{row['found_percent']:.1f} %"]
        cells += ["" if pd.isna(row[key]) else f"{row[key]:.2f}" for key in ("expected_px", "true_px")]
        lines.append(f"| {row['model'].replace('_', ' ')} | {row['data'].replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def transfer() -> str:
    """Return the table of transfer learning: each seed's score, and the means of the other measures."""
    table = pd.read_csv(RESULTS / "transfer.csv")
    lines = [
        "| row | labels | score, seeds 0 and 1 | mean | with flip test | RMSE px | minutes |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for name, rows in table.groupby("row", sort=False):
        scores, mean = rows.sort_values("seed").score, rows.mean(numeric_only=True)
        labels = "all" if pd.isna(mean.labels) else f"{mean.labels:.0f}"
        cells = [str(name).removesuffix(f" {labels}"), labels, " / ".join(f"{score:.0f}" for score in scores)]
        cells += [f"{mean.score:.0f}", f"{mean.score_flip:.0f}", f"{mean.rmse_px:.2f}", f"{mean.train_minutes:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def pretraining() -> str:
    """Return the table of the methods of pretraining, with the seeds that have not been run."""
    table = pd.read_csv(RESULTS / "pretraining.csv")
    lines = [
        "| method, images | score, seed 0 | seed 1 | RMSE px | processor minutes: pretraining | training |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name, rows in table.groupby("row", sort=False):
        scores, mean = dict(zip(rows.seed, rows.score, strict=True)), rows.mean(numeric_only=True)
        cells = [str(name), *(f"{scores[seed]:.0f}" if seed in scores else "not run" for seed in (0, 1))]
        cells += [
            f"{mean.rmse_px:.2f}",
            f"{mean.pretrain_processor_minutes:.1f}",
            f"{mean.train_processor_minutes:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def instances() -> str:
    """Return the table of the two ways of finding instances."""
    table = pd.read_csv(RESULTS / "instances.csv")
    lines = [
        "| data, way, seed | AP, true boxes | AP, own | recall | precision | error of points, px | right number | minutes |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in table.to_dict("records"):
        boxed = "" if pd.isna(row["AP_boxes"]) else f"{row['AP_boxes']:.3f}"
        cells = [row["row"], boxed, f"{row['AP']:.3f}", *(f"{100 * row[key]:.1f} %" for key in ("recall", "precision"))]
        cells += [f"{row['mre_px']:.2f}", f"{100 * row['count_right']:.0f} %", f"{row['minutes']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tracking() -> str:
    """Return the table of identities that are kept, by method."""
    table = pd.read_csv(RESULTS / "tracking.csv")
    lines = [
        "| data | method | IDF1 | switches | HOTA | wrong identities that are marked | frames with a mark |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for row in table.to_dict("records"):
        marked = "" if pd.isna(row["marked"]) else f"{100 * row['marked']:.0f} %"
        cells = [row["data"], row["method"], f"{row['idf1']:.3f}", f"{row['switches']:.1f}", f"{row['hota']:.3f}"]
        cells.append(marked)
        cells.append(f"{100 * row['guesses']:.1f} %")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def temporal() -> str:
    """Return the table of error and jitter on moving faces, for each seed."""
    table = pd.read_csv(RESULTS / "temporal.csv")
    lines = ["| row | RMSE px, each seed | jitter px, each seed |", "| --- | --: | --: |"]
    for name, rows in table.groupby("row", sort=False):
        cells = [
            " / ".join(f"{value:.2f}" for value in rows.sort_values("seed")[key]) for key in ("rmse_px", "jitter_px")
        ]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def doctor() -> str:
    """Return the table of planted label errors that the doctor finds."""
    kinds = {
        "swap": "left and right swapped, or one pair",
        "order": "a shifted or random order",
        "off": "one point 8 px off",
        "face": "the points of another face",
    }
    lines = [
        "| seed | planted | doctor: found, false | F1 | F1 of the shape alone |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in pd.read_csv(RESULTS / "doctor.csv").to_dict("records"):
        shape = row["f1 of the shape alone"]
        lines.append(
            f"| {row['seed']} | {kinds[row['kind']]} | {row['found']}, {row['false']} | {row['f1']:.2f} | {shape:.2f} |"
        )
    return "\n".join(lines)


def labelling() -> str:
    """Return the table of the simulated labelling loop: the queue of uncertain images beside the random one."""
    lines = [
        "| images, seed | steps | labels | RMSE on val, % of the side | within 5 % of the side on val, % "
        "| the same, on the images labelled next | keystrokes for each of them | by hand |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    table = pd.read_csv(RESULTS / "labelling.csv")
    for (data, seed, steps, labels), rows in table.groupby(["data", "seed", "steps", "labels"], sort=False):
        both = rows.set_index("queue").reindex(["uncertain", "random"])
        cells = [
            ", ".join("–" if pd.isna(value) else f"{value:.{digits}f}" for value in both[column])
            for column, digits in (("rmse_percent", 2), ("val_near_percent", 1), ("near_percent", 1), ("keys", 1))
        ]
        cells = [f"{data}, {seed}", str(steps), str(labels), *cells, f"{rows.keys_by_hand.mean():.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def commands() -> str:
    """Return the reference of all commands with their arguments and options, read from the application itself."""
    group: Any = typer.main.get_command(app)
    lines: list[str] = []
    for name, command in _commands(group.commands):
        shown = {parameter: _shown(parameter) for parameter in command.params if parameter.name != "help"}
        arguments = [text for parameter, text in shown.items() if parameter.param_type_name == "argument"]
        lines += [f"## `kpnet {' '.join([name, *arguments])}` {{ #{name.replace(' ', '-')} }}", "", command.help, ""]
        lines += ["| | description | default |", "| --- | --- | --- |"]
        for parameter, text in shown.items():
            given = not getattr(parameter, "is_flag", True) and isinstance(parameter.default, (str, Path, float, int))
            lines.append(f"| `{text}` | {parameter.help} | {f'`{parameter.default}`' if given else ''} |")
        lines.append("")
    return "\n".join(lines)


def _commands(commands: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield names and commands in alphabetical order; those of a group follow its name."""
    for name, command in sorted(commands.items()):
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", each) for inner, each in _commands(command.commands))
        else:
            yield name, command


def _shown(parameter: Any) -> str:
    """Return an option's names, the negative one included, or an argument as the usage line has it: `RUN`, `[DATA]`, `INPUT…`."""
    if parameter.param_type_name == "option":
        return "/".join(parameter.opts + parameter.secondary_opts)
    name = (parameter.metavar or parameter.name.upper()) + "…" * (parameter.nargs == -1)
    return name if parameter.required else f"[{name}]"


GENERATED = {
    "shipped": shipped,
    "test_time": test_time,
    "ablations": ablations,
    "few_labels": few_labels,
    "few_labels_points": few_labels_points,
    "i2dl_grid": i2dl_grid,
    "calibration": calibration,
    "presence": presence,
    "guarantee": guarantee,
    "watch": watch,
    "doctor": doctor,
    "labelling": labelling,
    "transfer": transfer,
    "pretraining": pretraining,
    "temporal": temporal,
    "instances": instances,
    "tracking": tracking,
    "commands": commands,
    "config_reference": config_reference,
}
