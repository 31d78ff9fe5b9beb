"""Model cards: what they say, and what they leave open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from kpnet import KeypointModel, KpnetError, build_model, evaluate, load_model
from kpnet.data import SyntheticFaces
from kpnet.models.calibration import Calibration
from kpnet.models.card import LONGEST, NOT_STATED, Statements, model_card
from kpnet.models.record import make_record


def faces() -> KeypointModel:
    parts: dict[str, Any] = {"backbone": {"name": "conv_sandwich", "channels": [4, 8]}, "head": "heatmap"}
    return build_model(**parts, skeleton="facial15", in_channels=1, input_size=96).eval()


def test_the_measures_with_their_intervals() -> None:
    model = faces()
    measures = evaluate(model, SyntheticFaces(12))
    text = model_card(model, "me/faces", Statements(), make_record(model, measures), ("skeleton.png", "faces.onnx"))
    low, high = measures["intervals"]["rmse_px"]
    assert f"| RMSE per coordinate | {measures['rmse_px']:.3f} px | {low:.3f} to {high:.3f} |" in text
    assert f"(within 5 % of the longer side) | {measures['reliability']['ece']:.4f} |" in text
    for words in (
        "![The keypoints](skeleton.png)",
        "`faces.onnx`",
        "hf://me/faces",
        "`nose_tip`",
        "96x96",
        "On 12 images (",
        "Finds 15 keypoints of the one instance in each grey image, fitted into 96x96 pixels.",
    ):
        assert words in text, words
    assert "Trained with" not in text, "no record of the training"
    record = {**make_record(model, measures), "of_training": True, "kpnet": "0.0.1"}
    text = model_card(model, "me/faces", Statements(), record)
    assert "On the 12 validation images of the training (" in text
    record["measures"] = {**measures, "images": 5}
    text = model_card(model, "me/faces", Statements(), record)
    assert "On 12 instances in the 5 validation images of the training (" in text
    assert "over 12 instances." in text
    assert "Trained with kpnet 0.0.1." in text


def test_what_is_not_stated_is_left_open() -> None:
    model = faces()
    text = model_card(model, "me/faces", Statements())
    assert text.count(NOT_STATED) == 4
    assert "Not measured" in text
    assert "## Reliability" not in text
    assert ModelCard(text).data.to_dict().get("license") is None
    stated = Statements(licence="CC BY-NC 4.0 | mine", data="<b>photos</b>", data_licence="ODbL", intended_use="Games.")
    text = model_card(model, "me/faces", stated)
    assert NOT_STATED not in text
    assert "&lt;b&gt;photos" in text
    metadata = ModelCard(text).data.to_dict()
    assert (metadata["license"], metadata["license_name"]) == ("other", "cc-by-nc-4.0-mine")
    with pytest.raises(KpnetError, match="data_licence: expected a text"):
        Statements(data_licence=" ")


def test_reliability_on_the_images_of_the_calibration() -> None:
    model, words = faces(), "may have been calibrated on these very images"
    measures = evaluate(model, SyntheticFaces(12))

    def card(measures: dict[str, Any]) -> str:
        return model_card(model, "me/faces", Statements(), make_record(model, measures))

    assert words not in card(measures), "it has no calibration"
    model.calibration = Calibration([0.0] * 15, 1.0, 5.0, 180)
    measures = evaluate(model, SyntheticFaces(12))
    assert words in card(measures).partition("## Reliability")[2].partition("## Data")[0]
    measures["reliability"]["cross_fitted"] = True
    assert words not in card(measures)
    assert "each half of them by the calibration of the other half" in card(measures)


def test_statements_stay_whole() -> None:
    use = "\n".join(
        ["Games.", "", "  - indented", "# no heading", "```", *(f"- not for <use> {i} of many\t|" for i in range(250))]
    )
    assert len(use) > 5000
    text = model_card(faces(), "me/faces", Statements(data="first\n\nsecond\x1b[0m", intended_use=use))
    assert "- Data: first second\\x1b[0m\n" in text
    shown = text.partition("## Intended use\n\n")[2].partition("\n\nThe measures hold")[0]
    shown_as = {"<use>": "&lt;use&gt;", "\t|": " \\|", "# no": "\\# no", "```": "\\```"}
    for given, expected in shown_as.items():
        use = use.replace(given, expected)
    assert shown == use


def test_a_statement_that_is_too_long_is_refused() -> None:
    Statements(intended_use="x" * LONGEST)
    with pytest.raises(KpnetError, match="intended_use: expected at most 10000 characters, found 10001"):
        Statements(intended_use="x" * (LONGEST + 1))


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    model = faces()
    model.save(tmp_path / "me/faces")
    cv2.imwrite(str(tmp_path / "photo.jpg"), SyntheticFaces(1).read(0)[0])
    monkeypatch.chdir(tmp_path)
    code = model_card(model, "me/faces", Statements()).partition("```python\n")[2].partition("```")[0]
    exec(code.replace("hf://me/faces", "me/faces"), {})
    assert "photo.jpg" in capsys.readouterr().out


def test_no_folder_of_the_authors_machine(trained: Path) -> None:
    text = model_card(load_model(trained), "me/tiny", Statements())
    assert "- Trained on: `train.csv`, format kaggle_csv\n" in text
    assert str(trained.parent) not in text
    assert "without labels" not in text


def test_all_of_the_data_is_named(run_copy: Path) -> None:
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    config["data"]["train"] = [{"file": "train.csv", "limit": 30}, "/home/me/more.csv"]
    config["data"]["unlabelled"] = ["/home/me/frames", {"file": "street.mp4", "frames": 20}]
    (run_copy / "config.yaml").write_text(yaml.safe_dump(config))
    text = model_card(load_model(run_copy), "me/tiny", Statements())
    assert "- Trained on: `train.csv` (the first 30 samples), `more.csv`, format kaggle_csv\n" in text
    assert "- Images without labels that it learnt from: `frames`, `street.mp4`\n" in text
    assert "/home" not in text
