"""Measures and learning rates as text for the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from kpnet.config.schema import TrainConfig
from kpnet.core.display import display_name
from kpnet.metrics import PASS_MARKS
from kpnet.models.keypoint_model import KeypointModel
from kpnet.training.freezing import count_learning_groups, frozen_stages, parameter_groups


def render_parameter_groups(model: KeypointModel, config: TrainConfig) -> Table:
    """Return a table of the model's parts: parameters, learning rate, and when each of them is trained."""
    order, stages = parameter_groups(model, config), len(model.backbone.strides)
    trained = [
        count_learning_groups(order, model, frozen_stages(config.freeze, stages, e)) for e in range(config.epochs)
    ]
    table = Table(box=box.HORIZONTALS, padding=(0, 1))
    for title in ("part", "parameters", "learning rate", "trained"):
        table.add_column(title, justify="left" if title in ("part", "trained") else "right", no_wrap=True)
    for index, part in enumerate(order):
        since = next((epoch for epoch, count in enumerate(trained) if index < count), None)
        when = "never: frozen" if since is None else f"from epoch {since + 1}: frozen until then" if since else "always"
        rate = f"{config.optimizer.lr * part.scale:.3g}"
        table.add_row(part.name, f"{sum(p.numel() for p in part.parameters):,}", rate, when)
    return table


def print_measures(console: Console, measures: dict[str, Any], what: str, *, skeleton: str | None = None) -> None:
    """Print the main measures of `kpnet.evaluate`, one per line.

    Args:
        console: Where to print.
        measures: The measures.
        what: What was measured, for the first line.
        skeleton: Name of the model's skeleton; for `facial15`, the score is compared with the course's pass mark.
    """
    verdict = ""
    pass_mark = PASS_MARKS.get(str(skeleton))
    if pass_mark is not None:
        verdict = f"; {'passes' if measures['score'] >= pass_mark else 'below'} the course's {pass_mark:.0f}"
    size = "x".join(map(str, measures["input_size"]))
    five, ten = (100 * measures[f"pck@{percent}%"] for percent in (5, 10))
    failure = 100 * measures["failure_threshold"]
    several = measures["samples"] != measures["images"]
    instances, each = (f"{measures['samples']} instances in ", "instances") if several else ("", "images")
    console.print(
        f"{what}: {instances}{measures['images']} images, {measures['points']} points, px of the model's {size} input\n"
        f"  score   {measures['score']:.2f}   (1 / (2 MSE){verdict})\n"
        f"  RMSE    {measures['rmse_px']:.4f} px per coordinate\n"
        f"  MRE     {measures['mre_px']:.4f} px mean radial error\n"
        f"  NME     {100 * measures['nme']:.3f} % of the {measures['nme_by']}, over {measures['nme_samples']} {each}\n"
        f"  failed  {100 * measures['failure_rate']:.2f} % of the {each}, with an NME above {failure:g} %; "
        f"AUC {measures['ced_auc']:.4f} of the error distribution up to that\n"
        f"  PCK     {five:.2f} % within 5 % of the image's side, {ten:.2f} % within 10 %; "
        f"AUC {measures['pck_auc']:.4f} up to {100 * measures['pck_curve']['threshold'][-1]:g} %",
        highlight=False,
        soft_wrap=True,
    )


def print_image_pixels(console: Console, original: dict[str, Any]) -> None:
    """Print the measures of `metrics.evaluate_in_image_pixels`: a line, and a row per keypoint."""
    confident = original.get("confident")
    lines = [("", original)] + ([] if confident is None else [(", confident points only", confident)])
    for what, row in lines:
        console.print(
            f"in pixels of the original images{what}: RMSE {row['rmse_px']:.3f} px, MRE {row['mre_px']:.3f} px, "
            f"{row['points']} points",
            highlight=False,
            soft_wrap=True,
        )
    table = Table(
        "point", "RMSE px", "MRE px", "points", *(["confident: RMSE px", "MRE px", "points"] if confident else [])
    )
    for name in original["per_point"]:
        rows = [held["per_point"][name] for _, held in lines]
        table.add_row(
            display_name(name),
            *(c for r in rows for c in (f"{r['rmse_px']:.3f}", f"{r['mre_px']:.3f}", str(r["points"]))),
        )
    console.print(table)


def print_instances(console: Console, measures: dict[str, Any]) -> None:
    """Print the measures of `instances.evaluate_instances`: some lines, the last of them with the worst images."""
    ap = ", ".join(f"{name} {measures[name]:.4f}" for name in ("AP", "AP50", "AP75", "AR"))
    sigmas = "a sigma of 0.05 for every point, as the skeleton has none" if measures["default_sigmas"] else "its sigmas"
    partial = f"; {measures['partial_images']} of them partly labelled" if measures["partial_images"] else ""
    precision = f" (precision {100 * measures['precision']:.2f} %)" if measures["found"] else ""
    lines = [
        f"instances that it finds itself: {measures['images']} images with {measures['instances']} instances{partial}, "
        "px of the original images",
        f"  OKS     {ap}   (with {sigmas})",
        f"  found   {measures['right']} of {measures['instances']} (recall {100 * measures['recall']:.2f} %), "
        f"{measures['false']} false{precision}, F1 {measures['f1']:.4f}; "
        f"scores of at least {measures['threshold']:.3g}",
    ]
    if measures["right"]:
        lines.append(
            f"  points  MRE {measures['mre_px']:.3f} px, NME {100 * measures['nme']:.3f} % of the "
            f"{measures['nme_by']}, over {measures['points']} points of the instances that were found"
        )
    if measures["partial_images"] < measures["images"]:
        lines.append(
            f"  counts  {measures['count_mae']:.3f} instances too many or too few in an image, "
            f"{100 * measures['count_right']:.2f} % of the images with the right number"
        )
    if reliability := measures["reliability"]:
        expected = f"; expected OKS {reliability['oks_error']:.3f} off" if "oks_error" in reliability else ""
        lines.append(f"  score   ECE {reliability['ece']:.3f} (expected calibration error){expected}")
    if measures["worst"]:
        worst = [f"{each['image']} ({each['missed']} missed, {each['false']} false)" for each in measures["worst"]]
        lines.append(f"  errors  {', '.join(worst[:3])}{', …' if len(worst) > 3 else ''}")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def print_points(console: Console, per_point: dict[str, dict[str, Any]]) -> None:
    """Print a table with a row per keypoint."""
    table = Table("point", "RMSE px", "MRE px", "PCK@5%", "points")
    for name, row in per_point.items():
        table.add_row(display_name(name), *_cells(row))
    console.print(table)


def print_groups(console: Console, per_group: dict[str, dict[str, Any]]) -> None:
    """Print a table with a row per group of the skeleton, if it has groups."""
    table = Table("group", "RMSE px", "MRE px", "PCK@5%", "points", "NME %")
    for name, row in per_group.items():
        table.add_row(display_name(name), *_cells(row), f"{100 * row['nme']:.3f}")
    if per_group:
        console.print(table)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return f"{row['rmse_px']:.3f}", f"{row['mre_px']:.3f}", f"{100 * row['pck@5%']:.1f}", str(row["points"])


def print_reliability(console: Console, reliability: dict[str, Any]) -> None:
    """Print the measures of `reliability.measure_reliability`, in two lines, or three where they are cross-fitted."""
    if reliability.get("cross_fitted"):
        console.print(
            "  confidence, cross-fitted: each half of the images by the calibration of the other half",
            highlight=False,
            soft_wrap=True,
        )
    ece = ", ".join(
        f"{reliability[key]:.3f} within {radius} of the side"
        for key, radius in (("ece", "5 %"), ("ece@1%", "1 %"))
        if key in reliability
    )
    shares = ", ".join(
        f"{100 * c['measured']:.1f} % ({100 * c['low']:.1f} to {100 * c['high']:.1f}) in the {level[:-1]} % ellipse"
        for level, c in reliability["coverage"].items()
    )
    console.print(
        f"  ECE     {ece} (expected calibration error)\n  points  {shares} (95 % interval)",
        highlight=False,
        soft_wrap=True,
    )


def print_presence(console: Console, presence: dict[str, float] | None, *, copies: bool = False) -> None:
    """Print the measures of `reliability.measure_presence` in a line; `copies`: also of images changed for them."""
    if presence is None:
        return
    where = ", copies with covered and moved points included" if copies else ""
    console.print(
        f"  there   AUC of presence {presence['auc']:.3f}, calibration error {presence['ece']:.3f}, on "
        f"{presence['there']} points that are there and {presence['absent']} that are not{where}",
        highlight=False,
        soft_wrap=True,
    )
