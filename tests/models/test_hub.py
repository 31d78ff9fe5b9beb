"""Models that are pushed to and fetched from a stand-in for the hub."""

from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, ModelHubMixin, constants
from support.exports import Exports
from support.hub_server import Hub, closed_address, use_hub

from kpnet import KeypointModel, KpnetError, Predictor, build_model, load_model
from kpnet.models.test_time import TestTime
from kpnet.models.watch import FEATURES, WatchReference

PARTS: dict[str, Any] = {
    "backbone": {"name": "conv_sandwich", "channels": [4, 8]},
    "head": {"name": "heatmap", "stride": 2},
    "in_channels": 1,
    "input_size": 32,
}


def small(**options: Any) -> KeypointModel:
    return build_model(**{**PARTS, "num_keypoints": 3, **options}).eval()


def same(first: KeypointModel, second: KeypointModel) -> bool:
    theirs, mine = first.state_dict(), second.state_dict()
    return theirs.keys() == mine.keys() and all(torch.equal(theirs[name], mine[name]) for name in theirs)


@pytest.fixture
def paws(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> KeypointModel:
    """A model that is at me/paws on the hub; the token is set."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    model = small()
    model.push_to_hub("me/paws")
    return model


def test_the_mixin_changes_no_model(tmp_path: Path) -> None:
    model = small()
    assert isinstance(model, ModelHubMixin)
    assert model._hub_mixin_config is None, "arguments of the constructor, which would be written as config.json"
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(other, model)
    (tmp_path / "config.json").write_text("{}")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == "{}", "another program's file stays as it is"
    assert same(KeypointModel.from_pretrained(tmp_path), model)


def test_pushed_and_fetched(hub: Hub, paws: KeypointModel, tmp_path: Path) -> None:
    assert sorted(hub.repos["me/paws"]["main"]) == ["README.md", "model.safetensors", "model.yaml"]
    for fetched in (
        KeypointModel.from_pretrained("me/paws"),
        KeypointModel.from_pretrained("hf://me/paws", revision="main"),
        load_model("hf://me/paws"),
        load_model(Path("hf://me/paws")),
    ):
        assert same(fetched, paws)
        assert not fetched.training
    image = np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)
    expected, found = Predictor(paws)(image), Predictor("hf://me/paws")(image)
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=1e-3)


def test_a_fetched_model_is_not_written_back(paws: KeypointModel, tmp_path: Path) -> None:
    fetched = load_model("hf://me/paws")
    assert fetched.folder is not None
    for write in (fetched.save, fetched.save_pretrained):
        with pytest.raises(KpnetError, match="in the hub's cache"):
            write(fetched.folder)
    assert sorted(file.name for file in fetched.folder.iterdir()) == ["model.safetensors", "model.yaml"]
    fetched.save(tmp_path / "mine")
    assert same(load_model(tmp_path / "mine"), paws)


def test_pretrained_takes_the_backbone_and_the_head(paws: KeypointModel, tmp_path: Path) -> None:
    assert same(small(pretrained="hf://me/paws"), paws)
    plain = small(pretrained="hf://me/paws/model.safetensors")
    assert torch.equal(next(plain.backbone.parameters()), next(paws.backbone.parameters()))


def test_the_path_of_the_first_weights_stays_at_home(hub: Hub, paws: KeypointModel, tmp_path: Path) -> None:
    paws.save(tmp_path / "secret")
    model = small(pretrained=str(tmp_path / "secret"))
    model.push_to_hub("me/next")
    assert not any(b"secret" in data for data in hub.repos["me/next"]["main"].values())
    assert yaml.safe_load(hub.repos["me/next"]["main"]["model.yaml"])["model"]["pretrained"] is False
    assert model.config.pretrained == str(tmp_path / "secret")


def test_the_run_goes_into_the_repository(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, run_copy: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    load_model(run_copy).push_to_hub("me/tiny", licence="mit", data_licence="CC BY 4.0")
    files = hub.repos["me/tiny"]["main"]
    assert sorted(files) == ["README.md", "model.safetensors", "model.yaml", "skeleton.png"]
    assert files["skeleton.png"].startswith(b"\x89PNG")
    card = ModelCard(files["README.md"].decode())
    assert card.data.to_dict()["license"] == "mit"
    assert "| RMSE per coordinate |" in card.text
    assert "Licence of the data: CC BY 4.0" in card.text


@pytest.mark.slow  # an export
def test_an_exported_model_goes_with_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, exports: Exports, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    model, path, _ = exports("dark")
    assert isinstance(model, KeypointModel)
    model.save(tmp_path / "run/final")
    shutil.copy(path, tmp_path / "run/paws.onnx")
    (tmp_path / "run/a.onnx").write_bytes(b"no model")
    load_model(tmp_path / "run").push_to_hub("me/eyes")
    assert "paws.onnx" in hub.repos["me/eyes"]["main"]
    assert "`paws.onnx`" in hub.repos["me/eyes"]["main"]["README.md"].decode()
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    found = Predictor("hf://me/eyes/paws.onnx")(image)
    np.testing.assert_allclose(found.keypoints, Predictor(path)(image).keypoints)
    with pytest.raises(KpnetError, match="exported from other weights"):
        small().push_to_hub("me/other", onnx=path)
    assert "me/other" not in hub.repos


def licence_at(hub: Hub, repo: str) -> dict[str, Any]:
    values = ModelCard(hub.repos[repo]["main"]["README.md"].decode()).data.to_dict()
    return {key: value for key, value in values.items() if key.startswith("license")}


def test_licences(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    for licence, expected in (
        ("CC BY 4.0", {"license": "cc-by-4.0"}),
        ("proprietary", {"license": "other", "license_name": "proprietary"}),
        ("Our own, 1.0 (draft)", {"license": "other", "license_name": "our-own-1.0-draft"}),
        ("©", {"license": "other", "license_name": "custom"}),
    ):
        small().push_to_hub("me/paws", licence=licence)
        assert licence_at(hub, "me/paws") == expected
    monkeypatch.setattr("kpnet.models.card.LICENCES", frozenset({"brand-new"}))
    with pytest.raises(KpnetError, match=r'me/next: the hub does not take the model card: .*"license" must be'):
        small().push_to_hub("me/next", licence="brand-new")
    assert "me/next" not in hub.repos


def test_a_second_push_leaves_no_files_of_other_weights(hub: Hub, paws: KeypointModel) -> None:
    files = hub.repos["me/paws"]["main"]
    others = {"notes.txt", "fold0/a.onnx", "fold0/skeleton.png"}
    files |= dict.fromkeys({"old.onnx", "skeleton.png", "watch.safetensors", *others}, b"")
    paws.push_to_hub("me/paws")
    own = {"README.md", "model.safetensors", "model.yaml"}
    assert files.keys() == own | others


def test_the_summary_of_held_out_data_goes_with_the_model(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    model = small()
    signals = np.random.default_rng(0).standard_normal((20, FEATURES + 50)).astype(np.float32)
    model.watch_reference = WatchReference.from_signals(signals, 70, model, TestTime())
    model.push_to_hub("me/paws")
    assert "watch.safetensors" in hub.repos["me/paws"]["main"]
    for fetched in (load_model("hf://me/paws"), KeypointModel.from_pretrained("me/paws")):
        assert fetched.watch_reference is not None
        assert fetched.watch_reference.images == 70


def test_a_branch_is_created(hub: Hub, paws: KeypointModel) -> None:
    hub.repos["me/paws"]["main"]["README.md"] = b"main"
    for _ in range(2):
        paws.push_to_hub("me/paws", branch="v2")
    assert hub.repos["me/paws"]["main"]["README.md"] == b"main"
    assert hub.repos["me/paws"]["v2"]["README.md"].startswith(b"---")
    with pytest.raises(KpnetError, match=r'no revision "refs/pr/7"; there are main, v2'):
        paws.push_to_hub("me/paws", branch="refs/pr/7")


def test_a_model_is_built_of_one_commit(hub: Hub, paws: KeypointModel) -> None:
    hub.requests.clear()
    small(pretrained="hf://me/paws")
    assert (
        hub.requests.count("GET api/models/me/paws/revision/main") + hub.requests.count("GET api/models/me/paws") == 1
    )


def test_other_files_of_a_folder_stay(run_copy: Path, tmp_path: Path) -> None:
    model, folder = load_model(run_copy), tmp_path / "mine"
    folder.mkdir()
    (folder / "skeleton.png").write_bytes(b"a friend")
    with pytest.raises(KpnetError, match=r"skeleton\.png: exists"):
        model.save_pretrained(folder)
    assert [file.name for file in folder.iterdir()] == ["skeleton.png"]
    model.save_pretrained(run_copy / "final")
    model.save(folder)
    model.save_pretrained(folder)
    assert (folder / "skeleton.png").read_bytes() == (run_copy / "final/skeleton.png").read_bytes()


def test_a_card_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    small().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("measures", "found"),
    [({"input_size": [32, 32]}, "no images, samples, points"), ({}, "no input_"), ("x", "a str")],
)
def test_measures_of_another_kind_are_refused(tmp_path: Path, measures: Any, found: str) -> None:
    with pytest.raises(KpnetError, match=rf"^measures: expected what kpnet\.evaluate returns; .*{found}"):
        small().save_pretrained(tmp_path, model_card_kwargs={"measures": measures})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_loaded(hub: Hub, paws: KeypointModel, tmp_path: Path) -> None:
    for name, words in (
        ("runs/paws", ("runs/paws: no such folder", "no such repository")),
        ("./paws", ("./paws: no such folder", "OWNER/NAME")),
        ("hf://me/paws@v9", ("hf://me/paws@v9", 'no revision "v9"')),
        ("hf://me/paws/model.onnx", ("exported model",)),
    ):
        with pytest.raises(KpnetError) as caught:
            KeypointModel.from_pretrained(name)
        assert all(word in str(caught.value) for word in words), caught.value
    paws.save(tmp_path)
    with pytest.raises(KpnetError, match="no revision v1"):
        KeypointModel.from_pretrained(tmp_path, revision="v1")


def test_what_cannot_be_pushed(hub: Hub, monkeypatch: pytest.MonkeyPatch, trained: Path, tmp_path: Path) -> None:
    model = small()
    with pytest.raises(KpnetError, match="hf auth login"):
        model.push_to_hub("me/paws")
    with pytest.raises(KpnetError, match="expected hf://OWNER/NAME"):
        model.push_to_hub("paws")
    with pytest.raises(KpnetError, match="branch="):
        model.push_to_hub("hf://me/paws@v1")
    with pytest.raises(KpnetError, match="licence: expected a text, found ''"):
        model.push_to_hub("me/paws", licence="")
    with pytest.raises(KpnetError, match=r"^measures: expected what kpnet\.evaluate returns; it has no input_size, im"):
        model.push_to_hub("me/paws", measures={"x": 1})
    with pytest.raises(KpnetError, match="load_model returns"):
        Predictor(trained).model.push_to_hub("me/paws")  # type: ignore[operator]
    assert not hub.repos
    use_hub(monkeypatch, closed_address(), tmp_path / "cache")
    with pytest.raises(KpnetError, match="no connection to http"):
        model.push_to_hub("me/paws")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(KpnetError, match="HF_HUB_OFFLINE is set"):
        model.push_to_hub("me/paws")
