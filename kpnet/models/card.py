"""The model card of a shared model: the README of its repository, made from the run."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpnet.backbones.pretrained import format_spec
from kpnet.config.loading import run_config
from kpnet.core.display import display_name, printable
from kpnet.core.errors import KpnetError, few
from kpnet.core.registry import split_spec
from kpnet.models.record import FIGURE, NEEDED

CARD = "README.md"
NOT_STATED = "**Not stated.**"
_ROWS = (  # key of the measures, name, factor, digits, unit
    ("rmse_px", "RMSE per coordinate", 1, 3, "px"),
    ("mre_px", "Mean radial error", 1, 3, "px"),
    ("nme", "NME", 100, 2, "%"),
    ("pck@5%", "PCK at 5 % of the longer side", 100, 1, "%"),
    ("pck@10%", "PCK at 10 % of the longer side", 100, 1, "%"),
    ("failure_rate", "Failure rate", 100, 1, "%"),
    ("score", "Score, 1 / (2 MSE)", 1, 1, ""),
)
_FOUND = (  # of the instances that a model finds itself
    ("AP", "AP of found instances", 1, 3, ""),
    ("precision", "Precision of found instances", 100, 1, "%"),
    ("recall", "Recall of found instances", 100, 1, "%"),
)
# Identifiers of https://huggingface.co/docs/hub/repositories-licenses without those of one model. Others are refused.
_LICENCES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0
    cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0
    cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl
    gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql
    ofl-1.1 ncsa unlicense zlib pddl lgpl-lr unknown other
"""
LICENCES = frozenset(_LICENCES.split())
_NAMED = 150  # more points than this are not listed
_STRUCTURE = re.compile(r"^(#|---|===|___|\*\*\*|```|~~~)")  # what would begin or end a part of the card
LONGEST = 10_000  # characters of a statement


@dataclass(frozen=True)
class Statements:
    """What the author of a model says of it, and no file does. None: not stated, and the card says so.

    Attributes:
        licence: Licence of the weights, an identifier of the hub (`mit`, `cc-by-4.0`) or a name, which the hub files
            under `other`.
        data: What the model was trained on.
        data_licence: Licence of that data.
        intended_use: What the model is meant for, and what not. Its lines stay apart; the others become one.

    Raises:
        KpnetError: One is no text, or has more than `LONGEST` characters.
    """

    licence: str | None = None
    data: str | None = None
    data_licence: str | None = None
    intended_use: str | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise KpnetError(f"{name}: expected a text, found {value!r}; leave it out where it is not known")
            if value is not None and len(value) > LONGEST:
                raise KpnetError(f"{name}: expected at most {LONGEST} characters, found {len(value)}; shorten it")


def check_measures(measures: object) -> None:
    """Raise KpnetError for what is not the measures that `kpnet.evaluate` returns."""
    missing = [key for key in NEEDED if key not in measures] if isinstance(measures, Mapping) else None
    if missing is None or missing:
        found = f"found a {type(measures).__name__}" if missing is None else f"it has no {few(missing, len(NEEDED))}"
        raise KpnetError(f"measures: expected what kpnet.evaluate returns; {found}")


def model_card(
    model: Any,
    repo_id: str,
    statements: Statements,
    record: Mapping[str, Any] | None = None,
    files: Sequence[str] = (),
) -> str:
    """Return a model card in Markdown, with the hub's metadata at its top.

    Args:
        model: The `KeypointModel`; its `folder` gives the run whose config names the data.
        repo_id: Owner and name of the repository.
        statements: What the author says. What is not stated is left open visibly.
        record: Measures of the model, of `kpnet.models.record`. None: it was not measured.
        files: Names of the other files of the repository: the figure of the skeleton, exported models.

    Returns:
        The text of `README.md`.
    """
    measures = None if record is None else record["measures"]
    trained = record if record is not None and record.get("of_training") else None
    reliability = []
    if measures is not None and "reliability" in measures:
        reliability = [f"## Reliability\n\n{_reliability(measures, model)}"]
    sections = [
        _head(statements),
        f"# {_text(repo_id.rpartition('/')[2])}\n\n{_summary(model, trained)}",
        f"## Use\n\n{_example(model, repo_id, files)}",
        f"## Keypoints\n\n{_keypoints(model, files)}",
        f"## Measured\n\n{_measured(measures, trained is not None)}",
        *reliability,
        f"## Data\n\n{_data(model, statements)}",
        f"## Intended use\n\n{_intended(statements)}",
        f"## Model\n\n{_model(model, statements)}",
    ]
    return "\n\n".join(sections) + "\n"


def _head(statements: Statements) -> str:
    from huggingface_hub import ModelCardData

    values: dict[str, Any] = {"library_name": "kpnet", "pipeline_tag": "keypoint-detection"}
    if statements.licence is not None:
        identifier = re.sub(r"[^a-z0-9.+]+", "-", statements.licence.lower()).strip("-")
        name = identifier.replace("+", "-").strip("-.") or "custom"  # as the hub wants it: my-license-1.0
        other = {"license": "other"} if identifier == "other" else {"license": "other", "license_name": name}
        values |= {"license": identifier} if identifier in LICENCES - {"other"} else other
    data = ModelCardData(tags=["keypoint-detection", "kpnet", "model_hub_mixin", "pose-estimation"], **values)
    return f"---\n{data.to_yaml()}\n---"


def _summary(model: Any, trained: Mapping[str, Any] | None) -> str:
    config, count = model.config, len(model.skeleton)
    kind = "grey" if config.in_channels == 1 else "colour"
    size = f"fitted into {config.input_size[0]}x{config.input_size[1]} pixels"
    if model.finds_instances:
        what = f"Finds the instances of an image, and {count} keypoints of each, in {kind} images, {size}."
    elif config.crop is not None:
        what = f"Finds {count} keypoints of an instance whose box is given, in {kind} images, {size}."
    else:
        what = f"Finds {count} keypoint{'s' * (count > 1)} of the one instance in each {kind} image, {size}."
    return what if trained is None else f"{what} Trained with kpnet {_text(trained.get('kpnet'))}."


def _example(model: Any, repo_id: str, files: Sequence[str]) -> str:
    boxes = ", boxes=[(40, 30, 200, 190)]" if model.config.crop is not None and not model.finds_instances else ""
    has_confidence = "" if boxes else "  # None where a model has no confidence"
    lines = [
        "```python",
        "# pip install kpnet",
        "import kpnet",
        "",
        f'predictor = kpnet.Predictor("hf://{repo_id}")',
        f'prediction = predictor("photo.jpg"{boxes})',
        "print(prediction.to_frame())  # image, instance, name, x, y, confidence, in pixels of the photo",
        f"print(prediction.confidence){has_confidence}",
        "",
        f'model = kpnet.KeypointModel.from_pretrained("{repo_id}")  # a torch.nn.Module',
        "```",
        "",
        f"On the command line: `kpnet predict hf://{repo_id} photo.jpg --draw`. To train on from it:",
        f"`kpnet train CONFIG model.pretrained=hf://{repo_id}`.",
    ]
    exported = [name for name in files if name.endswith(".onnx")]
    lines += [f"`{name}` is the same model for onnxruntime, without kpnet or torch." for name in exported]
    return "\n".join(lines)


def _keypoints(model: Any, files: Sequence[str]) -> str:
    skeleton = model.skeleton
    figure = f"![The keypoints]({FIGURE})\n\n" if FIGURE in files else ""
    if len(skeleton) > _NAMED:
        return f"{figure}{len(skeleton)} points."
    names = ", ".join(f"`{_text(name).replace('`', '')}`" for name in skeleton.names)
    pairs = f"\n\n{len(skeleton.pairs)} pairs of left and right points swap in a mirrored image."
    return f"{figure}{names}{pairs if skeleton.pairs else ''}"


def _measured(measures: Mapping[str, Any] | None, of_training: bool) -> str:
    if not measures:
        return "Not measured: the run has no validation data, or no record of its measures."
    size = "x".join(map(str, measures["input_size"]))
    what = ("the ", "validation images of the training") if of_training else ("", "images")
    several = measures["samples"] != measures["images"]
    samples, each = (f"{measures['samples']} instances in ", "instances") if several else ("", "images")
    lines = [
        f"On {samples}{what[0]}{measures['images']} {what[1]} ({measures['points']} labelled points), in pixels of "
        f"the model's {size} input. Intervals are of 95 %, over images."
    ]
    lines += ["", "| measure | value | 95 % interval |", "| --- | ---: | ---: |"]
    intervals = measures.get("intervals") or {}
    lines += [_row(row, measures, intervals) for row in _ROWS if measures.get(row[0]) is not None]
    found = measures.get("instances") or {}
    lines += [_row(row, found, {}) for row in _FOUND if row[0] in found]
    notes = [f"NME: by the {_text(measures['nme_by'])}, over {measures['nme_samples']} {each}."]
    notes += [f"Failure rate: an NME above {100 * measures['failure_threshold']:g} %."]
    return "\n".join([*lines, "", " ".join(notes)])


def _row(row: Sequence[Any], measures: Mapping[str, Any], intervals: Mapping[str, Sequence[float]]) -> str:
    key, name, factor, digits, unit = row
    value = measures[key]
    text = "" if value is None else f"{factor * value:.{digits}f} {unit}".strip()
    ends = " to ".join(f"{factor * end:.{digits}f}" for end in intervals.get(key) or ())
    return f"| {name} | {text} | {ends} |"


def _reliability(measures: Mapping[str, Any], model: Any) -> str:
    found = measures["reliability"]
    how = ", each half of them by the calibration of the other half" if found.get("cross_fitted") else ""
    lines = [f"How far the predicted uncertainty agrees with the errors, on the same images{how}:", ""]
    lines += ["| measure | value | 95 % interval |", "| --- | ---: | ---: |"]
    for key, radius in (("ece", "5 %"), ("ece@1%", "1 %")):
        if found.get(key) is not None:
            name = f"Calibration error of the confidence (within {radius} of the longer side)"
            lines.append(f"| {name} | {found[key]:.4f} | |")
    for level, row in found["coverage"].items():
        share, low, high = (100 * row[key] for key in ("measured", "low", "high"))
        name = f"Points inside of the ellipses for {level.replace('%', ' %')}"
        lines.append(f"| {name} | {share:.1f} % | {low:.1f} to {high:.1f} |")
    if model.calibration is not None and not found.get("cross_fitted"):
        lines += ["", "The model may have been calibrated on these very images: on others the agreement may be worse."]
    return "\n".join(lines)


def _data(model: Any, statements: Statements) -> str:
    config = None if model.folder is None else run_config(model.folder)
    lines = [f"- Data: {_stated(statements.data)}", f"- Licence of the data: {_stated(statements.data_licence)}"]
    if config is not None:
        files = [_file(entry.file, entry.limit) for entry in config.data.train]
        form = split_spec(config.data.format, "data.format")[0]
        lines.append(f"- Trained on: {', '.join(files) or 'nothing'}, format {form}")
        unlabelled = [_file(entry.file) for entry in config.data.unlabelled]
        lines += [f"- Images without labels that it learnt from: {', '.join(unlabelled)}"] if unlabelled else []
    return "\n".join(lines)


def _file(name: str | int, limit: int | None = None) -> str:
    """Return a file's name without the folders of the author's machine, and how many of its samples are used."""
    shown = display_name(Path(str(name)).name or ".", 200).replace("`", "")
    return f"`{shown}`" + ("" if limit is None else f" (the first {limit} samples)")


def _intended(statements: Statements) -> str:
    limits = "The measures hold for images like those the model was measured on."
    limits += " Measure it on your own before you rely on it."
    if statements.intended_use is None:
        return f"{NOT_STATED}\n\n{limits}"
    lines = []
    for line in statements.intended_use.strip().splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines.append(indent + _STRUCTURE.sub(r"\\\1", _stated(line)))
    return "\n".join([*lines, "", limits])


def _model(model: Any, statements: Statements) -> str:
    config = model.config
    parameters = sum(each.numel() for each in model.parameters())
    calibrated = "no" if model.calibration is None else f"on {model.calibration.points} labelled points"
    lines = [
        f"- Backbone: `{_text(format_spec(config.backbone))}`",
        f"- Head: `{split_spec(config.head, 'head')[0]}`",
        f"- Parameters: {parameters:,}",
        f"- Calibrated: {calibrated}",
        f"- Licence of the weights: {_stated(statements.licence)}",
        "- Files: `model.safetensors` and `model.yaml`; nothing in them is executed when they are loaded.",
    ]
    return "\n".join(lines)


def _stated(text: str | None) -> str:
    """Return what the author states, whole and on one line."""
    return NOT_STATED if text is None else _escape(printable(" ".join(text.split())))


def _text(text: object) -> str:
    """Return a short text that Markdown shows as it is, on one line."""
    return _escape(display_name(text, 200))


def _escape(text: str) -> str:
    """Return a text without tags or cells."""
    return html.escape(text, quote=False).replace("|", "\\|")
